"""OrderDP's theory as code: which rank is kept how often, what loss that minimises, and how far it leans.

Samples are ranked by score, rank 1 the largest (the hardest). OrderDP draws s of n uniformly and keeps the q of
highest score. Theorem 1 gives the probability P_j that rank j is kept (the paper's gamma_j), which
`dpbench.inclusion` computes; the gradient is unbiased for the surrogate loss L_q = sum_j (P_j / q) l_(j).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincc

from dpbench.inclusion import Floats, Ints, Kept, check_sizes, inclusion_probability, kept_of


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
    return surrogate_of(n, s, q).effective_samples()


def tilt(n: int, s: int, q: int, share: float) -> float:
    """Total surrogate weight, in [share, 1], of the hardest round(share n) samples (at least one).

    ValueError for a share outside (0, 1]; other errors as in `inclusion_probability`.
    """
    return surrogate_of(n, s, q).tilt(check_share("share", share))


def total_variation(n: int, s: int, q: int) -> float:
    """max_k sum_(j <= k) (gamma_j / q - 1/n), in [0, 1 - q/n]: how far the surrogate's weights are from uniform.

    For losses in [0, B], B times this is the largest possible L_q - L, and is reached. Own algebra, not the paper's.
    Errors as in `inclusion_probability`.
    """
    return surrogate_of(n, s, q).total_variation()


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
class Surrogate:
    """The surrogate weights P_j / q of all ranks, summed up without a number for each rank."""

    n: int
    q: int
    kept: Kept

    def cumulative(self, ranks: Ints) -> Floats:
        """The weight of the ranks 1..j for each j of `ranks`, ascending; j = 0 is allowed."""
        kept = self.kept
        ends = np.clip(ranks - kept.first + 1, 0, len(kept.falling))
        pieces = [kept.falling[i:j].sum() for i, j in zip([0, *ends[:-1]], ends, strict=True)]
        level: Floats = np.minimum(ranks, kept.first - 1) * kept.most
        level += np.cumsum(pieces)
        return level / self.q

    def tilt(self, share: float) -> float:
        count = max(1, round(share * self.n))
        return float(self.cumulative(np.array([count]))[0])

    def effective_samples(self) -> float:
        kept = self.kept
        squares = min(kept.first - 1, self.n) * kept.most**2 + float(kept.falling @ kept.falling)
        return self.q**2 / squares

    def total_variation(self) -> float:
        heavier = self.kept.first - 1 + int(np.count_nonzero(self.kept.falling > self.q / self.n))
        return float(self.cumulative(np.array([heavier]))[0]) - heavier / self.n


def surrogate_of(n: int, s: int, q: int) -> Surrogate:
    check_sizes(n, s, q)
    return Surrogate(n, q, kept_of(n, s, q))


def check_share(name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"{name} is a share in (0, 1], got {value}")
    return value
