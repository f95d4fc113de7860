"""What OrderDP does to n samples, for `dpbench explain`: numbers of `theory` put together, a report and a figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dpbench.inclusion import Floats, Ints, check_sizes
from dpbench.orderdp import theory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.01, 0.1)  # of the hardest samples, whose weight is told


def rank_grid(n: int, s: int, q: int, size: int = 2000) -> Ints:
    """Ascending ranks to show P_j at, first and last included: all if n <= size, else at most about `size`.

    Half of them lie within 8 standard deviations of X (see `inclusion`), where P_j falls; the others are spread over
    1..n evenly and, for the head, geometrically.
    """
    check_sizes(n, s, q)
    if n <= size:
        return np.arange(1, n + 1)
    mean = q * n / s
    deviation = np.sqrt(q * (s - q) * (n - s) / s * n / s / (s + 1))
    fall = np.linspace(max(1, mean - 8 * deviation), min(n, mean + 8 * deviation), size // 2)
    ranks = np.concatenate([fall, np.linspace(1, n, size // 4), np.geomspace(1, n, size // 4)])
    return np.unique(np.rint(ranks).astype(np.int64))


@dataclass(frozen=True)
class Explained:
    """What `explain` finds. Arrays are (k,), one entry for each of `ranks`; see the functions for the definitions.

    `beta_limit` is gamma(j/n) / n, comparable to `inclusion_probability`. `cumulative_weight` is the total surrogate
    weight of the ranks up to and including j. `tilt` maps the share of the hardest samples to their weight.
    `bias_factor` is Theorem 4's bias term in units of C_s B, with Q_n = 0.
    """

    n: int
    s: int
    q: int
    prune_ratio: float
    ranks: Ints
    inclusion_probability: Floats
    surrogate_weight: Floats
    cumulative_weight: Floats
    beta_limit: Floats
    effective_samples: float
    tilt: dict[float, float]
    total_variation: float
    bias_factor: float


def explain(n: int, explore: float, keep: float) -> Explained:
    """Tell what a run of OrderDP does to n samples: q = round(keep n), at least 1; s = round(explore n), at least q.

    So an explore below keep counts as keep, which is uniform sampling. ValueError for n below 1, or a share outside
    (0, 1].
    """
    check_sizes(n, 1, 1)
    q = max(1, round(theory.check_share("keep", keep) * n))
    s = max(q, round(theory.check_share("explore", explore) * n))
    surrogate, ranks = theory.surrogate_of(n, s, q), rank_grid(n, s, q)
    probability = surrogate.kept.at(ranks)
    return Explained(
        n=n,
        s=s,
        q=q,
        prune_ratio=(n - q) / n,
        ranks=ranks,
        inclusion_probability=probability,
        surrogate_weight=probability / q,
        cumulative_weight=surrogate.cumulative(ranks),
        beta_limit=theory.beta_limit(ranks / n, s, q) / n,
        effective_samples=surrogate.effective_samples(),
        tilt={share: surrogate.tilt(share) for share in SHARES},
        total_variation=surrogate.total_variation(),
        bias_factor=theory.bias_term(n, s),
    )


def report(explained: Explained) -> dict[str, Any]:
    """The same as plain numbers, lists and dicts under the same names, ready for JSON; ranks hardest first."""
    fields = vars(explained).items()
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields}
    return plain | {"tilt": {f"{share:g}": weight for share, weight in explained.tilt.items()}}


def figure(explained: Explained) -> Figure:
    """P_j by rank beside its Beta limit, and the cumulative surrogate weight beside that of the plain loss."""
    import seaborn as sns
    from matplotlib.figure import Figure

    share = explained.ranks / explained.n
    with sns.axes_style("whitegrid"), sns.color_palette("deep"):
        drawing = Figure(figsize=(10, 4), layout="constrained")
        left, right = drawing.subplots(1, 2)
    dashed = {"color": "0.4", "linestyle": "--"}
    left.plot(share, explained.inclusion_probability, label="$P_j$ (Theorem 1)")
    left.plot(share, explained.beta_limit, label="Beta limit (Proposition 2)", **dashed)
    left.set(xlabel="rank $j/n$, hardest first", ylabel="inclusion probability", ylim=(0, None))
    right.plot(share, explained.cumulative_weight, label="surrogate loss $L_q$")
    right.plot([0, 1], [0, 1], label="plain loss $L$", **dashed)
    right.set(xlabel="hardest share of the samples", ylabel="their total weight", ylim=(0, 1.02))
    for axes in (left, right):
        axes.legend()
        sns.despine(ax=axes)
    drawing.suptitle(f"OrderDP: n = {explained.n:,}, s = {explained.s:,}, q = {explained.q:,}")
    return drawing
