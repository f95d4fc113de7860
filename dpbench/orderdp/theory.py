"""OrderDP's theory as code: which rank is kept how often, what loss that minimises, and how far it leans.

Samples are ranked by score, rank 1 the largest (the hardest). OrderDP draws s of n uniformly and keeps the q of
highest score. Theorem 1 gives the probability P_j that rank j is kept (the paper's gamma_j); its gradient is
unbiased for the surrogate loss L_q = sum_j (P_j / q) l_(j).

Seen from rank j, the other s - 1 candidates are a uniform draw from n - 1 ranks, and j is kept unless q of them are
harder. So P_j = (s/n) P[X >= j] where X, the q-th smallest rank in such a draw, is negative hypergeometric. One
running product over the ranks gives the law of X up to a constant, its sum the constant. This is more accurate than
logarithms of factorials, which lose 8 digits at n = 1e8. Time, and 8 bytes a rank, are spent only where P_j differs
from s/n and from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincc, gammaln

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
    """P_j, the probability that the sample of rank j is kept (Theorem 1's gamma_j).

    P_j = (s/n) P[Hypergeom(n-1, j-1, s-1) <= q-1]: s/n at j = 1, never rising, 0 for j > n-s+q, of sum q.

    Beyond the paper, `floor` is the share of the q drawn uniformly from all that were not kept by order:
    with m = round(floor q) of these, P_j = p + (1 - p) m / (n - q + m), p the probability for q - m by order.
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


def surrogate_weight(n: int, s: int, q: int, ranks: ArrayLike | None = None) -> Floats:
    """gamma_j / q: the weight of the j-th largest loss in the surrogate loss L_q (Theorem 1). Their sum is 1.

    Arguments, shape and errors as in `inclusion_probability`. For s = q every weight is 1/n and L_q is the plain loss.
    """
    return inclusion_probability(n, s, q, ranks) / q


def beta_limit(z: ArrayLike, s: int, q: int) -> Floats:
    """gamma(z) = s P[Binomial(s-1, z) <= q-1], to which n gamma_j tends as n grows with j/n = z (Proposition 2).

    s and q are fixed, so draws with and without replacement become the same; the error is O(1/n). The probability is
    that of a Beta(q, s-q) variable above z. Where s grows with n, gamma_j falls more steeply than this curve:
    the variance of the cut is smaller by the factor 1 - s/n.

    z is the rank over n, in [0, 1], of any shape; s and q the numbers of candidates and of kept samples,
    1 <= q <= s. Returns float64 of z's shape, in [0, s]. ValueError for sizes or z out of their range.
    """
    check_sizes(s, s, q)
    at = np.asarray(z, dtype=np.float64)
    if not np.all((at >= 0) & (at <= 1)):
        raise ValueError("z is rank / n and must lie in [0, 1]")
    probability: Floats = betaincc(q, s - q, at) if s > q else np.ones_like(at)
    return s * probability


def effective_samples(n: int, s: int, q: int) -> float:
    """(sum w)^2 / sum w^2 of the surrogate weights w_j = gamma_j / q: from n (s = q) down to q (s = n).

    The number of equally weighted samples whose mean loss would vary as much as the surrogate loss does, if the
    losses were independent of their ranks (Kish's effective sample size). Errors as in `inclusion_probability`.
    """
    check_sizes(n, s, q)
    return kept_of(n, s, q).effective_samples()


def tilt(n: int, s: int, q: int, share: float) -> float:
    """Total surrogate weight, in [share, 1], of the hardest round(share n) samples (at least one).

    ValueError for a share outside (0, 1]; other errors as in `inclusion_probability`.
    """
    check_sizes(n, s, q)
    return kept_of(n, s, q).tilt(check_share("share", share))


def total_variation(n: int, s: int, q: int) -> float:
    """max_k sum_(j <= k) (gamma_j / q - 1/n), in [0, 1 - q/n]: how far the surrogate's weights are from uniform.

    For losses in [0, B], B times this is the largest possible L_q - L, and is reached. Own algebra, not the paper's.
    Errors as in `inclusion_probability`.
    """
    check_sizes(n, s, q)
    return kept_of(n, s, q).total_variation()


def surrogate_gap(losses: ArrayLike, s: int, q: int) -> float:
    """L_q - L = sum_j (gamma_j / q - 1/n) l_(j) >= 0: surrogate loss less plain loss, in the unit of the losses.

    `losses` are (n,) in any order; s and q as in `inclusion_probability`. ValueError for losses that are not finite or
    not (n,), and for sizes out of their range.
    """
    values = np.asarray(losses, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"losses must be finite and of shape (n,), got shape {values.shape}")
    n = len(values)
    return float((surrogate_weight(n, s, q) - 1 / n) @ np.sort(values)[::-1])


def bias_term(n: int, s: int, *, correction: float = 0.0, c_s: float = 1.0, bound: float = 1.0) -> float:
    """Bias term of the generalisation bound, sqrt(2) C_s B sqrt((n-s) / (s (n-1)) - Q_n) (Theorem 4).

    Only a digest of the paper was at hand, which prints the term but defines neither C_s nor Q_n(theta; s, q).
    What is known without data is (n-s) / (s (n-1)), the variance of a mean of s of n values drawn without
    replacement over that of one value: it does not depend on q. With the defaults the result is that factor in
    units of C_s B, an upper bound if Q_n >= 0. That is assumed: in Kawaguchi and Lu's bound for Ordered SGD (2020)
    a Q of the same arguments is the expected smallest `surrogate_gap`, never negative; for s = q it is 0 and the
    term here is not, although the digest says that the bias vanishes there. `total_variation` bounds L_q - L exactly.

    n and s are the numbers of samples and of candidates, 1 <= s <= n; `correction` is Q_n, without unit like the
    variance ratio; `c_s` is C_s; `bound` is B, the bound on the loss, whose unit the result has. ValueError for sizes
    out of their range and for a correction above the variance ratio.
    """
    check_sizes(n, s, s)
    ratio = (n - s) / (s * (n - 1)) if s < n else 0.0
    if correction > ratio:
        raise ValueError(f"correction must not exceed (n-s) / (s (n-1)) = {ratio:.6g}, got {correction:.6g}")
    return float(np.sqrt(2 * (ratio - correction))) * c_s * bound


@dataclass(frozen=True)
class Kept:
    """P_j for all j: s/n before `first`, then `falling` (rank by rank), then 0."""

    n: int
    s: int
    q: int
    first: int
    falling: Floats

    def at(self, ranks: Ints) -> Floats:
        result = np.where(ranks < self.first, self.s / self.n, 0.0)
        inside = (ranks >= self.first) & (ranks < self.first + len(self.falling))
        result[inside] = self.falling[ranks[inside] - self.first]
        return result

    def cumulative(self, ranks: Ints) -> Floats:
        """Sum of P_1..P_j for each j of `ranks`, ascending; j = 0 is allowed."""
        ends = np.clip(ranks - self.first + 1, 0, len(self.falling))
        pieces = [self.falling[i:j].sum() for i, j in zip([0, *ends[:-1]], ends, strict=True)]
        level: Floats = np.minimum(ranks, self.first - 1) * (self.s / self.n)
        level += np.cumsum(pieces)
        return level

    def tilt(self, share: float) -> float:
        count = max(1, round(share * self.n))
        return float(self.cumulative(np.array([count]))[0]) / self.q

    def effective_samples(self) -> float:
        squares = min(self.first - 1, self.n) * (self.s / self.n) ** 2 + float(self.falling @ self.falling)
        return self.q**2 / squares

    def total_variation(self) -> float:
        heavier = self.first - 1 + int(np.count_nonzero(self.falling > self.q / self.n))
        return float(self.cumulative(np.array([heavier]))[0]) / self.q - heavier / self.n


def kept_of(n: int, s: int, q: int) -> Kept:
    if s == q:
        return Kept(n, s, q, first=n + 1, falling=np.empty(0))

    def log_pmf(j: int) -> float:
        """The law of X but for a constant: log C(j-1, q-1) C(n-1-j, s-1-q)."""
        harder = gammaln(j) - gammaln(q) - gammaln(j - q + 1)
        easier = gammaln(n - j) - gammaln(s - q) - gammaln(n - j - s + q + 1)
        return float(harder + easier)

    low, high = q, n - s + q
    mode = min(max(low, (q - 1) * (n - 1) // max(1, s - 2) + 1), high)
    peak = log_pmf(mode)
    first = _edge(log_pmf, mode, low, peak - _UNDERFLOW)
    last = _edge(log_pmf, mode, high, peak - _UNDERFLOW)

    # pmf(j + 1) / pmf(j) = j (high - j) / ((j - q + 1) (n - 1 - j)); each entry starts as the rank before its own
    values = np.arange(first - 1, last, dtype=np.float64)
    values[0] = np.exp(log_pmf(first) - peak)
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
    return Kept(n, s, q, first, values)


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
    if not 1 <= q <= s <= n:
        raise ValueError(f"expected 1 <= q <= s <= n, got n = {n}, s = {s}, q = {q}")


def check_share(name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"{name} is a share in (0, 1], got {value}")
    return value
