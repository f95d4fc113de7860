"""Measures derived from a run's record: realised cost, stability, coverage and the gradient norm's correlation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from dpbench.training.results import Diagnostics, RunResult

LAST = 0.2  # the share of the epochs that counts as the end of training


def of_run(result: RunResult) -> dict[str, float | None]:
    """Measures of a finished run; None where it is not known or never happened."""
    spent, seen = result["metrics"], result.get("diagnostics", Diagnostics())
    forward, backward = spent.get("samples_forward"), spent.get("samples_backward")
    full = 3 * _samples(seen) * result["spec"]["recipe"]["epochs"]  # forward + 2 backward of all samples in all epochs
    cost = with_proxy = None
    if full and forward is not None and backward is not None:
        proxy = spent.get("samples_proxy_forward", 0) + 2 * spent.get("samples_proxy", 0)
        cost, with_proxy = (forward + 2 * backward) / full, (forward + 2 * backward + proxy) / full
    return {
        "cost": cost,
        "cost_with_proxy": with_proxy,
        "accuracy_spread_last": _spread_last(curve(result, "accuracy")),
        "accuracy_worst_class": seen.get("accuracy_worst_class"),
        "noisy_share": seen.get("noisy_share"),
        "never_used": seen.get("never_used"),
        "coverage_epochs": next((i for i, share in enumerate(seen.get("coverage", []), 1) if share >= 1), None),
        "gradient_norm_r": pearson(curve(result, "gradient_norm"), curve(result, "accuracy")),
    }


def _samples(diagnostics: Diagnostics) -> int:
    """The number of training samples: each is in one bin of the histogram of uses."""
    return sum(diagnostics.get("uses_histogram", []))


def curve(result: RunResult, name: str) -> list[float]:
    """One value an epoch, NaN where it was not measured."""
    return [record.get(name, math.nan) for record in result.get("epochs", [])]


def _spread_last(accuracy: Sequence[float]) -> float:
    """The standard deviation over the last epochs, at least two of them."""
    last = accuracy[-max(2, round(LAST * len(accuracy))) :]
    return float(np.std(last, ddof=1)) if len(last) > 1 else math.nan


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Return Pearson's correlation over the pairs without NaN; NaN below two pairs or where one side is constant."""
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"x and y must be vectors of one length, got shapes {a.shape} and {b.shape}")
    known = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[known], b[known]
    order = np.lexsort((b, a))
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(stats.pearsonr(a[order], b[order]).statistic)


def pooled_gradient_norm_r(results: Sequence[RunResult]) -> float:
    """Pearson's r of gradient norm and accuracy over the epochs of all runs."""
    norms, accuracies = ([x for r in results for x in curve(r, name)] for name in ("gradient_norm", "accuracy"))
    return pearson(norms, accuracies)


def seconds_by_epoch(result: RunResult) -> list[float]:
    """The time spent until the end of each epoch: proxy, select, train and observe."""
    phases = [curve(result, f"time_{phase}_s") for phase in ("select", "train", "observe")]
    epochs = [float(np.nansum(times)) for times in zip(*phases, strict=True)]
    return [result["metrics"].get("time_proxy_s", 0.0) + total for total in itertools.accumulate(epochs)]


def seconds_to(results: Sequence[RunResult], accuracy: float) -> float:
    """Mean time until the test accuracy is first reached; NaN unless every run reaches it."""
    times = []
    for result in results:
        reached = zip(curve(result, "accuracy"), seconds_by_epoch(result), strict=True)
        times.append(next((seconds for value, seconds in reached if value >= accuracy), math.nan))
    return float(np.mean(times)) if times else math.nan
