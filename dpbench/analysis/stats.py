"""The statistics of the leaderboard: pure functions on arrays and pandas, higher values are better.

Seeds are paired, so two rows are compared by the differences of their shared seeds. A NaN is a run that is missing.
Every function sorts before it adds, so the order of rows changes no bit of a result.

`step` is the spacing of the possible values (100 / test samples for an accuracy in points). Equal values only say that
the spread is below it, so no standard deviation is taken to be smaller than that of rounding to it, step / sqrt(12).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHA = 0.05
MIN_SEEDS = 3
MIN_DATASETS = 5
MIN_METHODS = 3  # of a test over datasets
NO_VERDICT = f"no verdict: fewer than {MIN_SEEDS} paired seeds"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A paired mean difference: interval is `mean` +- `half_width`, `p` two-sided, `n` pairs, `error` of the mean."""

    mean: float
    half_width: float
    p: float
    n: int
    error: float


def mean_interval(values: ArrayLike, level: float = 0.95, step: float = 0.0) -> tuple[float, float]:
    """Return the mean over seeds and its Student-t half width, which is NaN below two values; NaNs are left out."""
    x = _finite_or_nan(np.asarray(values, dtype=float))
    x = np.sort(x[~np.isnan(x)])
    mean, error = _mean_and_error(x, step)
    return mean, _half_width(error, x.size, level)


def paired_difference(values: pd.Series, reference: pd.Series, level: float = 0.95, step: float = 0.0) -> Difference:
    """Return values - reference over the seeds (the index) that both have, with the paired t test against 0.

    Equals `scipy.stats.ttest_rel`, and beyond it is defined without spread: identical values have p = 1 and a constant
    other difference p = 0, unless `step` says how coarse the values are. Below two pairs the interval and p are NaN.
    """
    for series in (values, reference):
        if not series.index.is_unique:
            raise ValueError(f"seed {series.index[series.index.duplicated()][0]} appears more than once")
    aligned = values.align(reference, join="inner")
    pairs = _finite_or_nan(np.stack([series.to_numpy(dtype=float) for series in aligned]))
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    x = np.sort(_denoise(pairs[0] - pairs[1], scale=pairs))
    mean, error = _mean_and_error(x, step * math.sqrt(2))
    p = 2 * float(stats.t.sf(abs(_t(mean, error)), x.size - 1))
    return Difference(mean, _half_width(error, x.size, level), p, x.size, error)


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
    return float(stats.t.sf(_t(delta - abs(difference.mean), difference.error), difference.n - 1))


def compare(
    differences: Mapping[Any, Difference], reference: str | Mapping[Any, str] = "random", delta: float | None = None
) -> pd.DataFrame:
    """Return one row per comparison: its simultaneous interval, and the verdicts that are read from it.

    The family is all that is passed, so pass all comparisons of a board at once. In 95 % of boards all intervals
    (mean +- half_width, Bonferroni) hold their true difference at the same time. "better" and "worse" are said where
    the interval leaves out 0, "equivalent" where it lies within +-delta: at most 5 % of boards carry any false
    verdict of any kind. `p` and `equivalence_p` are corrected likewise: below 0.05 exactly where the verdict is given.
    `reference` is the name, of all or by comparison, in the words of the verdict.
    """
    found = list(differences.values())
    names = [reference if isinstance(reference, str) else reference[key] for key in differences]
    family = sum(d.n >= MIN_SEEDS for d in found)  # a row that gets no verdict must not cost the others power
    half = [_half_width(d.error, d.n, 1 - ALPHA / family) if d.n >= MIN_SEEDS else math.nan for d in found]
    table = pd.DataFrame(
        {
            "mean": [d.mean for d in found],
            "half_width": half,
            "p": [_corrected(d.p, d.n, family) for d in found],
            "n": [d.n for d in found],
            "verdict": [verdict(d, width, name) for d, width, name in zip(found, half, names, strict=True)],
        },
        index=pd.Index(list(differences), tupleize_cols=False),
    )
    if delta is not None:
        # both one-sided tests at half the level: what the two-sided interval within +-delta says
        table["equivalence_p"] = [_corrected(2 * equivalence(d, delta), d.n, family) for d in found]
        table["equivalence"] = [
            equivalence_verdict(d, width, delta, name) for d, width, name in zip(found, half, names, strict=True)
        ]
    return table


