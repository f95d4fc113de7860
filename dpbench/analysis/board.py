"""A grid with all that its leaderboard shows: from the runs of this home, or from the results that are checked in."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dpbench import __version__, claims, store
from dpbench.analysis import cached, flips, gallery, outcomes, overlap, verdicts
from dpbench.analysis import table as tables
from dpbench.analysis.fairness import Finding, lint
from dpbench.analysis.flips import Flips
from dpbench.analysis.gallery import Gallery
from dpbench.analysis.outcomes import Outcome
from dpbench.analysis.overlap import Overlap
from dpbench.analysis.ranks import MIN_DATASETS, MIN_METHODS
from dpbench.claims import Registered
from dpbench.errors import UsageError
from dpbench.experiments import grid as grids
from dpbench.experiments import history
from dpbench.places import LEADERBOARDS
from dpbench.spec import Grid, Row, RunSpec, row_of
from dpbench.training import results
from dpbench.training.results import RunResult, is_finished
from dpbench.tuned import track

MACHINE = ("machine", "device", "threads")  # what is recorded of it
QUIET = 0.9  # the share of its time that a run must have had a CPU, lest it count as one on a shared machine


@dataclass(frozen=True)
class Board:
    """A grid, its cells and results by hash, who selects the same samples, and the results of controls at cost.

    `flips` are those of the rows' test predictions, empty where these were not kept. `data_root` is where the
    datasets' files are, for pictures of samples; checked-in boards bring theirs in `pictures`. Of the `registered`
    files of claims the last one counts. `origins` tells of runs that came with a bundle.
    """

    grid: Grid
    cells: dict[str, RunSpec]
    results: dict[str, RunResult]
    overlap: Overlap
    checked_in: bool = False
    controls: dict[str, RunResult] = field(default_factory=dict)
    data_root: Path | None = None
    pictures: Gallery | None = None
    registered: tuple[Registered, ...] = ()
    flips: Flips = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """What the results say of the claims."""
        return outcomes.outcomes(self)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a dataset, model, method and keep; with a status where some runs came with a bundle."""
        of_others = (self.overlap, self.controls, self.flips)
        table = tables.table(self.cells, self.results, self.grid.delta, *of_others, self.grid)
        if not self.origins:
            return table
        runs: dict[Row, list[str]] = {}
        for key, spec in self.cells.items():
            runs.setdefault(spec.row, []).append(key)
        rows = [row_of(row) for row in tables.records(table)]
        return table.assign(status=[history.status(runs[row], self.origins) for row in rows])

    @property
    def track(self) -> str:
        """Whether all rows have the same recipe, or each has its own that was tuned."""
        return track(map(self.grid.tuning, dict.fromkeys(spec.row for spec in self.cells.values())))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """What datasets are compared by: the first look's runs of the rows that are whole, one a line.

        Methods are named as the grid lists them, since tuning may choose other parameters on each dataset.
        """
        found = verdicts.of_first_look(verdicts.runs_frame(self.results.values(), self.grid.looks), self.grid.looks)
        return found.assign(method=[self.grid.as_listed(row_of(line)) for line in tables.records(found)])

    @cached_property
    def findings(self) -> list[Finding]:
        """What departs from the protocol."""
        return lint(self.cells, self.results, self.table, self.grid)

    @cached_property
    def across(self) -> pd.DataFrame:
        """The summary over datasets, empty for one dataset."""
        return verdicts.across_datasets(self.runs)

    @cached_property
    def gallery(self) -> Gallery:
        """Pictures of the samples that were used most and least, and of suspected wrong labels."""
        if self.pictures is not None:
            return self.pictures
        if self.checked_in:
            return Gallery(note=f"The checked-in results have no pictures; dpbench run {self.grid.name} makes them.")
        return gallery.make(self.results.values(), self.data_root)

    @property
    def times_reason(self) -> str:
        """Why the runs' wall times are not comparable; empty where each had its CPU to itself, on like machines."""
        finished = [result for result in self.results.values() if is_finished(result)]
        if len({tuple(result["environment"].get(name) for name in MACHINE) for result in finished}) > 1:
            return "times not comparable: the runs were made on different machines"
        shares = [result["metrics"].get("time_on_cpu", math.nan) for result in finished]
        if any(map(math.isnan, shares)):
            return "times not comparable: it is not known whether the machine was shared"
        return "times not comparable: the machine was shared" if min(shares, default=1.0) < QUIET else ""

    @property
    def across_reason(self) -> str:
        """Why there is no test over datasets and no critical-difference diagram; empty where there is one."""
        if verdicts.tested_over_datasets(self.runs):
            return ""
        count = len({spec.dataset for spec in self.cells.values()})
        if count < MIN_DATASETS:
            return f"No test over datasets: it needs at least {MIN_DATASETS} of them, this grid has {count}."
        return f"No test over datasets: no keep has {MIN_METHODS} methods with runs on all {count} of them."

    def finished(self, dataset: str, model: str) -> dict[tuple[str, float], list[RunResult]]:
        """The finished runs of a dataset and model by method and keep, in the grid's order; of whole rows only."""
        broken = verdicts.broken(self.results.values())
        found: dict[tuple[str, float], list[RunResult]] = {}
        for key, spec in self.cells.items():
            result = self.results.get(key)
            here = (spec.dataset, spec.model) == (dataset, model) and spec.row not in broken
            if here and is_finished(result):
                found.setdefault((spec.method, spec.keep), []).append(result)
        return found


