"""uniform_epoch: exact sizes, uniform subsets, and a walk that uses all before it repeats any."""

from itertools import combinations

import pytest
import torch
from scipy.stats import chisquare

from dpbench.draws import sample


@pytest.mark.parametrize(("n", "k"), [(10, 4), (10, 7), (9, 3), (5, 5), (7, 1)])
def test_the_walk_uses_every_sample_before_it_repeats_any(make, n, k):
    method = make("uniform_epoch[replace=false]", n=n, keep=k / n, labels=None)
    uses = torch.zeros(n, dtype=torch.int64)
    for epoch in range(12):
        chosen = method.select(epoch).indices
        assert len(chosen.unique()) == k
        uses[chosen] += 1
        drawn = (epoch + 1) * k
        assert int(uses.min()) == drawn // n
        assert int(uses.max()) == -(-drawn // n)


@pytest.mark.parametrize("replace", ["true", "false"])
def test_subsets_are_uniform_in_any_epoch(make, replace):
    subsets = dict.fromkeys(combinations(range(5), 2), 0)
    method = make(f"uniform_epoch[replace={replace}]", n=5, keep=0.4, labels=None)
    overlap = 0
    for seed in range(3000):
        method.setup(method.task, torch.Generator().manual_seed(seed))
        third, fourth = [set(method.select(epoch).indices.tolist()) for epoch in range(4)][2:]
        subsets[tuple(sorted(third))] += 1
        overlap += len(third & fourth)
    assert chisquare(list(subsets.values())).pvalue > 1e-3
    # the walk's third epoch is filled up from the second walk, the fourth takes 2 of the 4 others in that
    assert overlap / 3000 == pytest.approx(0.5 if replace == "false" else 0.8, abs=0.05)


def test_by_default_each_epoch_is_one_draw(make):
    method, rng = make("uniform_epoch"), torch.Generator().manual_seed(3)
    for epoch in range(3):
        assert torch.equal(method.select(epoch).indices, sample(60, 24, rng))


@pytest.mark.parametrize("text", ["uniform_epoch", "uniform_epoch[replace=false]"])
def test_state(resumes, order_free, text):
    resumes(text)
    order_free(text)
