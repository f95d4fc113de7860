"""The track of a board is named wherever it is shown, its rates where they differ; two tracks stand side by side."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from synthetic_board import around, make

from dpbench.analysis.board import Board
from dpbench.analysis.table import records
from dpbench.grid_file import change_grid
from dpbench.reports import formats, tracks
from dpbench.reports.columns import differing
from dpbench.reports.screen import screen

ROWS = {("full", 1.0): around(0.95), ("uniform", 0.3): around(0.9), ("orderdp", 0.3): around(0.92)}
FOUND = {"full": ("full", 0.1, 1.0), "uniform": ("uniform", 0.2, 0.3), "orderdp": ("orderdp[explore=0.5]", 0.03, 0.3)}


def on_the_fixed_recipe() -> Board:
    return make(ROWS | {("orderdp", 0.3): [*around(0.92, seeds=4), ("diverged", "the loss became nan")]})


def tuned(rates: dict[str, tuple[str, float, float]]) -> Board:
    """The same rows, each as tuning named it and at its rate."""
    board = make({(rates[method][0], keep): values for (method, keep), values in ROWS.items()})
    entries = [
        {"method": method, "dataset": "digits", "model": "cnn", "keep": keep, "chosen": chosen, "recipe": {"lr": rate}}
        | {"trials": 9, "spent": 1000, "rates": [rate / 3, rate]}
        for method, (chosen, rate, keep) in rates.items()
    ]
    grid = change_grid(board.grid, {"tuned": entries})
    cells: dict[str, Any] = {
        key: spec.model_copy(update={"recipe": grid.recipe_at(spec.row)}) for key, spec in board.cells.items()
    }
    return replace(board, grid=grid, cells=cells)


def shown(board: Board, width: int = 130) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(screen(board, width))
    return console.export_text()


@pytest.mark.parametrize(("board", "track"), [(make(ROWS), "fixed recipe"), (tuned(FOUND), "tuned (9 trials a row)")])
def test_every_form_of_a_board_names_its_track(board: Board, track: str) -> None:
    assert f"digits, cnn  {track}" in shown(board)
    for form in ("csv", "json", "markdown", "html"):
        assert track in formats.text(board, form), form


def test_rates_are_shown_where_rows_differ_in_them() -> None:
    assert differing(records(make(ROWS).table)) == []
    assert differing(records(tuned(FOUND).table)) == ["lr", "stability"]
    text = shown(tuned(FOUND))
    assert "rates that work" in " ".join(text.split())
    [line] = [line for line in text.splitlines() if "orderdp[explore=0.5]" in line and "0.03" in line]
    assert "0.01 to 0.03" in line
    assert "| 0.01 to 0.03 |" in formats.text(tuned(FOUND), "markdown")
    of_rows = {row["method"]: (row["lr"], row["stability"]) for row in records(tuned(FOUND).table)}
    assert of_rows["orderdp[explore=0.5]"] == (0.03, pytest.approx(3))


def test_two_tracks_side_by_side() -> None:
    said, verdicts, table = tracks.told(on_the_fixed_recipe(), tuned(FOUND))
    assert said.startswith("3 rows; tuned (9 trials a row), by 3,000 samples sent backward. ")
    assert "The mean accuracy of 0 rows is higher on the tuned track, that of 1 lower." in said, "0.92 over other seeds"
    assert said.endswith("on the fixed recipe `orderdp` at 0.3 (diverged 1/5); on the tuned track none.")
    assert "`orderdp` at 0.3 (from diverged 1/5 to worse)" in verdicts
    assert "uniform" not in verdicts
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert all(len(line) == len(lines[0]) for line in lines)
    [line] = [line for line in lines if line[0] == "`orderdp`"]
    assert (line[2], line[5], line[-2], line[-1]) == ("0.1", "0.03", "explore=0.5", "0.01 to 0.03")


def test_a_track_that_is_not_stored_is_told() -> None:
    [said] = tracks.paragraphs("theory")
    assert said.startswith(
        "The results of `theory_tuned` are not stored; `dpbench tune --grid theory --all` makes them."
    )