def _corrected(p: float, n: int, family: int) -> float:
    """Bonferroni's p value; NaN without a verdict."""
    return min(1.0, p * family) if n >= MIN_SEEDS else math.nan


def verdict(difference: Difference, half_width: float, reference: str = "random") -> str:
    """Return in words what the simultaneous interval, mean +- `half_width`, says about a difference."""
    if difference.n < MIN_SEEDS:
        return NO_VERDICT
    if abs(difference.mean) > half_width:
        return f"{'better' if difference.mean > 0 else 'worse'} than {reference}"
    return f"not separable from {reference}"


def equivalence_verdict(difference: Difference, half_width: float, delta: float, reference: str = "full") -> str:
    """Return in words whether the simultaneous interval, mean +- `half_width`, lies within +-delta."""
    if difference.n < MIN_SEEDS:
        return NO_VERDICT
    within = abs(difference.mean) + half_width < delta
    return f"{'equivalent' if within else 'not shown equivalent'} to {reference} within {delta:g}"


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


def rank_intervals(runs: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Return each method's mean rank over datasets (1 is best) and the interval of its true rank, low and high.

    `runs` has the columns dataset, method, seed and accuracy, and may have `step`; only seeds that all methods have on
    a dataset count. The interval is that of `rank_bounds`, averaged over these datasets; a single run of each method
    has none (NaN).
    """
    scores = _paired_scores(runs)
    steps = runs.assign(step=runs.get("step", 0.0)).groupby("dataset")["step"].max()  # sorted, too
    low, high = rank_bounds(_by_dataset(scores), steps.tolist(), level)
    if len(scores) == 1:
        low, high = np.full_like(low, np.nan), np.full_like(high, np.nan)
    return pd.DataFrame({"rank": _dataset_ranks(scores).mean(), "low": low, "high": high})


def rank_bounds(tables: Sequence[Floats], steps: Sequence[float], level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the lowest and the highest rank that each method may truly have, mean over `tables` (..., seeds, methods).

    A method is compared with each other one on each dataset by paired t tests, Holm-corrected over all of them; its
    rank lies between 1 + those found better and the number of methods - those found worse (Klein, Wright and
    Wieczorek 2020; Mohamad, Goeman and van Zwet 2022). So with probability `level`, for any number of seeds, the
    interval of a method holds its true rank; of methods that tie, all ranks that the tie spans.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must lie between 0 and 1, not {level}")
    tests = [_pairwise(table, step) for table, step in zip(tables, steps, strict=True)]
    mean, p = (
        np.concatenate(parts, axis=-1) for parts in zip(*tests, strict=True)
    )  # (..., methods, datasets x others)
    found = holm(p) < 1 - level
    methods = tables[0].shape[-1]
    low = 1 + (found & (mean < 0)).sum(axis=-1) / len(tables)
    high = methods - (found & (mean > 0)).sum(axis=-1) / len(tables)
    return low, high


def _pairwise(table: Floats, step: float) -> tuple[Floats, Floats]:
    """Return mean and two-sided p (..., methods, methods) of row - column over paired seeds, p NaN on the diagonal."""
    seeds, methods = table.shape[-2:]
    x = np.sort(_denoise(table[..., :, None] - table[..., None, :], scale=table), axis=-3)  # sums in one order
    mean = x.mean(axis=-3)
    if seeds < 2:
        return mean, np.full_like(mean, np.nan)
    spread = np.where(np.ptp(x, axis=-3) > 0, x.std(axis=-3, ddof=1), 0.0)
    error = np.maximum(spread, step * math.sqrt(2 / 12)) / math.sqrt(seeds)
    t = np.divide(np.abs(mean), error, out=np.where(mean == 0, 0.0, np.inf), where=error > 0)
    return mean, np.where(np.eye(methods, dtype=bool), np.nan, 2 * stats.t.sf(t, seeds - 1))


def iqm(runs: pd.DataFrame, rng: np.random.Generator, draws: int = 2000, level: float = 0.95) -> pd.DataFrame:
    """Return each method's interquartile mean over the runs of all datasets, and its interval, low and high.

    Takes `runs` as `rank_intervals` does. The bootstrap draws seeds within each dataset (stratified: the datasets are
    the ones of interest). Datasets of unlike scales should be brought to one scale first.
    """
    scores = _paired_scores(runs)
    resampled = [table[rng.integers(len(table), size=(draws, len(table)))] for table in _by_dataset(scores)]
    means = stats.trim_mean(np.concatenate(resampled, axis=1), 0.25, axis=1)
    low, high = _percentiles(means, level, single=len(scores) == 1)
    point = stats.trim_mean(scores.to_numpy(), 0.25, axis=0)
    return pd.DataFrame({"iqm": point, "low": low, "high": high}, index=scores.columns)


def probability_of_improvement(
    runs: pd.DataFrame,
    method: str,
    reference: str,
    rng: np.random.Generator,
    draws: int = 2000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Return P(a run of `method` beats a run of `reference`), ties as half, averaged over datasets, and low and high.

    Takes `runs` as `rank_intervals` does and draws as `iqm` does, the same seeds for both methods.
    """
    absent = {method, reference} - set(runs["method"])
    if absent:
        raise ValueError(f"no run of {', '.join(sorted(absent))}")
    scores = _paired_scores(runs[runs["method"].isin([method, reference])])[[method, reference]]
    # per dataset, Mann-Whitney's U before it is summed: 1 where run i of the method beats run j of the reference
    wins = [np.sign(_denoise(t[:, :1] - t[:, 1], scale=t)) / 2 + 0.5 for t in _by_dataset(scores)]
    drawn = np.zeros(draws)
    for w in wins:
        shares = _resampled(len(w), rng, draws)
        drawn += np.einsum("bi,ij,bj->b", shares, w, shares)
    low, high = _percentiles(drawn / len(wins), level, single=len(scores) == 1)
    return float(np.mean([w.mean() for w in wins])), float(low), float(high)


@dataclass(frozen=True)
class RankTest:
    """Friedman's p over datasets, mean `ranks` (1 is best) and the post-hoc `p` of each pair of methods."""

    friedman_p: float
    ranks: pd.Series
    p: pd.DataFrame
    post_hoc: str


def rank_test(runs: pd.DataFrame, post_hoc: Literal["nemenyi", "wilcoxon"] = "nemenyi") -> RankTest:
    """Return Friedman's test over datasets (means over shared seeds), then Nemenyi or Holm-corrected Wilcoxon tests.

    Takes `runs` as `rank_intervals` does. Wilcoxon's smallest p on five datasets is 0.0625: it needs more of them.
    """
    import scikit_posthocs  # here, since it loads seaborn and statsmodels

    if post_hoc not in ("nemenyi", "wilcoxon"):
        raise ValueError(f"post_hoc must be 'nemenyi' or 'wilcoxon', not {post_hoc!r}")
    scores = _paired_scores(runs)
    means = scores.groupby(level="dataset").mean()
    if len(means) < MIN_DATASETS:
        raise ValueError(f"a test over datasets needs at least {MIN_DATASETS} of them, got {len(means)}")
    if means.shape[1] < MIN_METHODS:
        raise ValueError(
            f"Friedman's test needs at least {MIN_METHODS} methods, got {means.shape[1]}: use paired_difference"
        )
    ranks = _dataset_ranks(scores)
    all_tied = bool((ranks.nunique(axis=1) == 1).all())
    friedman_p = 1.0 if all_tied else float(stats.friedmanchisquare(*ranks.to_numpy().T).pvalue)
    if post_hoc == "nemenyi":
        p = scikit_posthocs.posthoc_nemenyi_friedman(ranks)
    else:
        long = means.melt(var_name="method", value_name="accuracy")
        p = scikit_posthocs.posthoc_wilcoxon(
            long, val_col="accuracy", group_col="method", zero_method="zsplit", p_adjust="holm"
        )
    return RankTest(friedman_p, ranks.mean(), p, post_hoc)


def critical_difference_figure(test: RankTest) -> Figure:
    """Return the critical-difference diagram: bars join methods that the post-hoc test does not tell apart at 5 %."""
    import scikit_posthocs
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.5 + 0.25 * len(test.ranks)), layout="constrained")
    axes = figure.subplots()
    scikit_posthocs.critical_difference_diagram(
        test.ranks,
        test.p,
        alpha=ALPHA,
        ax=axes,
        label_fmt_left="{label} ({rank:.1f}) ",
        label_fmt_right=" ({rank:.1f}) {label}",
        elbow_props={"color": "0.25", "linewidth": 1},
        label_props={"parse_math": False},  # a method's name is text, dollar signs too
    )
    axes.set_title(f"Mean rank, 1 is best (Friedman p = {test.friedman_p:.2g}, {test.post_hoc.title()})")
    return figure


