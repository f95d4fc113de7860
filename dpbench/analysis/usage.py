"""How often each training sample was used by a row's runs, which stand out in their class, and likely wrong labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from dpbench.analysis.table import spreadsheet_safe
from dpbench.catalog import parse
from dpbench.errors import RunFailed
from dpbench.places import LEADERBOARDS
from dpbench.spec import Row, RunSpec, row_of
from dpbench.training.results import RunResult, is_finished, read_selections

if TYPE_CHECKING:
    from dpbench.data import Data

Values = NDArray[np.float64]
LOWEST = np.finfo(np.float64).min / 2**10  # for a score of minus infinity, so that means stay numbers


@dataclass(frozen=True)
class Usage:
    """In how many epochs a row's runs sent each of the n samples backward, and by which score they were chosen.

    All are means over the seeds; `scores` are high for what the method keeps, None where it chooses by no score.
    """

    row: Row
    spec: RunSpec
    seeds: int
    epochs: float
    times: Values
    scores: Values | None

    @property
    def even(self) -> bool:
        """Whether all samples were used equally often, as by full training."""
        return bool(np.ptp(self.times) == 0)

    @property
    def order(self) -> NDArray[np.int64]:
        """The samples from the most to the least used; ties by score, then drawn, the same for every row."""
        drawn = np.random.default_rng(0).permutation(len(self.times))
        scores = np.zeros(len(self.times)) if self.scores is None else self.scores
        return np.lexsort((drawn, -scores, -self.times))

    @property
    def standing(self) -> Values:
        """The share of the samples that the row puts behind each, by score or else by times used; ties share theirs."""
        values = self.times if self.scores is None else self.scores
        return (rankdata(values) - 0.5) / len(values)


def of_results(results: Iterable[RunResult]) -> Iterator[Usage]:
    """The usage of each row with finished runs whose selections are here, one row in memory at a time."""
    rows: dict[Row, list[RunResult]] = {}
    for result in results:
        if is_finished(result):
            rows.setdefault(row_of(result["spec"]), []).append(result)
    for row, runs in rows.items():
        found = _of_row(row, runs)
        if found is not None:
            yield found


def _of_row(row: Row, runs: list[RunResult]) -> Usage | None:
    times: list[Values] = []
    scores: list[Values] = []
    epochs: list[int] = []
    for run in runs:
        selections = read_selections(run)
        if selections is None or (times and len(times[0]) != selections.n):
            continue
        used = np.zeros(selections.n)
        for rows in selections.epochs:
            used[rows.numpy()] += 1
        times.append(used)
        epochs.append(len(selections.epochs))
        if selections.scores is not None:
            scores.append(np.nan_to_num(selections.scores.double().numpy(), nan=np.inf, posinf=np.inf, neginf=LOWEST))
    if not times:
        return None
    mean = np.mean(scores, axis=0) if len(scores) == len(times) else None
    spec = RunSpec.model_validate(runs[0]["spec"])
    return Usage(row, spec, len(times), float(np.mean(epochs)), np.mean(times, axis=0), mean)


def extremes(usage: Usage, labels: NDArray[np.int64], each: int) -> list[tuple[list[int], list[int]]]:
    """For each class its at most `each` most used samples, most first, and as many least used ones, least first."""
    order = usage.order
    found = []
    for label in range(int(labels.max()) + 1):
        members = order[labels[order] == label]
        most, least = (len(members) + 1) // 2, len(members) // 2  # no sample is in both
        found.append((members[: min(each, most)].tolist(), members[::-1][: min(each, least)].tolist()))
    return found


@cache
def by_loss() -> frozenset[str]:
    """The methods that go by how badly the label is fitted, the worst fitted first."""
    return frozenset(pd.read_csv(LEADERBOARDS / "by_loss.csv")["method"])


@dataclass(frozen=True)
class Suspects:
    """The samples of a dataset from the most to the least suspected of a wrong label, by the methods that tell it."""

    order: NDArray[np.int64]
    standing: Values  # (n,) in [0, 1], the mean over the methods
    methods: list[str]

    def found(self, noisy: NDArray[np.bool_]) -> int:
        """Of the labels that were made wrong, how many are among as many first suspects."""
        return int(noisy[self.order[: noisy.sum()]].sum())


class Suspicion:
    """Gather, row by row, the mean standing of the samples at methods that go by how badly the label is fitted.

    Such methods (`by_loss`) put samples with wrong labels first: they are learnt last (Pleiss et al. 2020, Toneva et
    al. 2019). A sample's standing is the share of samples that a method ranks behind it, by its score or else by how
    often it uses them; the suspects are those of highest mean over the methods, each counted once whatever its keeps.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, tuple[int, Values]]] = {}

    def add(self, usage: Usage) -> None:
        """Take a row in; rows of other methods do not count, nor do those that use all samples alike."""
        dataset, model, method, _ = usage.row
        name, params = parse(method)
        if name not in by_loss() or "score" in params or usage.even:
            return
        count, total = self.rows.setdefault((dataset, model), {}).get(method, (0, np.zeros(len(usage.times))))
        self.rows[dataset, model][method] = (count + 1, total + usage.standing)

    def result(self) -> dict[tuple[str, str], Suspects]:
        """The suspects by dataset and model."""
        found = {}
        for key, methods in self.rows.items():
            mean = np.mean([total / count for count, total in methods.values()], axis=0)
            found[key] = Suspects(np.argsort(-mean, kind="stable"), mean, list(methods))
        return found


def file_names(data: Data) -> list[str]:
    """The dataset's own names of its training samples, empty where it has none; images in memory have none."""
    return [""] * len(data.train)


def class_names(data: Data) -> list[str]:
    """The names of the classes, empty where the dataset does not tell them; images in memory come without."""
    return [""] * data.classes


def csv(usages: Iterable[Usage], root: Path | None) -> Iterator[str]:
    """CSV by parts, so that a large grid need not fit in memory; RunFailed if no run has its selections here."""
    empty = True
    for part in map(partial(table, root=root), usages):
        yield spreadsheet_safe(part).to_csv(index=False, header=empty, float_format="%.6g")
        empty = False
    if empty:
        raise RunFailed(
            "none of these rows has a finished run with its selections in this home; dpbench run makes them"
        )


def write(file: Path, parts: Iterable[str]) -> None:
    """Write text that comes by parts."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        stream.writelines(parts)


def table(usage: Usage, root: Path | None) -> pd.DataFrame:
    """One line a sample, most used first; `sample` is its place in the dataset's own training set."""
    from dpbench.training import loading

    data = loading.data_of(usage.spec, root)
    order, n = usage.order, len(usage.times)
    labels = data.train.labels.numpy()[order]
    names, classes = file_names(data), class_names(data)
    unknown = [None] * n
    columns = {
        **dict(zip(["dataset", "model", "method", "keep"], usage.row, strict=True)),
        "sample": data.positions.numpy()[order],
        "file name": [names[i] for i in order],
        "times used": usage.times[order],
        "score": unknown if usage.scores is None else usage.scores[order],
        "label": labels,
        "class": [classes[label] for label in labels],
        "epochs": usage.epochs,
        "seeds": usage.seeds,
        "label made wrong": unknown if data.noisy is None else data.noisy.numpy()[order],
    }
    return pd.DataFrame(columns, index=range(n))
