"""The building blocks of subset selection, each against the direct computation with whole matrices."""

import sys

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from dpbench import greedy as blocks
from dpbench import kernels
from dpbench.errors import UsageError
from dpbench.kernels import vectors


def points(n=60, d=5, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradients(n=40, classes=4, d=3, seed=0):
    logits, labels = points(n, classes, seed), torch.arange(n) % classes
    return logits, labels, points(n, d, seed + 100)


def naive(value, n, k):
    """Plain greedy: evaluate the set function of every candidate at every step."""
    picks: list[int] = []
    for _ in range(k):
        picks.append(max((i for i in range(n) if i not in picks), key=lambda i: value([*picks, i])))
    return picks


def test_factored_gradients_are_those_of_autograd():
    _, labels, h = gradients()
    weight = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    losses = torch.nn.functional.cross_entropy(h @ weight.T + bias, labels, reduction="none")
    rows = [torch.cat([x.flatten() for x in torch.autograd.grad(v, (weight, bias), retain_graph=True)]) for v in losses]
    full = torch.stack(rows)
    g = kernels.last_layer((h @ weight.T + bias).detach(), labels, h)
    some, others = torch.tensor([3, 0, 17]), torch.tensor([1, 39])
    torch.testing.assert_close(g.products(some), full[some] @ full.T)
    torch.testing.assert_close(g.products(some, others), full[some] @ full[others].T)
    torch.testing.assert_close(g.squares(), full.square().sum(1))
    mean = full.mean(0)
    torch.testing.assert_close(g.dot(g.sum() / 40), full @ mean)
    distance, cosine = torch.cdist(full, full), torch.nn.functional.cosine_similarity(full[:, None], full, dim=2)
    torch.testing.assert_close(kernels.squared_distance(g)(some), distance[some].square(), atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(kernels.similarity(kernels.unit(g))(some, others), 0.5 + 0.5 * cosine[some][:, others])


def test_error_of_confident_samples_does_not_cancel():
    logits = torch.tensor([[30.0, 0.0, 1.0]])
    g = kernels.last_layer(logits, torch.tensor([0]), torch.zeros(1, 2))
    expected = torch.tensor([0.0, 1.0, np.e]) * np.exp(-30.0)
    expected[0] = -expected.sum()
    torch.testing.assert_close(g.e[0], expected.float(), rtol=1e-2, atol=0)
    assert float(logits.softmax(1)[0, 0]) - 1 == 0  # what single precision makes of it


def test_symmetric_kl():
    log_p = points(12, 4).log_softmax(1)
    p = log_p.exp()
    kl = (p[:, None] * (log_p[:, None] - log_p)).sum(2)
    torch.testing.assert_close(kernels.symmetric_kl(points(12, 4))(torch.arange(12)), (kl + kl.T) / 2)


def similarities(n=50, d=3, seed=0):
    """The kernel, the sums of its rows, and the whole matrix."""
    x = points(n, d, seed)
    g = kernels.unit(vectors(x))
    s = 0.5 + 0.5 * torch.nn.functional.cosine_similarity(x[:, None], x, dim=2)
    torch.testing.assert_close(kernels.total_similarity(g), s.sum(1))
    return kernels.similarity(g), kernels.total_similarity(g), s


@pytest.mark.parametrize("kept", [1, 6, 256])
@pytest.mark.parametrize("seed", range(20))
def test_facility_location_picks_what_naive_greedy_picks(seed, kept, monkeypatch):
    monkeypatch.setattr(blocks, "KEPT", kept)  # so small that rows are computed again
    monkeypatch.setattr(blocks, "BLOCK", 300)
    monkeypatch.setattr(blocks, "AHEAD", 2)
    kernel, total, s = similarities(seed=seed)
    picks = blocks.facility_location(kernel, total, 15)
    assert len(picks.unique()) == 15
    covered = torch.zeros(50, dtype=torch.float64)
    for pick in picks.tolist():  # the largest gain, or as large: two samples that cover only each other tie
        gain = (s - covered).clamp(min=0).sum(1)
        assert float(gain[pick]) == pytest.approx(float(gain.max()), abs=1e-9)
        covered = torch.maximum(covered, s[pick])
    owner = blocks.covering(kernel, picks, 50)
    torch.testing.assert_close(s[picks[owner], torch.arange(50)], s[picks].amax(0))
    assert picks[owner[picks]].tolist() == picks.tolist()
    assert len(blocks.facility_location(kernel, total, 50).unique()) == 50


def test_rows_that_are_kept_are_not_computed_again():
    """A few computations for each row, of 40 picks."""
    kernel, total, _ = similarities(600, 3)
    rows = 0

    def counting(i, j=kernels.EVERY):
        nonlocal rows
        rows += len(i)
        return kernel(i, j)

    blocks.facility_location(counting, total, 40)
    assert rows < 4 * 600


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_stochastic_greedy_keeps_its_bound(epsilon):
    """1 - 1/e - epsilon of the best in expectation, which random sets miss: few samples are in one of the clusters."""
    size = torch.tensor([70, 40, 30, 20])
    best, bound = float(size.sum()), 1 - 1 / np.e - epsilon
    lazy, random = [], []
    for seed in range(10):
        rng = torch.Generator().manual_seed(seed)
        group = torch.cat([torch.arange(4).repeat_interleave(size), torch.arange(4, 2844)])  # the others are alone
        group = group[torch.randperm(3000, generator=rng)]

        def kernel(i, j=kernels.EVERY, group=group):
            return (group[i][:, None] == group[j]).float()

        picks = blocks.stochastic_facility_location(kernel, 3000, 4, epsilon, rng)
        lazy.append(float(kernel(picks).amax(0).sum()) / best)
        for _ in range(80):
            random.append(float(kernel(torch.randperm(3000, generator=rng)[:4]).amax(0).sum()) / best)
    assert np.mean(random) < bound - 4 * np.std(random) / len(random) ** 0.5
    assert np.mean(lazy) >= bound


def test_stochastic_greedy_is_random_and_exact_where_the_sample_is_everything():
    for seed in range(5):
        kernel, total, s = similarities(seed=seed)
        exact = float(s[blocks.facility_location(kernel, total, 8)].amax(0).sum())
        rng = torch.Generator().manual_seed(seed)
        for epsilon in (0.1, 0.5):
            sets = [blocks.stochastic_facility_location(kernel, 50, 8, epsilon, rng) for _ in range(20)]
            assert len({tuple(picks.tolist()) for picks in sets}) > 10
            assert all(len(picks.unique()) == 8 for picks in sets)
        whole = blocks.stochastic_facility_location(kernel, 50, 8, np.exp(-8), rng)
        assert float(s[whole].amax(0).sum()) == pytest.approx(exact)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ahead", [1, 64])
def test_rows_computed_ahead_change_nothing(seed, ahead, monkeypatch):
    monkeypatch.setattr(blocks, "AHEAD", ahead)
    x = points(60, 4, seed)
    d = torch.cdist(x, x)
    centres = [7]
    while len(centres) < 20:
        centres.append(int(d[centres].amin(0).argmax()))
    assert blocks.k_center(kernels.euclidean(x), 60, 20, 7).tolist() == centres
    herd = naive(lambda chosen: -float((len(chosen) * x.mean(0) - x[chosen].sum(0)).norm()), 60, 20)
    assert blocks.herding(x, 20).tolist() == herd


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_matching_pursuit(ridge, seed):
    logits, labels, h = gradients(seed=seed)
    g = kernels.last_layer(logits, labels, h)
    full = torch.einsum("ic,id->icd", g.e, g.f).flatten(1)
    target = full.mean(0)
    picks, weights = blocks.matching_pursuit(g, g.sum() / 40, 20, ridge)
    chosen: list[int] = []
    residual = target
    while len(chosen) < 20:
        along = full @ residual
        along[chosen] = -np.inf
        chosen.append(int(along.argmax()))
        a = full[chosen]
        w = torch.linalg.solve(a @ a.T + ridge * torch.eye(len(chosen)), a @ target)
        residual = target - w @ a
    assert picks.tolist() == chosen
    stacked = np.vstack([a.numpy().T, ridge**0.5 * np.eye(20)])
    best = nnls(stacked, np.concatenate([target.numpy(), np.zeros(20)]))[0]
    np.testing.assert_allclose(weights.numpy(), best, atol=1e-6)


def test_non_negative():
    a, b = points(30, 12), points(30, 1, 4)[:, 0]
    best = nnls(a.numpy(), b.numpy())[0]
    assert 0 < (best == 0).sum() < 12
    got = blocks.non_negative(a.T @ a, a.T @ b, torch.zeros(12, dtype=torch.float64))
    np.testing.assert_allclose(got, best, atol=1e-7)


def test_kronecker_inverse():
    logits, labels, h = gradients()
    g = kernels.last_layer(logits, labels, h)
    p = logits.softmax(1)
    a = torch.stack([q.diag() - q.outer(q) for q in p]).mean(0)
    b = (g.f[:, :, None] * g.f[:, None]).mean(0)
    a, b = (m + 0.1 * m.diag().mean() * torch.eye(len(m), dtype=m.dtype) for m in (a, b))
    full = torch.einsum("ic,id->icd", g.e, g.f).flatten(1)
    expected = torch.linalg.solve(torch.kron(a, b), full.T).T
    got = kernels.kronecker_inverse(g, logits, 0.1)
    torch.testing.assert_close(torch.einsum("ic,id->icd", got.e, got.f).flatten(1), expected)


def test_neighbours(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 100)
    x = points(30, 3)
    d = torch.cdist(x, x).fill_diagonal_(np.inf)
    near, which = blocks.neighbours(x, 4)
    torch.testing.assert_close(near, d.sort(1).values[:, :4])
    assert torch.equal(which, d.argsort(1)[:, :4])
    assert blocks.neighbours(x[:3], 9)[1].shape == (3, 2)


def test_approximate_neighbours():
    pytest.importorskip("faiss")
    x = torch.cat([points(100, 8, seed=c) + 3 * points(1, 8, seed=100 + c) for c in range(20)])
    x[7] = x[3]
    exact = blocks.neighbours(x, 5)
    near, which = blocks.neighbours(x, 5, approximate=True)
    many = blocks.neighbours(x, 1500, approximate=True)
    assert not (which == torch.arange(2000)[:, None]).any(), "no sample is its own neighbour"
    torch.testing.assert_close(near, (x[:, None] - x[which]).norm(dim=2), atol=1e-3, rtol=1e-4)
    assert which[3, 0] == 7
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(which.tolist(), exact[1].tolist(), strict=True)])
    assert recall > 0.95
    assert not torch.equal(which, exact[1]), "the exact search has not run"
    torch.testing.assert_close(many[0], blocks.neighbours(x, 1500)[0], atol=1e-2, rtol=1e-4)


