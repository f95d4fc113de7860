"""semdedup: against the pairs written out, and what it is for: one of each group of repeats stays."""

import numpy as np
import pytest
import torch
from dpbench.methods.semdedup import ROUNDS
from torch.nn.functional import normalize

from dpbench.greedy import k_means
from dpbench.method import Signals


def shown(make, text, h, keep):
    method = make(text, n=len(h), keep=keep)
    method.observe(Signals(torch.arange(len(h)), {"embedding": h}, 0, proxy_run=0))
    return method


def repeats(h, centres, cluster, first):
    """M_j in the paper's words: the largest cosine to a sample of the cluster that stands before j."""
    h, centres = normalize(h.double()).numpy(), normalize(centres.double()).numpy()
    found = np.full(len(h), -1.0)
    near = (h * centres[cluster]).sum(1) * (1 if first == "hard" else -1)
    for j in range(len(h)):
        before = [i for i in range(len(h)) if cluster[i] == cluster[j] and near[i] < near[j]]
        found[j] = max([h[i] @ h[j] for i in before], default=-1.0)
    return found


@pytest.mark.parametrize("first", ["hard", "easy"])
@pytest.mark.parametrize("clusters", [1, 4])
def test_scores_are_the_papers(make, first, clusters):
    h = torch.randn(60, 3, generator=torch.Generator().manual_seed(clusters))
    method = shown(make, f"semdedup[clusters={clusters},first={first}]", h, keep=0.5)
    state = method.rng.get_state()
    chosen = method.select(0).indices
    method.rng.set_state(state)
    centres, cluster = k_means(normalize(h), clusters, method.rng, ROUNDS)
    expected = repeats(h, centres, cluster.numpy(), first)
    assert -method.scores().numpy() == pytest.approx(expected, abs=1e-6)
    dropped = np.setdiff1d(np.arange(60), chosen)
    assert expected[chosen].max() <= expected[dropped].min() + 1e-6


def test_of_each_group_of_repeats_one_stays(make):
    rng = torch.Generator().manual_seed(0)
    distinct = torch.randn(20, 8, generator=rng)
    h = distinct.repeat_interleave(5, 0) + 1e-4 * torch.randn(100, 8, generator=rng)
    kept = shown(make, "semdedup[clusters=3]", h, keep=0.2).select(0).indices
    assert (kept // 5).tolist() == list(range(20))


def test_a_random_order_is_drawn_from_the_methods_generator(make):
    h = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    chosen = [shown(make, "semdedup[clusters=1,first=random]", h, keep=0.3).select(0).indices for _ in range(2)]
    assert torch.equal(*chosen)
