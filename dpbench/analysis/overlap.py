"""Who selects the same samples: Jaccard of selections between seeds of one row and between methods, beside chance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpbench.selections import Selections
from dpbench.spec import Row, row_of
from dpbench.training.results import RunResult, is_finished, read_selections

PAIR = ["dataset", "model", "keep", "method", "other"]
MOST_EPOCHS = 20  # between methods: as many epochs, evenly spaced, tell as much as all of them


@dataclass(frozen=True)
class Overlap:
    """Mean Jaccard index and chance level: `seeds` by row, `methods` a frame by pair of methods at one keep."""

    seeds: dict[Row, tuple[float, float]] = field(default_factory=dict)
    methods: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*PAIR, "jaccard", "chance"]))


def of_results(results: Iterable[RunResult]) -> Overlap:
    """Compare the stored selections of finished runs; a run without them, or with a damaged file, is left out."""
    masks: dict[Row, dict[int, NDArray[np.bool_]]] = {}
    for result in results:
        selections = read_selections(result) if is_finished(result) else None
        if selections is not None:
            masks.setdefault(row_of(result["spec"]), {})[result["spec"]["seed"]] = _masks(selections)
    seeds = {}
    for row, runs in masks.items():
        if len(runs) > 1:
            index, chance = (x[np.triu_indices_from(x, 1)].mean() for x in _between(list(runs.values())))
            seeds[row] = (float(index), float(chance))
    return Overlap(seeds, _methods(masks))


def written(overlap: Overlap) -> dict[str, Any]:
    """An overlap as JSON, of which `read` makes it again."""
    seeds = [[*row, *values] for row, values in overlap.seeds.items()]
    return {"seeds": seeds, "methods": overlap.methods.to_numpy().tolist()}


def read(content: dict[str, Any]) -> Overlap:
    """What `written` wrote."""
    seeds = {(a, b, c, d): (_number(found), _number(chance)) for a, b, c, d, found, chance in content["seeds"]}
    methods = pd.DataFrame(content["methods"], columns=[*PAIR, "jaccard", "chance"])
    return Overlap(seeds, methods.astype({"jaccard": float, "chance": float}))


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _masks(selections: Selections) -> NDArray[np.bool_]:
    masks = np.zeros((len(selections.epochs), selections.n), dtype=bool)
    for mask, selection in zip(masks, selections.epochs, strict=True):
        mask[selection.numpy()] = True
    return masks


def _between(runs: list[NDArray[np.bool_]], epochs: int | None = None) -> NDArray[np.float64]:
    """Mean over epochs of the Jaccard index of each two runs and of its chance level, (2, runs, runs)."""
    longest = max(map(len, runs))
    found = []
    for epoch in np.unique(np.linspace(0, longest - 1, min(longest, epochs or longest), dtype=int)):
        masks = np.stack([run[epoch] if epoch < len(run) else 0 * run[0] for run in runs]).astype(np.float32)
        sizes = masks.sum(axis=1, dtype=np.float64)
        total = sizes[:, None] + sizes
        shared = np.stack([(masks @ masks.T).astype(np.float64), np.outer(sizes, sizes) / masks.shape[1]])
        index = np.divide(shared, total - shared, out=np.ones_like(shared), where=total > shared)  # 1 for two empty
        over = np.array([epoch >= len(run) for run in runs])
        index[:, over] = index[:, :, over] = np.nan  # the run was over by then
        found.append(index)
    return np.nanmean(found, axis=0)


def _methods(masks: dict[Row, dict[int, NDArray[np.bool_]]]) -> pd.DataFrame:
    """One line for each two methods of a dataset, model and keep, averaged over epochs and the seeds they share."""
    groups: dict[tuple[str, str, float], dict[str, dict[int, NDArray[np.bool_]]]] = {}
    for (dataset, model, method, keep), runs in masks.items():
        groups.setdefault((dataset, model, keep), {})[method] = runs
    lines = []
    for group, methods in groups.items():
        for seed in sorted(set().union(*methods.values())):
            names = [name for name, of_seed in methods.items() if seed in of_seed]
            found, chance = _between([methods[name][seed] for name in names], MOST_EPOCHS)
            for i, j in zip(*np.triu_indices(len(names), 1), strict=True):
                lines.append((*group, names[i], names[j], found[i, j], chance[i, j]))
    table = pd.DataFrame(lines, columns=[*PAIR, "jaccard", "chance"])
    return table.groupby(PAIR, as_index=False, sort=False).mean() if lines else table
