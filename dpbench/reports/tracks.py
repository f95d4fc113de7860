"""The two tracks of a grid side by side: each row at the recipe of all, and at the one that was tuned for it."""

from __future__ import annotations

from collections.abc import Iterable

from dpbench import catalog
from dpbench.analysis import board as boards
from dpbench.analysis.board import Board
from dpbench.analysis.stats import WORDS
from dpbench.analysis.table import Line, broken, records
from dpbench.reports.columns import BY_NAME, pipes, word
from dpbench.spec import row_of
from dpbench.tuned import SUFFIX

Pair = tuple[Line, Line]


def paragraphs(name: str) -> list[str]:
    """The checked-in board of a grid beside that of its tuned track; one line where that is not stored."""
    of_tuned = f"{name}{SUFFIX}"
    if not boards.packed(of_tuned).is_file():
        return [f"The results of `{of_tuned}` are not stored; `dpbench tune --grid {name} --all` makes them."]
    return told(boards.load_checked_in(name), boards.load_checked_in(of_tuned))


def told(fixed: Board, tuned: Board) -> list[str]:
    """What diverged on each track, the rows whose verdicts differ, and a table of all."""
    pairs = paired(fixed, tuned)
    spent = sum(one.spent or 0 for one in tuned.grid.tuned)
    head = f"{len(pairs)} rows; {tuned.track}, by {spent:,} samples sent backward."
    lost = [
        f"on the {track} {_listed([f'{_name(row)} ({broken(row)})' for row in rows if broken(row)])}"
        for track, rows in (("fixed recipe", [a for a, _ in pairs]), ("tuned track", [b for _, b in pairs]))
    ]
    higher = sum(after["accuracy_mean"] > before["accuracy_mean"] for before, after in pairs)
    lower = sum(after["accuracy_mean"] < before["accuracy_mean"] for before, after in pairs)
    head = f"{head} The mean accuracy of {higher} rows is higher on the tuned track, that of {lower} lower."
    return [f"{head} With seeds that diverged or failed: {'; '.join(lost)}.", *_changed(pairs), _table(pairs)]


def paired(fixed: Board, tuned: Board) -> list[Pair]:
    """Each row of the fixed recipe with what it became, in the order of the grid."""
    before, after = ({row_of(row): row for row in records(board.table)} for board in (fixed, tuned))
    found = []
    for one in tuned.grid.tuned:
        where, keep = (one.dataset or "", one.model or ""), one.keep or 1.0
        old, new = (*where, one.method, keep), (*where, one.becomes, keep)
        if old in before and new in after:
            found.append((before[old], after[new]))
    return found


def _changed(pairs: Iterable[Pair]) -> list[str]:
    """Of which rows the verdict to full training is another one."""
    texts = []
    for before, after in pairs:
        old, new = _word(before), _word(after)
        if old != new:
            texts.append(f"{_name(before)} (from {old} to {new})")
    return [f"The verdict to full training differs for {_listed(texts)}."]


def _word(row: Line) -> str:
    """The verdict to full training in a word or two, or why there is none."""
    if row["equivalence_full"].startswith("equivalent"):
        return "equivalent"
    return broken(row) or WORDS.get(word(row, "full"), WORDS["no"])


def _table(pairs: Iterable[Pair]) -> str:
    columns = [BY_NAME[name] for name in ("lr", "accuracy", "to_full")]
    lines = [["method", "keep", *(f"{track}: {column.header}" for track in ("fixed", "tuned") for column in columns)]]
    lines[0] += ["parameters found", "rates that work"]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for before, after in pairs:
        cells = [column.cell(row) for row in (before, after) for column in columns]
        found, given = (catalog.parse(row["method"])[1] for row in (after, before))
        chosen = ", ".join(f"{key}={value}" for key, value in found.items() if given.get(key) != value)
        name = f"`{before['method']}`"
        lines.append([name, f"{before['keep']:g}", *cells, chosen or "-", BY_NAME["stability"].cell(after)])
    return pipes(lines)


def _name(row: Line) -> str:
    return f"`{row['method']}` at {row['keep']:g}"


def _listed(texts: list[str]) -> str:
    return ", ".join(texts) if texts else "none"
