"""The statistics of the leaderboard: pure functions on arrays and pandas, higher values are better.

Seeds are paired, so two rows are compared by the differences of their shared seeds. A NaN is a run that is missing.
Every function sorts before it adds, so the order of rows changes no bit of a result.

`step` is the spacing of the possible values (100 / test samples for an accuracy in points). Equal values only say that
the spread is below it, so no standard deviation is taken to be smaller than that of rounding to it, step / sqrt(12).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

ALPHA = 0.05
MIN_SEEDS = 3
NO_VERDICT = f"no verdict: fewer than {MIN_SEEDS} paired seeds"
# All verdicts on a difference, by their first word; nothing else is ever said for them, in no table, page or sentence.
WORDS = {"better": "better", "worse": "worse", "not": "not separable", "no": "no verdict"}
EQUIVALENT = {True: "equivalent", False: "not shown equivalent"}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A paired mean difference: interval is `mean` +- `half_width`, `p` two-sided, `n` pairs.

    `error` is that of the mean, on `freedom` degrees of freedom. `share` is the part of ALPHA that its verdict may
    spend, where it is read at several looks.
    """

    mean: float
    half_width: float
    p: float
    n: int
    error: float
    freedom: float
    share: float = 1.0


def mean_interval(values: ArrayLike, level: float = 0.95, step: float = 0.0) -> tuple[float, float]:
    """Return the mean over seeds and its Student-t half width, which is NaN below two values; NaNs are left out."""
    x = finite_or_nan(np.asarray(values, dtype=float))
    x = np.sort(x[~np.isnan(x)])
    mean, error = _mean_and_error(x, step)
    return mean, _half_width(error, x.size - 1, level)


def paired_difference(values: pd.Series, reference: pd.Series, level: float = 0.95, step: float = 0.0) -> Difference:
    """Return values - reference over the seeds (the index) that both have, with the paired t test against 0.

    Equals `scipy.stats.ttest_rel`, and beyond it is defined without spread: identical values have p = 1 and a constant
    other difference p = 0, unless `step` says how coarse the values are. Below two pairs the interval and p are NaN.
    """
    for series in (values, reference):
        if not series.index.is_unique:
            raise ValueError(f"seed {series.index[series.index.duplicated()][0]} appears more than once")
    aligned = values.align(reference, join="inner")
    pairs = finite_or_nan(np.stack([series.to_numpy(dtype=float) for series in aligned]))
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    x = np.sort(denoise(pairs[0] - pairs[1], scale=pairs))
    mean, error = _mean_and_error(x, step * math.sqrt(2))
    return _difference(mean, x.size, error, x.size - 1, level)


def with_spread(difference: Difference, variance: float, freedom: float, level: float = 0.95) -> Difference:
    """The same difference with an error that is told from a better known variance over seeds."""
    return _difference(difference.mean, difference.n, math.sqrt(variance / difference.n), freedom, level)


def widened(difference: Difference, variance: float, freedom: float, level: float = 0.95) -> Difference:
    """The same difference with another source of error, independent of its own; the degrees of freedom are Welch's."""
    parts = [(difference.error**2, difference.freedom), (variance, freedom)]
    total = sum(part for part, _ in parts)
    together = total**2 / sum(part**2 / d for part, d in parts) if total else difference.freedom
    return _difference(difference.mean, difference.n, math.sqrt(total), together, level)


def _difference(mean: float, n: int, error: float, freedom: float, level: float) -> Difference:
    p = 2 * float(stats.t.sf(abs(_t(mean, error)), freedom))
    return Difference(mean, _half_width(error, freedom, level), p, n, error, freedom)


