"""What is computed from results: cost, coverage, curves and their correlation, and the time to an accuracy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from dpbench.training.results import Diagnostics, RunResult

LAST = 0.2  # the share of the epochs that counts as the end of training


def cost(result: RunResult) -> float | None:
    """Forward + 2 backward passes as a share of those of all samples in all epochs, the proxy left out."""
    return _cost(result, proxy=False)


def cost_with_proxy(result: RunResult) -> float | None:
    """The cost with the passes of the proxy's training."""
    return _cost(result, proxy=True)


def _cost(result: RunResult, proxy: bool) -> float | None:
    spent, n = result["metrics"], sum(diagnostics(result).get("uses_histogram", []))  # each sample is in one bin
    forward, backward = spent.get("samples_forward"), spent.get("samples_backward")
    if not n or forward is None or backward is None:
        return None
    if proxy:
        forward += spent.get("samples_proxy_forward", 0)
        backward += spent.get("samples_proxy", 0)
    return (forward + 2 * backward) / (3 * n * int(result["spec"]["recipe"]["epochs"]))


def coverage_epochs(result: RunResult) -> int | None:
    """The number of epochs until every sample was used."""
    return next((i for i, share in enumerate(diagnostics(result).get("coverage", []), 1) if share >= 1), None)


def diagnostics(result: RunResult) -> Diagnostics:
    """A result's diagnostics, empty where it has none."""
    return result.get("diagnostics", Diagnostics())


def curve(result: RunResult, name: str) -> list[float]:
    """One value an epoch, NaN where it was not measured."""
    return [record.get(name, math.nan) for record in result.get("epochs", [])]


def spread_last(result: RunResult) -> float:
    """The standard deviation of accuracy over the last epochs, at least two of them."""
    accuracy = curve(result, "accuracy")
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