def gaussian(n):
    return points(n, 4)


def in_a_subspace(n):
    return points(n, 5) @ points(5, 64, 3)


def unequal_clusters(n):
    return points(n, 32) + 3 * points(30, 32, 1)[(30 * torch.linspace(0, 0.999, n) ** 2).long()]


@pytest.mark.parametrize("made", [gaussian, in_a_subspace, unequal_clusters])
def test_approximate_neighbours_miss_few(made):
    pytest.importorskip("faiss")
    x = made(3000)
    exact, got = (blocks.neighbours(x, 5, approximate)[1].tolist() for approximate in (False, True))
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(got, exact, strict=True)]) >= 0.95


def test_approximate_neighbours_of_few_samples_print_nothing(capfd):
    pytest.importorskip("faiss")
    blocks.neighbours(points(200, 4), 5, approximate=True)
    assert capfd.readouterr() == ("", "")


def test_without_faiss_approximate_neighbours_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match="approximate=true needs faiss: pip install"):
        blocks.neighbours(points(30, 4), 5, approximate=True)


def test_k_means_is_a_fixed_point_and_finds_separate_clusters():
    x = torch.cat([points(20, 2) + 100 * c for c in range(3)])
    best = np.inf
    for seed in range(8):  # random starts: the best of a few
        centres, cluster = blocks.k_means(x, 3, torch.Generator().manual_seed(seed))
        assert torch.equal(cluster, torch.cdist(x, centres).argmin(1))
        for c in cluster.unique():
            torch.testing.assert_close(centres[c], x[cluster == c].mean(0))
        best = min(best, float((x - centres[cluster]).square().sum()))
    parts = x.view(3, 20, 2)
    assert best == pytest.approx(float((parts - parts.mean(1, keepdim=True)).square().sum()))


def test_guard(monkeypatch):
    blocks.guard("small", 1e6, 1e6)
    with pytest.raises(TimeoutError, match=r"big would take about .* hours.*balanced=true"):
        blocks.guard("big", 1e18, 1)
    with pytest.raises(MemoryError, match=r"wide would take about 3.73e\+03 GB"):
        blocks.guard("wide", 1, 1e12)
    monkeypatch.setenv("DPBENCH_SELECT_GB", "1e5")
    blocks.guard("wide", 1, 1e12)
    for variable in ("DPBENCH_SELECT_HOURS", "DPBENCH_SELECT_GB"):
        for written in ("abc", "0", "-1", "nan", ""):
            with monkeypatch.context() as patch:
                patch.setenv(variable, written)
                with pytest.raises(UsageError, match=f"{variable} = '{written}' is not a positive number"):
                    blocks.guard("small", 1, 1)
