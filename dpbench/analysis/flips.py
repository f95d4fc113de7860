"""How many test samples flip between seeds, in a row and between two rows.

It tells how much accuracies and their differences vary over seeds, and is known far better than from a few of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations_with_replacement
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dpbench.spec import Row, row_of
from dpbench.training.results import RunResult, is_finished, read_predictions

Flips: TypeAlias = dict[tuple[Row, Row], float]  # by pairs of rows, the lesser one first; a row with itself is the row


def of_results(results: Iterable[RunResult]) -> Flips:
    """The flips of the finished runs of each row, and of each two rows, that all have their predictions."""
    right: dict[Row, dict[int, NDArray[np.int8] | None]] = {}
    for result in results:
        if is_finished(result):
            told, seed = read_predictions(result), result["spec"]["seed"]
            right.setdefault(row_of(result["spec"]), {})[seed] = None if told is None else told.correct.astype(np.int8)
    whole = {row: {seed: run for seed, run in runs.items() if run is not None} for row, runs in right.items()}
    return of_rows({row: runs for row, runs in whole.items() if len(runs) == len(right[row])})


def of_rows(right: Mapping[Row, Mapping[int, NDArray[np.int8]]]) -> Flips:
    """The same of whether each test sample is predicted right (samples,) by row and seed.

    The flips of a row are the variance of this over its seeds, added over the samples: half the number of samples of
    which two seeds say otherwise. Those of two rows of one dataset and model are that of their difference at one seed.
    Did samples flip independently, the accuracy, or the difference, would have the variance flips / n^2. A row or pair
    of fewer than two seeds has none.
    """
    found = {}
    for a, b in combinations_with_replacement(sorted(right), 2):
        seeds = sorted(right[a].keys() & right[b].keys())
        if a[:2] == b[:2] and len(seeds) > 1 and len({len(right[row][seed]) for row in (a, b) for seed in seeds}) == 1:
            one, other = (np.stack([right[row][seed] for seed in seeds]) for row in (a, b))
            found[a, b] = float((one if a == b else one - other).var(axis=0, ddof=1).sum())
    return found


def written(flips: Flips) -> dict[str, Any]:
    """Flips as JSON, of which `read` makes them again: the rows, and by their positions the flips of each pair."""
    rows = sorted({row for pair in flips for row in pair})
    at = {row: i for i, row in enumerate(rows)}
    return {"rows": rows, "pairs": [[at[a], at[b], count] for (a, b), count in flips.items()]}


def read(content: Any) -> Flips:
    """What `written` wrote; also the list of single rows that boards had before."""
    if isinstance(content, list):
        content = {"rows": [row for *row, _ in content], "pairs": [[i, i, line[-1]] for i, line in enumerate(content)]}
    rows: list[Row] = [(dataset, model, method, keep) for dataset, model, method, keep in content["rows"]]
    return {(rows[i], rows[j]): float(count) for i, j, count in content["pairs"]}
