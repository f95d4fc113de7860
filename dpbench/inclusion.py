"""How often each rank is kept: s of n ranked samples are drawn uniformly, the q of highest score among them are kept.

Rank 1 is the sample of highest score. Seen from rank j, the other s - 1 candidates are a uniform draw from n - 1 ranks,
and j is kept unless q of them rank before it. So P_j = (s/n) P[X >= j] where X, the q-th smallest rank in such a draw,
is negative hypergeometric. One running product over the ranks gives the law of X up to a constant, its sum the
constant. This is more accurate than logarithms of factorials, which lose 8 digits at n = 1e8. Time, and 8 bytes a
rank, are spent only where P_j differs from s/n and from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, lgamma
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_UNDERFLOW = 690.0  # ranks less likely than exp(-690) = 1e-300 times the mode are left out: all numbers stay normal
_BLOCK = 2**15  # ranks at a time: the temporaries stay in the cache


def inclusion_probability(
    n: int,
    s: int,
    q: int,
    ranks: ArrayLike | None = None,
    *,
    floor: float = 0.0,
    trim: int = 0,
    order: Literal["high", "low"] = "high",
) -> Floats:
    """P_j, the probability that the sample of rank j is kept.

    P_j = (s/n) P[Hypergeom(n-1, j-1, s-1) <= q-1]: s/n at j = 1, never rising, 0 for j > n-s+q, of sum q.

    `floor` is the share of the q drawn uniformly from all that were not kept by order: with m = round(floor q) of
    these, P_j = p + (1 - p) m / (n - q + m), p the probability for q - m by order.
    `trim` candidates of highest score are dropped before the q are taken: the probability for q + trim less that
    for trim. `order="low"` keeps the q of lowest score: P_(n+1-j).

    n, s, q are the numbers of samples, of candidates and of kept samples, 1 <= q <= s <= n; `ranks` are (k,) integers
    in 1..n in any order, None for all n. Returns (k,) float64. Relative error below 1e-11 up to n = 1e8 (mostly
    1e-14); with `trim`, a difference, below 1e-11 s/n absolute. Values below about 1e-300 are 0.

    ValueError for a size, a rank or an option out of its range.
    """
    check_sizes(n, s, q)
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is a share in [0, 1], got {floor}")
    if order not in ("high", "low"):
        raise ValueError(f'order is "high" or "low", got {order!r}')
    if trim and order == "low":
        raise ValueError('trim drops the highest scores and has no meaning with order="low"')
    uniform = round(floor * q)
    ordered = q - uniform
    if not 0 <= trim <= s - ordered:
        raise ValueError(f"trim must leave {ordered} of the {s} candidates: expected 0..{s - ordered}, got {trim}")
    at = _ranks(n, ranks)
    if order == "low":
        at = n + 1 - at
    kept = kept_of(n, s, ordered + trim).at(at) if ordered else np.zeros(len(at))
    if ordered and trim:
        kept = np.maximum(kept - kept_of(n, s, trim).at(at), 0.0)
    if uniform:
        kept += (1 - kept) * (uniform / (n - ordered))
    return kept


@dataclass(frozen=True)
class Kept:
    """P_j for all j: `most` = s/n before `first`, then `falling` (rank by rank), then 0."""

    most: float
    first: int
    falling: Floats

    def at(self, ranks: Ints) -> Floats:
        """P_j for each j of `ranks`."""
        result = np.where(ranks < self.first, self.most, 0.0)
        inside = (ranks >= self.first) & (ranks < self.first + len(self.falling))
        result[inside] = self.falling[ranks[inside] - self.first]
        return result


def kept_of(n: int, s: int, q: int) -> Kept:
    """P_j for all j where s of n are candidates and q are kept, 1 <= q <= s <= n."""
    if s == q:
        return Kept(s / n, first=n + 1, falling=np.empty(0))

    def log_pmf(j: int) -> float:
        """The law of X but for a constant: log C(j-1, q-1) C(n-1-j, s-1-q)."""
        harder = lgamma(j) - lgamma(q) - lgamma(j - q + 1)
        easier = lgamma(n - j) - lgamma(s - q) - lgamma(n - j - s + q + 1)
        return harder + easier

    low, high = q, n - s + q
    mode = min(max(low, (q - 1) * (n - 1) // max(1, s - 2) + 1), high)
    peak = log_pmf(mode)
    first = _edge(log_pmf, mode, low, peak - _UNDERFLOW)
    last = _edge(log_pmf, mode, high, peak - _UNDERFLOW)

    # pmf(j + 1) / pmf(j) = j (high - j) / ((j - q + 1) (n - 1 - j)); each entry starts as the rank before its own
    values = np.arange(first - 1, last, dtype=np.float64)
    values[0] = exp(log_pmf(first) - peak)
    for i in range(1, len(values), _BLOCK):
        block = values[i : i + _BLOCK]
        block[:] = block * (high - block) / ((block - q + 1) * (n - 1 - block))
        block[0] *= values[i - 1]
        np.cumprod(block, out=block)
    # summed from the far end, small terms first, so that the tail is as accurate as the rest
    for i in range(len(values), 0, -_BLOCK):
        block = values[max(0, i - _BLOCK) : i][::-1]
        if i < len(values):
            block[0] += values[i]
        np.cumsum(block, out=block)
    values /= values[0]  # exactly 1 at first, so that P_j never rises
    values *= s / n
    return Kept(s / n, first, values)


def _edge(log_pmf: Callable[[int], float], mode: int, bound: int, least: float) -> int:
    """The rank farthest from the mode, towards `bound`, at which the unimodal `log_pmf` is not below `least`."""
    if log_pmf(bound) >= least:
        return bound
    inside, outside = mode, bound
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        if log_pmf(middle) >= least:
            inside = middle
        else:
            outside = middle
    return inside


def _ranks(n: int, ranks: ArrayLike | None) -> Ints:
    if ranks is None:
        return np.arange(1, n + 1)
    at = np.asarray(ranks)
    if at.ndim != 1 or at.dtype.kind not in "iu" or not np.all((at >= 1) & (at <= n)):
        raise ValueError(f"ranks must be integers in 1..{n}, of shape (k,)")
    return at.astype(np.int64)


def check_sizes(n: int, s: int, q: int) -> None:
    """ValueError for sizes that cannot be."""
    if not 1 <= q <= s <= n:
        raise ValueError(f"expected 1 <= q <= s <= n, got n = {n}, s = {s}, q = {q}")