def holm(p: ArrayLike) -> Floats:
    """Return Holm's family-wise corrected p values over the last axis; a NaN is no test: it stays, uncounted."""
    p = np.asarray(p, dtype=float)
    if np.any((p < 0) | (p > 1)):
        raise ValueError("p values must lie in [0, 1]")
    order = np.argsort(p, axis=-1)  # NaNs go last
    left = np.sum(~np.isnan(p), axis=-1, keepdims=True) - np.arange(p.shape[-1])
    stepped = np.maximum.accumulate(np.take_along_axis(p, order, axis=-1) * left, axis=-1)
    corrected: Floats = np.take_along_axis(np.minimum(stepped, 1), np.argsort(order, axis=-1), axis=-1)
    return corrected


def equivalence(difference: Difference, delta: float) -> float:
    """Return the p value of TOST: two one-sided paired t tests that the true difference lies within +-delta."""
    if not delta > 0:
        raise ValueError(f"the equivalence margin delta must be positive, not {delta}")
    # the larger of the two p values is that of the bound nearer to the mean
    return float(stats.t.sf(_t(delta - abs(difference.mean), difference.error), difference.freedom))


def share(looks: Sequence[int]) -> float:
    """The share of ALPHA that each of the looks has at which verdicts are read; all of it where none are planned."""
    return 1 / max(1, len(looks))


def whole_looks(seeds: Iterable[int], looks: Sequence[int]) -> NDArray[np.bool_]:
    """Which of a row's seeds (n,) belong to its last look of which all are there; all of them where none is planned.

    So verdicts are read at the planned numbers of seeds and at no others, whenever a board is shown.
    """
    given = np.asarray(list(seeds), dtype=int)
    if not looks:
        return np.ones(len(given), dtype=bool)
    there = set(given.tolist())
    whole = [look for look in looks if there.issuperset(range(look))]
    below: NDArray[np.bool_] = given < (whole[-1] if whole else 0)
    return below


def compare(
    differences: Mapping[Any, Difference], reference: str | Mapping[Any, str] = "random", delta: float | None = None
) -> pd.DataFrame:
    """Return one row per comparison: its simultaneous interval, and the verdicts that are read from it.

    The family is all that is passed, so pass all comparisons of a board at once. In 95 % of boards all intervals
    (mean +- half_width, Bonferroni) hold their true difference at the same time. "better" and "worse" are said where
    the interval leaves out 0, "equivalent" where it lies within +-delta: at most 5 % of boards carry any false
    verdict of any kind. `p` and `equivalence_p` are corrected likewise: below 0.05 exactly where the verdict is given.
    Where verdicts are read at several looks, each comparison has its `share` of the 5 % at each of them, and the
    promise holds for all looks together, however they decide who gets more seeds.
    `reference` is the name, of all or by comparison, in the words of the verdict.
    """
    found = list(differences.values())
    names = [reference if isinstance(reference, str) else reference[key] for key in differences]
    family = sum(d.n >= MIN_SEEDS for d in found)  # a row that gets no verdict must not cost the others power
    half = [
        _half_width(d.error, d.freedom, 1 - ALPHA * d.share / family) if d.n >= MIN_SEEDS else math.nan for d in found
    ]
    table = pd.DataFrame(
        {
            "mean": [d.mean for d in found],
            "half_width": half,
            "p": [_corrected(d.p, d, family) for d in found],
            "n": [d.n for d in found],
            "verdict": [verdict(d, width, name) for d, width, name in zip(found, half, names, strict=True)],
        },
        index=pd.Index(list(differences), tupleize_cols=False),
    )
    if delta is not None:
        # both one-sided tests at half the level: what the two-sided interval within +-delta says
        table["equivalence_p"] = [_corrected(2 * equivalence(d, delta), d, family) for d in found]
        table["equivalence"] = [
            equivalence_verdict(d, width, delta, name) for d, width, name in zip(found, half, names, strict=True)
        ]
    return table


def _corrected(p: float, difference: Difference, family: int) -> float:
    """Bonferroni's p value; NaN without a verdict."""
    return min(1.0, p * family / difference.share) if difference.n >= MIN_SEEDS else math.nan


