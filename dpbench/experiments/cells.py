"""The cells of a grid one by one, each by a command of its own, so that any scheduler can run them in any order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from dpbench import catalog
from dpbench.errors import UsageError
from dpbench.experiments import controls
from dpbench.experiments import grid as grids
from dpbench.experiments.grid import CELL_TIMEOUT_S, Manifest
from dpbench.spec import Grid, Row, RunSpec
from dpbench.training.results import is_done

if TYPE_CHECKING:
    import torch


def listed(grid: Grid, data_root: Path | None, claims: str | None = None) -> tuple[list[str], int]:
    """Write the manifest, with the claims; return the cells whose commands have something to do, and how many are.

    The commands of a row's seeds are as many as its cells; the one that ends last runs the row's controls, too. Where
    only these are missing, the first seed's command is listed again.
    """
    from dpbench.training import loading

    cells = {spec.hash: spec for spec in grid.runs(loading.fingerprints(grid.datasets, data_root))}
    for method in {spec.method for spec in cells.values()}:
        catalog.load_method(method).ready()
    manifest = grids.write_manifest(grid, cells, claims)
    todo = [key for key in cells if not is_done(key)]
    waiting = {cells[key].row for key in todo}
    first = {spec.row: key for key, spec in reversed(cells.items())}  # the first seed's cell of each row
    for key, spec in cells.items():
        row = spec.row
        if key == first[row] and row not in waiting and any(not is_done(one) for one in controls_of(manifest, row)):
            todo.append(key)
    return todo, len(cells)


def controls_of(manifest: Manifest, row: Row) -> dict[str, RunSpec]:
    """The controls at realised cost of a row; none while one of its seeds is not done, which may change its cost."""
    seeds = {key: spec for key, spec in manifest.cells.items() if spec.row == row}
    return controls.plan(manifest.cells, grids.results(seeds)) if all(map(is_done, seeds)) else {}


def run_cell(
    grid: str,
    key: str,
    console: Console,
    threads: int = 1,
    device: torch.device | None = None,
    data_root: Path | None = None,
    cell_timeout_s: float = CELL_TIMEOUT_S,
) -> dict[str, RunSpec]:
    """Run one cell of a grid that was listed, and, after the last seed of its row, the row's controls; return them."""
    manifest = grids.find_manifest(grid)
    spec = manifest.cells.get(key) if manifest else None
    if manifest is None or spec is None:
        raise UsageError(f"the grid {grid} has no cell {key} here; dpbench run {grid} --list-commands lists them")
    if spec.hash != key:
        raise UsageError(f"the cell {key} was listed by other code; dpbench run {grid} --list-commands lists it anew")

    def added() -> dict[str, RunSpec]:
        own = controls_of(manifest, spec.row)
        if own:
            grids.list_controls(grid, lambda now: now.controls | own)
        return own

    carried = {key: spec}
    return grids.run_cells(grid, carried, added, console, 1, threads, device, data_root, cell_timeout_s)
