"""Add seeds to the rows whose verdicts are open, at looks that are planned before the first one."""

from __future__ import annotations

from collections.abc import Callable, Container
from itertools import pairwise
from typing import TypeAlias

from dpbench.analysis import board as boards
from dpbench.analysis import verdicts
from dpbench.analysis.board import Board
from dpbench.analysis.stats import MIN_SEEDS
from dpbench.errors import UsageError
from dpbench.experiments import controls
from dpbench.spec import Grid, Row, RunSpec

Cells: TypeAlias = dict[str, RunSpec]
TIMES = 4  # the seeds of the last look by those of the first, where nothing else is said


def planned(grid: Grid, most: int | None) -> Grid:
    """The grid with its looks: at its own number of seeds, at twice as many and so on, and last at `most`."""
    if grid.looks:
        if grid.looks[0] != grid.seeds or most not in (None, grid.looks[-1]):
            planned = ", ".join(map(str, grid.looks))
            raise UsageError(f"the grid plans its looks itself, at {planned} seeds; leave --seeds and --max-seeds out")
        return grid
    first, last = grid.seeds, TIMES * grid.seeds if most is None else most
    if first < MIN_SEEDS:
        raise UsageError(f"--until-separated begins with the grid's seeds, at least {MIN_SEEDS}, not {first}")
    if last < first:
        raise UsageError(f"--max-seeds {last}: the grid has {first} seeds already")
    looks = [first]
    while looks[-1] < last:
        looks.append(min(2 * looks[-1], last))
    return grid.model_copy(update={"looks": looks})


def run(grid: Grid, run_grid: Callable[..., Cells], tell: Callable[[str], None]) -> Cells:
    """Run the first look of a grid, then by look the rows whose comparisons are open, with their controls.

    `run_grid` runs a grid, or these cells of it; what is done already takes no time, so an interrupted command goes on
    where it was. A row with seeds that diverged or failed gets no more. Return all cells and controls by hash.
    """
    made = run_grid(grid)
    among = {spec.row for spec in made.values()}
    for seeds, more in pairwise(grid.looks):
        board = boards.load(grid.name)
        rows, count = open_rows(board, among)
        if not rows:
            break
        tell(f"Open comparisons at {seeds} seeds: {count}; rows that go on to {more} seeds: {len(rows)}")
        first = {spec.row: spec for spec in board.cells.values()}
        going_on = [spec for row, spec in first.items() if row in rows]
        asked = [spec.model_copy(update={"seed": seed}) for seed in range(more) for spec in going_on]
        made |= run_grid(grid, cells={spec.hash: spec for spec in asked})
    rows, count = open_rows(boards.load(grid.name), among)
    tell(f"Open comparisons after all {grid.looks[-1]} seeds: {count}" if rows else "No comparison is open")
    return made


def open_rows(board: Board, among: Container[Row]) -> tuple[set[Row], int]:
    """As `verdicts.open_rows`, of a board."""
    keeps = controls.keeps(board.cells, board.results)
    delta, looks = board.grid.delta, board.grid.looks
    found = verdicts.compared(board.results.values(), delta, board.controls.values(), keeps, board.flips, looks)
    return verdicts.open_rows(found, delta, among)
