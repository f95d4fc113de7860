"""The terminal's first screen: whole names and numbers at any width, few lines, what else there is."""

import io
from itertools import pairwise

import pytest
from rich.console import Console
from synthetic_board import around, make, usual

from dpbench.analysis.board import Board, load_checked_in
from dpbench.analysis.table import records
from dpbench.errors import UsageError
from dpbench.reports import columns
from dpbench.reports.screen import LINES, Wanted, _fitting, screen

FIRST = Wanted()
NEXT = 3  # lines below it: the page, the samples, MLflow
LONG = "orderdp[explore=0.85,score=error_norm]"


def lines(board: Board, width: int = 80, wanted: Wanted = FIRST) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(screen(board, width, wanted))
    return [line.rstrip() for line in console.export_text().splitlines()]


def many(methods: int = 20, keeps: tuple[float, ...] = (0.1, 0.3, 0.5)) -> Board:
    names = ["uniform", "uniform_epoch", "full_short", *(f"aum[proxy_epochs={i}]" for i in range(1, methods + 1))]
    rows = {(name, keep): around(0.8 + 0.001 * i) for keep in keeps for i, name in enumerate(names)}
    return make({("full", 1.0): around(0.95), **rows})


@pytest.mark.parametrize("width", [60, 61, 80, 100, 140])
def test_names_and_numbers_are_whole_at_any_width(width: int) -> None:
    board = make({("full", 1.0): around(0.95), (LONG, 0.3): around(0.9, 0.1), ("uniform_epoch", 0.3): around(0.9)})
    text = lines(board, width)
    assert max(map(len, text)) <= width
    [row] = [row for row in records(board.table) if row["method"] == LONG]
    assert any(columns.accuracy(row) in line for line in text)
    names = {line[2:].split(" ")[0] for line in text if line[:2].strip()}
    assert {"orderdp", LONG} & names
    assert any(line.strip().startswith("[explore=0.85,sc") or LONG in line for line in text)
    assert "to full" in " ".join(text)
    if width >= 100:
        assert all(word in " ".join(text) for word in ("time", "seeds", "to random"))


def test_columns_leave_in_the_order_of_importance() -> None:
    rows = records(many().table)
    seen = [[c.name for c in _fitting(columns.named(columns.IMPORTANT), rows, width)] for width in range(60, 141)]
    for narrow, wide in pairwise(seen):
        assert wide[: len(narrow)] == narrow
    assert seen[0][:4] == ["method", "rank", "keep", "accuracy"]
    assert seen[-1] == list(columns.IMPORTANT)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_large_board_is_a_screen_of_the_best_and_the_controls(width: int) -> None:
    board = many()
    text = lines(board, width)
    assert len(text) <= LINES + 5 * (width < 80)
    assert sum("uniform " in line for line in text) == 3, "each keep's control"
    assert any("[proxy_epochs=20]" in line for line in text), "the best"
    assert "rows --all" in text[-1]
    assert f"{len(board.table)} " not in text[-1]
    everything = lines(board, width, Wanted(every=True))
    assert "--all" not in everything[-1]
    assert (
        sum("uniform " in line or "full" in line[:8] or "aum[" in line for line in everything) >= len(board.table) - 3
    )


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_quick_board_and_where_to_go_on_fit_a_screen(width: int) -> None:
    board = load_checked_in("quick")
    text = lines(board, width)
    assert len(text) + NEXT <= LINES
    assert {row["method"].split("[")[0] for row in records(board.table)} <= {w for line in text for w in line.split()}
    assert ("uniform_epoch: random per epoch" in " ".join(text)) == (width >= 80)


def test_notes_are_three_lines_at_most_and_the_rest_by_request() -> None:
    board = usual()
    text = lines(board, 60)
    end = max(i for i, line in enumerate(text) if not line)  # the table ends with an empty line
    assert 1 <= len(text) - end - 1 <= 3
    assert not any(line.startswith("!") for line in text)
    noted = lines(board, 140, Wanted(notes=True))
    assert sum(line.startswith("!") for line in noted) >= len({found.text for found in board.findings}) > 0


def test_wide_has_all_columns_at_any_width_and_chosen_ones_in_their_order() -> None:
    board = usual()
    for width in (60, 140):
        text = " ".join(lines(board, width, Wanted(wide=True)))
        for column in columns.telling(columns.COLUMNS, [{}]):
            assert all(word in text for word in column.header.split()), column.name
    header = next(line for line in lines(board, 80, Wanted(columns=("seeds", "cost"))) if "seeds" in line)
    assert header.split() == ["method", "keep", "seeds", "cost"]


def test_sorting() -> None:
    rows = records(usual().table)
    best = [row["accuracy_mean"] for row in columns.ordered(rows, "accuracy")]
    known = [value for value in best if value == value]
    assert known == sorted(known, reverse=True) == best[: len(known)]
    cost = [row["cost"] for row in columns.ordered(rows, "-cost")]
    assert cost[0] == max(value for value in cost if value == value)
    for column in columns.COLUMNS:
        assert len(columns.ordered(rows, column.name)) == len(rows)
    with pytest.raises(UsageError, match="unknown column 'acuracy'; did you mean accuracy"):
        Wanted(sort="acuracy")


def test_equivalent_to_full_is_marked() -> None:
    board = make({("full", 1.0): around(0.9), ("orderdp", 0.3): around(0.9, 0.001), ("uniform", 0.3): around(0.8)})
    assert "= equivalent within 0.5" in " ".join(lines(board))
    assert any("orderdp" in line and " =" in line for line in lines(board))
