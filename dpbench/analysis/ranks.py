"""The statistics of several methods on several datasets: ranks, interquartile means, tests and their diagram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import stats

from dpbench.analysis.stats import ALPHA, Floats, check_level, denoise, finite_or_nan, holm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_DATASETS = 5
MIN_METHODS = 3  # of a test over datasets


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
    check_level(level)
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
    x = np.sort(denoise(table[..., :, None] - table[..., None, :], scale=table), axis=-3)  # sums in one order
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
    wins = [np.sign(denoise(t[:, :1] - t[:, 1], scale=t)) / 2 + 0.5 for t in _by_dataset(scores)]
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


def _ranks(scores: Floats) -> Floats:
    """Return the rank of each column within its row: 1 is the highest, ties share the mean."""
    ranks: Floats = stats.rankdata(-denoise(scores, scale=scores), axis=1)
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
    finite_or_nan(wide.to_numpy())
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
    check_level(level)
    ends: Floats = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.full_like(ends, np.nan) if single else ends
