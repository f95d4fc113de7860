"""The draws that methods are built of: exact, in O(n), from a generator that is given."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def sample(n: int, k: int, rng: torch.Generator) -> Tensor:
    """Draw a uniform k-subset of range(n): (k,) int64, sorted. Exact, in O(n) time and 3 bytes a sample.

    Every index first tosses a 16-bit coin that is a little too unlikely, then uniform draws fill up to k. Given
    how many the coins let in, all subsets of that size are equally likely, and so are they after the filling.
    """
    if not 0 <= k <= n:
        raise ValueError(f"cannot draw {k} of {n} samples without replacement")
    if k == n:
        return torch.arange(n)
    generator = np.random.Generator(np.random.SFC64(int(torch.randint(2**63 - 1, (1,), generator=rng))))
    few = min(k, n - k)  # the smaller side is drawn, so that the filling seldom misses
    threshold = int(max(0.0, few - 4 * few**0.5) / n * 2**16)
    chosen = np.ones(n, dtype=bool)
    missing = -1
    while missing < 0:
        coins = generator.integers(0, 2**64, (n + 3) // 4, dtype=np.uint64).view(np.uint16)[:n]
        np.less(coins, threshold, out=chosen)
        missing = few - int(np.count_nonzero(chosen))
    while missing > 0:
        chosen[generator.integers(0, n, missing)] = True
        missing = few - int(np.count_nonzero(chosen))
    return torch.from_numpy(np.flatnonzero(chosen if few == k else ~chosen))


def top(scores: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """Return the positions of the k largest of `scores` (n,), sorted: (k,) int64. O(n) time.

    Ties at the threshold are broken uniformly at random; NaN ranks with +inf.
    """
    n = len(scores)
    if not 0 <= k <= n:
        raise ValueError(f"cannot take the {k} largest of {n} scores")
    if k in (0, n):
        return torch.arange(k)
    values = scores.nan_to_num(nan=float("inf"), posinf=float("inf"), neginf=float("-inf")).numpy()
    threshold = np.partition(values, n - k)[n - k]
    chosen = np.flatnonzero(values >= threshold)
    if len(chosen) > k:
        above, tied = np.flatnonzero(values > threshold), np.flatnonzero(values == threshold)
        chosen = np.sort(np.concatenate([above, tied[sample(len(tied), k - len(above), rng).numpy()]]))
    return torch.from_numpy(chosen)


def others(n: int, indices: Tensor) -> Tensor:
    """Return what of range(n) is not among `indices`, sorted: (n - k,) int64."""
    outside = torch.ones(n, dtype=torch.bool)
    outside[indices] = False
    return where(outside)


def where(mask: Tensor) -> Tensor:
    """Return the positions at which `mask` (n,) is true, sorted: (k,) int64. NumPy finds them faster than torch."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))
