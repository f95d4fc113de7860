"""How many test samples a row's seeds disagree about: what its accuracy varies by, known better than from few seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpbench.spec import Row, row_of
from dpbench.training.results import RunResult, is_finished, read_predictions


def of_results(results: Iterable[RunResult]) -> dict[Row, float]:
    """The flips of each row of two finished runs or more that all have their predictions.

    They are the variance over seeds of "is predicted right", added over the test samples: half the number of samples
    of which two seeds say otherwise. Did samples flip independently, the accuracy's variance would be flips / n^2.
    """
    right: dict[Row, list[NDArray[np.bool_] | None]] = {}
    for result in results:
        if is_finished(result):
            predictions = read_predictions(result)
            right.setdefault(row_of(result["spec"]), []).append(None if predictions is None else predictions.correct)
    found = {}
    for row, runs in right.items():
        whole = [run for run in runs if run is not None]
        if len(whole) == len(runs) > 1 and len({len(run) for run in whole}) == 1:
            found[row] = float(np.stack(whole).var(axis=0, ddof=1).sum())
    return found


def written(flips: dict[Row, float]) -> list[list[Any]]:
    """Flips as JSON, of which `read` makes them again."""
    return [[*row, count] for row, count in flips.items()]


def read(content: list[list[Any]]) -> dict[Row, float]:
    """What `written` wrote."""
    return {(dataset, model, method, keep): float(count) for dataset, model, method, keep, count in content}