def verdict(difference: Difference, half_width: float, reference: str = "random") -> str:
    """Return in words what the simultaneous interval, mean +- `half_width`, says about a difference."""
    if difference.n < MIN_SEEDS:
        return NO_VERDICT
    if abs(difference.mean) > half_width:
        return f"{'better' if difference.mean > 0 else 'worse'} than {reference}"
    return f"{WORDS['not']} from {reference}"


def equivalence_verdict(difference: Difference, half_width: float, delta: float, reference: str = "full") -> str:
    """Return in words whether the simultaneous interval, mean +- `half_width`, lies within +-delta."""
    if difference.n < MIN_SEEDS:
        return NO_VERDICT
    within = abs(difference.mean) + half_width < delta
    return f"{EQUIVALENT[within]} to {reference} within {delta:g}"


def power_table(
    seeds: Sequence[int] = (3, 5, 10, 20),
    comparisons: Sequence[int] = (1, 5, 10, 40),
    gaps: Sequence[float] = (0.5, 1.0, 2.0),
) -> pd.DataFrame:
    """Return how often a method that is better by `gap` is found to be, by number of seeds and of comparisons.

    The gap is in standard deviations of the paired difference, the correction that of `compare`: exact (noncentral t).
    """
    index = pd.MultiIndex.from_product([gaps, seeds], names=["gap", "seeds"])
    gap, n = (index.get_level_values(name).to_numpy(float) for name in ("gap", "seeds"))
    power = {m: stats.nct.sf(stats.t.ppf(1 - ALPHA / 2 / m, n - 1), n - 1, gap * np.sqrt(n)) for m in comparisons}
    return pd.DataFrame(power, index=index).rename_axis("comparisons", axis=1)


def pareto_front(cost: ArrayLike, value: ArrayLike) -> NDArray[np.bool_]:
    """Return which points no other point beats (cheaper and no worse, or better and no dearer); none with a NaN is."""
    c, v = np.asarray(cost, dtype=float), np.asarray(value, dtype=float)
    if c.shape != v.shape or c.ndim != 1:
        raise ValueError(f"cost and value must be vectors of one length, got shapes {c.shape} and {v.shape}")
    no_worse = (c <= c[:, None]) & (v >= v[:, None])
    beaten = (no_worse & ((c < c[:, None]) | (v > v[:, None]))).any(axis=1)
    front: NDArray[np.bool_] = ~beaten & ~np.isnan(c) & ~np.isnan(v)
    return front


def finite_or_nan(x: Floats) -> Floats:
    """Return `x`; ValueError for an infinite value."""
    if np.isinf(x).any():
        raise ValueError("values must be finite or NaN, got an infinite one")
    return x


def _mean_and_error(x: Floats, step: float) -> tuple[float, float]:
    """Return the mean and its standard error, which is NaN below two values."""
    if x.size < 2:
        return (float(x[0]) if x.size else math.nan), math.nan
    spread = float(x.std(ddof=1)) if np.ptp(x) > 0 else 0.0  # std of equal values may be 1e-17
    return float(x.mean()), max(spread, step / math.sqrt(12)) / math.sqrt(x.size)


def check_level(level: float) -> None:
    """Refuse what is no level of an interval; ValueError."""
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must lie between 0 and 1, not {level}")


def _half_width(error: float, freedom: float, level: float) -> float:
    check_level(level)
    return error * float(stats.t.ppf((1 + level) / 2, freedom))


def _t(distance: float, error: float) -> float:
    """Return distance / error, where no error makes any distance infinitely far and none at all 0."""
    if error == 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / error


def denoise(x: Floats, scale: Floats) -> Floats:
    """Return `x` without the float noise of values as large as `scale`: rounded to their 12th digit."""
    largest = np.max(np.abs(scale), initial=0.0) or 1.0
    return np.round(x, 12 - math.ceil(math.log10(largest)))
