"""OrderDP's selection frequencies against Theorem 1: P_j = (s/n) P[Hypergeom(n-1, j-1, s-1) <= q-1], j the rank."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2, hypergeom

from dpbench import Signals, Task, load_method

TRIALS = 8_000


def both_kept(n: int, s: int, q: int) -> np.ndarray:
    """(n, n) probabilities that ranks i and j are both kept, on the diagonal P_j: a harder candidate is kept too."""
    j = np.arange(1, n + 1)
    later = np.maximum(j[:, None], j[None, :])
    joint = s * (s - 1) / (n * (n - 1)) * hypergeom(n - 2, later - 2, s - 2).cdf(q - 2)
    np.fill_diagonal(joint, s / n * hypergeom(n - 1, j - 1, s - 1).cdf(q - 1))
    return joint


@pytest.mark.parametrize(("n", "explore", "keep"), [(40, 0.8, 0.3), (40, 0.5, 0.4), (41, 1.0, 0.5), (37, 0.3, 0.3)])
def test_each_rank_is_kept_as_often_as_the_theorem_says(n: int, explore: float, keep: float) -> None:
    method = load_method(f"orderdp[explore={explore}]")
    method.setup(Task(n, 10, 8, keep), torch.Generator().manual_seed(0))
    rank_of = torch.randperm(n, generator=torch.Generator().manual_seed(1))  # sample i has rank rank_of[i], from 0
    method.observe(Signals(torch.arange(n), {"loss": 5.0 - rank_of.float()}, 0))
    q, s = round(keep * n), round(explore * n)
    counts = np.zeros(n)
    for epoch in range(TRIALS):
        chosen = method.select(epoch).indices
        assert len(chosen) == q
        counts[rank_of[chosen].numpy()] += 1
    joint = both_kept(n, s, q)
    share = np.diag(joint)
    assert share.sum() == pytest.approx(q)
    assert (counts[share < 1e-12] == 0).all()
    assert (counts[share > 1 - 1e-12] == TRIALS).all()
    often = TRIALS * share > 5  # where the normal approximation holds
    covariance = (joint - np.outer(share, share))[np.ix_(often, often)]
    values, vectors = np.linalg.eigh(covariance)
    free = values > 1e-4  # the counts of an epoch add up to q
    distance = vectors.T[free] @ (counts[often] / TRIALS - share[often])
    statistic = TRIALS * float((distance**2 / values[free]).sum()) if free.any() else 0.0
    assert chi2(max(int(free.sum()), 1)).sf(statistic) > 1e-4