def pareto_front(cost: ArrayLike, value: ArrayLike) -> NDArray[np.bool_]:
    """Return which points no other point beats (cheaper and no worse, or better and no dearer); none with a NaN is."""
    c, v = np.asarray(cost, dtype=float), np.asarray(value, dtype=float)
    if c.shape != v.shape or c.ndim != 1:
        raise ValueError(f"cost and value must be vectors of one length, got shapes {c.shape} and {v.shape}")
    no_worse = (c <= c[:, None]) & (v >= v[:, None])
    beaten = (no_worse & ((c < c[:, None]) | (v > v[:, None]))).any(axis=1)
    front: NDArray[np.bool_] = ~beaten & ~np.isnan(c) & ~np.isnan(v)
    return front


def _finite_or_nan(x: Floats) -> Floats:
    if np.isinf(x).any():
        raise ValueError("values must be finite or NaN, got an infinite one")
    return x


def _mean_and_error(x: Floats, step: float) -> tuple[float, float]:
    """Return the mean and its standard error, which is NaN below two values."""
    if x.size < 2:
        return (float(x[0]) if x.size else math.nan), math.nan
    spread = float(x.std(ddof=1)) if np.ptp(x) > 0 else 0.0  # std of equal values may be 1e-17
    return float(x.mean()), max(spread, step / math.sqrt(12)) / math.sqrt(x.size)


