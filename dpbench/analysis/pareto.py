"""Accuracy against what was spent, as the page and the figures draw it: the front, axes that no outlier squeezes, and
which methods are named. A part is the rows of one dataset and model of a leaderboard's table.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dpbench import catalog
from dpbench.analysis.stats import pareto_front
from dpbench.analysis.table import is_broken
from dpbench.experiments.controls import EXEMPT

TO_BEAT = ("full", "uniform_epoch")  # the lines that a method has to beat
SPENT = ("cost_with_proxy", "time_total_s")
FENCE = 1.5  # Tukey's: what lies so many interquartile ranges beside the middle half stands apart
NEAR = 0.02  # of accuracy; what lies closer to the middle half never stands apart


def front(part: pd.DataFrame, spent: str) -> NDArray[np.bool_]:
    """Which rows no other is more accurate than for as little; rows with diverged or failed seeds never are."""
    whole = (~is_broken(part)).to_numpy()
    return whole & pareto_front(part[spent].where(whole), part["accuracy_mean"].where(whole))


def accuracy_limits(part: pd.DataFrame) -> tuple[float, float]:
    """From where to where accuracy is drawn, within 0 and 1; rows below stand so far apart that they would squeeze all
    others, and are drawn at the edge. No row is above.
    """
    known = part["accuracy_mean"].notna()
    fair = part[known & ~is_broken(part)] if (known & ~is_broken(part)).any() else part[known]
    if fair.empty:
        return (0.0, 1.0)
    low, high = _usual(fair["accuracy_mean"], NEAR)[0], float(fair["accuracy_mean"].max())
    half = fair["accuracy_ci95"].median()
    pad = max(0.08 * (high - low), 0 if np.isnan(half) else half, 0.002)
    return (max(0.0, low - pad), min(1.0, high + pad))


def spent_limit(part: pd.DataFrame, spent: str) -> float:
    """Up to where the axis of what was spent goes from 0: always as far as full training."""
    known = part[spent].dropna()
    if known.empty:
        return 1.0
    most = part.loc[part["method"] == "full", spent].max()
    most = float(np.nanmax([most, known.median()]))
    return 1.05 * max(most, _usual(known, most)[1])


def nearest(part: pd.DataFrame) -> list[str]:
    """All methods but the controls, first those on a front of cost or time, then by how little they lie below one."""
    gaps = np.min([_below(part, spent) for spent in SPENT], axis=0)
    rows = part.assign(gap=gaps).sort_values(["gap", "accuracy_mean"], ascending=[True, False], kind="stable")
    return [name for name in dict.fromkeys(rows["method"]) if catalog.parse(name)[0] not in EXEMPT]


def _below(part: pd.DataFrame, spent: str) -> NDArray[np.float64]:
    """How far each row lies below the front, infinite where it is not known or not fair."""
    value, cost = part["accuracy_mean"].to_numpy(float), part[spent].to_numpy(float)
    chosen = front(part, spent)
    order = np.argsort(cost[chosen], kind="stable")
    best = np.concatenate([[np.nan], np.maximum.accumulate(value[chosen][order])])
    gap = best[np.searchsorted(cost[chosen][order], cost, side="right")] - value
    return np.where(is_broken(part) | np.isnan(gap), np.inf, np.maximum(gap, 0.0))


def _usual(values: ArrayLike, near: float) -> tuple[float, float]:
    """The lowest and highest value that do not stand apart from the middle half."""
    known = np.sort(np.asarray(values, dtype=float))
    first, third = np.quantile(known, 0.25, method="higher"), np.quantile(known, 0.75, method="lower")
    reach = max(FENCE * (third - first), near)
    usual = known[(known >= min(first, third) - reach) & (known <= max(first, third) + reach)]
    return (float(usual[0]), float(usual[-1]))
