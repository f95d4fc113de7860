"""zcore: rounds against the released algorithm's steps in NumPy, and the triangular distribution's quantiles."""

import numpy as np
import pytest
import torch
from dpbench.methods.zcore import triangular
from scipy import stats

from dpbench.method import Signals


def shown(make, text, h, keep=0.5):
    method = make(text, n=len(h), keep=keep)
    method.observe(Signals(torch.arange(len(h)), {"embedding": h}, 0, proxy_run=0))
    return method


@pytest.mark.parametrize(("near", "power", "dims"), [(1000, 4.0, 2), (5, 1.0, 3)])
def test_scores_are_the_papers(make, near, power, dims):
    """The same draws, and then each round in the paper's words."""
    h = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    h[7] = h[3]  # a sample with a twin gives it the whole penalty
    method = shown(make, f"zcore[rounds=40,near={near},power={power},dims={dims}]", h)
    rng = torch.Generator()
    rng.set_state(method.rng.get_state())
    method.select(0)
    x = h.double().numpy()
    low, mode, high = x.min(0), np.sort(x, 0)[(len(x) - 1) // 2], x.max(0)
    expected = torch.rand(50, generator=rng, dtype=torch.float64).numpy()
    for _ in range(40):
        dim = torch.randperm(6, generator=rng)[:dims].numpy()
        u = torch.rand(dims, generator=rng).double().numpy()
        width = high[dim] - low[dim]
        point = stats.triang.ppf(u, (mode[dim] - low[dim]) / width, low[dim], width)
        i = np.abs(x[:, dim] - point).sum(1).argmin()
        expected[i] += 1
        distance = np.abs(x[:, dim] - x[i, dim]).sum(1)
        order = [j for j in distance.argsort(kind="stable") if j != i][:near]
        if distance[order[0]] == 0:
            expected[order[0]] -= 1
        else:
            penalty = distance[order] ** -power
            expected[order] -= penalty / penalty.sum()
    found = method.scores().numpy()
    assert np.delete(found, [3, 7]) == pytest.approx(np.delete(expected, [3, 7]), abs=1e-4)
    assert found[[3, 7]].sum() == pytest.approx(expected[[3, 7]].sum(), abs=1e-4), "which of the twins is not said"


def test_triangular_is_scipys_quantile():
    u = torch.linspace(0.01, 0.99, 50)
    low, mode, high = -1.0, 0.5, 3.0
    found = triangular(*(torch.full((50,), value) for value in (low, mode, high)), u)
    assert found.numpy() == pytest.approx(stats.triang.ppf(u.numpy(), 1.5 / 4, low, 4.0), abs=1e-5)
    flat = torch.tensor([2.0])
    assert triangular(flat, flat, flat, torch.tensor([0.3])).item() == pytest.approx(2.0)


def test_lone_samples_rank_before_a_crowd(make):
    """Coverage goes to who is alone in his region, redundancy to the crowd."""
    rng = torch.Generator().manual_seed(3)
    crowd, lone = 0.01 * torch.randn(90, 2, generator=rng), torch.linspace(1, 4, 10)[:, None].repeat(1, 2)
    method = shown(make, "zcore[rounds=300]", torch.cat([crowd, lone]), keep=0.1)
    method.select(0)
    assert method.scores()[90:].mean() > 1 + method.scores()[:90].mean()