def _half_width(error: float, n: int, level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must lie between 0 and 1, not {level}")
    return error * float(stats.t.ppf((1 + level) / 2, n - 1))


def _t(distance: float, error: float) -> float:
    """Return distance / error, where no error makes any distance infinitely far and none at all 0."""
    if error == 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / error


def _denoise(x: Floats, scale: Floats) -> Floats:
    """Return `x` without the float noise of values as large as `scale`: rounded to their 12th digit."""
    largest = np.max(np.abs(scale), initial=0.0) or 1.0
    return np.round(x, 12 - math.ceil(math.log10(largest)))


def _ranks(scores: Floats) -> Floats:
    """Return the rank of each column within its row: 1 is the highest, ties share the mean."""
    ranks: Floats = stats.rankdata(-_denoise(scores, scale=scores), axis=1)
    return ranks


def _paired_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies by (dataset, seed) and method, sorted, of the seeds that all methods have on a dataset."""
    absent = {"dataset", "method", "seed", "accuracy"} - set(runs.columns)
    if absent:
        raise ValueError(f"runs lack the column {', '.join(sorted(absent))}")
    repeated = runs[runs.duplicated(["dataset", "method", "seed"])]
    if len(repeated):
        row = repeated.iloc[0]
        raise ValueError(f"{row['method']} has two results on {row['dataset']} with seed {row['seed']}")
    wide = runs.pivot(index=["dataset", "seed"], columns="method", values="accuracy").astype(float)
    _finite_or_nan(wide.to_numpy())
    scores = wide.dropna()
    unpaired = set(runs["dataset"]) - set(scores.index.get_level_values("dataset"))
    if unpaired or runs.empty:
        raise ValueError(f"no seed has a result of every method on {', '.join(sorted(unpaired)) or 'any dataset'}")
    return scores


def _by_dataset(scores: pd.DataFrame) -> list[Floats]:
    """Return one array (seeds, methods) per dataset."""
    return [table.to_numpy() for _, table in scores.groupby(level="dataset")]


def _dataset_ranks(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the ranks of the methods' mean accuracies on each dataset."""
    means = scores.groupby(level="dataset").mean()
    return pd.DataFrame(_ranks(means.to_numpy()), index=means.index, columns=means.columns)


def _resampled(n: int, rng: np.random.Generator, draws: int) -> Floats:
    """Return the shares (draws, n) of n runs in samples of n with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), size=draws) / n


def _percentiles(drawn: Floats, level: float, single: bool) -> Floats:
    """Return the lower and upper end of the interval over the first axis, NaN for a single run: it has no spread."""
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must lie between 0 and 1, not {level}")
    ends: Floats = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.full_like(ends, np.nan) if single else ends