def load(name: str, data_root: Path | None = None) -> Board:
    """The board of a grid that was run here, else the one that is checked in."""
    try:
        grid, cells, controls, registered = grids.read_manifest(name)
    except UsageError:
        if not packed(name).is_file():
            raise
        return load_checked_in(name)
    made, at_cost = grids.results(cells), grids.results(controls)
    home, every = store.home(), [*made.values(), *at_cost.values()]
    alike = cached.of_runs(
        overlap.of_results,
        made.values(),
        "selections.npz",
        home / "overlap" / f"{name}.json",
        overlap.written,
        overlap.read,
    )
    flipped = cached.of_runs(
        flips.of_results, every, "predictions.npz", home / "flips" / f"{name}.json", flips.written, flips.read
    )
    board = Board(grid, cells, made, alike, controls=at_cost, data_root=data_root, flips=flipped)
    return replace(board, registered=registered or _unregistered(name), origins=history.origins(made))


def _unregistered(grid: str) -> tuple[Registered, ...]:
    """The claims about a built-in grid that was run without them: they come after the fact."""
    text = claims.of_file(grid)
    return () if text is None else (Registered(date=None, text=text),)


def load_checked_in(name: str) -> Board:
    """The board of a grid that comes with dpbench, whatever was run here."""
    path = packed(name)
    try:
        content = (path, *(store.stamp(path) or ()))
        board = _unpacked(*content)
        return board if board.registered else _claimed(_unregistered(name), *content)
    except (*store.BAD, OSError, zlib.error) as error:
        why = store.brief(error)
        raise UsageError(
            f"the results of {name} that come with dpbench are damaged: {why}; reinstall dpbench"
        ) from None


@cache
def _unpacked(path: Path, *stamp: int) -> Board:  # a page of the documentation has several blocks about one board
    return unpack(path.read_bytes())


@cache
def _claimed(registered: tuple[Registered, ...], path: Path, *stamp: int) -> Board:
    return replace(_unpacked(path, *stamp), registered=registered)


def packed(name: str) -> Path:
    """The file of a grid's checked-in board, which need not be there."""
    return LEADERBOARDS / "results" / name / "results.json.gz"


def pack(board: Board, pictures: bool = False) -> bytes:
    """Write a board as one compressed file that needs no run folder; the same board gives the same bytes.

    With `pictures` it has those of the samples too, which are gathered from all runs' selections.
    """
    content: dict[str, Any] = {
        "dpbench": __version__,
        "grid": board.grid.model_dump(),
        "cells": {key: spec.model_dump() for key, spec in board.cells.items()},
        "results": board.results,
        "controls": board.controls,
        "overlap": overlap.written(board.overlap),
    }
    if registered := [one.model_dump() for one in board.registered if one.date is not None]:
        content["claims"] = registered
    content |= {"flips": flips.written(board.flips)} if board.flips else {}
    content |= {"origins": board.origins} if board.origins else {}
    return results.pack(content | ({"pictures": board.gallery.model_dump(mode="json")} if pictures else {}))


def unpack(packed: bytes) -> Board:
    """Read what `pack` wrote."""
    content = results.unpack(packed)
    return Board(
        Grid.model_validate(content["grid"]),
        {key: RunSpec.model_validate(spec) for key, spec in content["cells"].items()},
        content["results"],
        overlap.read(content["overlap"]),
        checked_in=True,
        controls=content["controls"],
        pictures=Gallery.model_validate(content["pictures"]) if "pictures" in content else None,
        registered=tuple(Registered.model_validate(one) for one in content.get("claims", [])),
        flips=flips.read(content.get("flips", [])),
        origins=content.get("origins", {}),
    )
