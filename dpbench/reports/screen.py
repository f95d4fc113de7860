"""The leaderboard for the terminal: what a practitioner wants to know in a sentence, then a table of any width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dpbench import catalog
from dpbench.analysis import published, verdicts
from dpbench.analysis.board import Board
from dpbench.analysis.stats import EQUIVALENT, WORDS
from dpbench.analysis.table import Line, records
from dpbench.experiments.controls import EXEMPT
from dpbench.reports import claimed, formats, summary
from dpbench.reports.columns import BY_NAME, COLUMNS, MARKS, Column, important, named, ordered, telling

LINES = 40  # of a screen that can be read at once
AROUND = 19  # of them that are no row: sentences, headers, notes and what to do next
SENTENCES = 3
FEWEST = 3  # methods of each keep, however many keeps there are
SORTED = 24  # rows of a sorted table
NARROW = 18  # characters that a method's name has at least; a longer one is wrapped
CONTROLS = {"full": "all data", "uniform": "random", "uniform_epoch": "random per epoch"}
BESIDE = ("rank", "method", "keep")  # columns that each part of a table in several parts has


@dataclass(frozen=True)
class Wanted:
    """What the user asks to be shown: all columns, these, sorted by one, all rows, all notes."""

    wide: bool = False
    columns: tuple[str, ...] = ()
    sort: str = ""
    every: bool = False
    notes: bool = False

    def __post_init__(self) -> None:
        named([*self.columns, *([self.sort.removeprefix("-")] if self.sort else [])])


def screen(board: Board, width: int, wanted: Wanted = Wanted()) -> Group:
    """Sentences, one table a dataset and model, and at most four lines of notes."""
    told = summary.headlines(board)
    more = f"{len(told) - SENTENCES} more such sentences: --notes" if len(told) > SENTENCES and not wanted.notes else ""
    said: list[Any] = [_marked(line) for line in (told if wanted.notes else told[:SENTENCES])]
    said += [Text(more, style="dim")] if more else []
    shown: list[Any] = []
    hidden = 0
    keeps = max(1, len(board.table.loc[board.table["keep"] < 1, ["dataset", "model", "keep"]].drop_duplicates()))
    for (dataset, model), part in board.table.groupby(["dataset", "model"], sort=False):
        rows = records(part)
        kept = _rows(rows, keeps, wanted)
        hidden += len(rows) - len(kept)
        shown.append(Text.assemble((f"\n{dataset}, {model}", "bold"), (f"  {board.track}", "dim")))
        for i, table in enumerate(_tables(kept, width, wanted)):
            shown += [Text()] * (i > 0) + [table]
    if not board.across.empty and not wanted.columns:
        shown.append(formats.table("over datasets", formats.across_cells(board)))
    return Group(*said, *shown, *_notes(board, hidden, width, wanted))


def _marked(line: str) -> Text:
    """A sentence with the names of methods, which markdown has in backticks, in bold."""
    return Text.assemble(*((part, "bold" if i % 2 else "") for i, part in enumerate(line.split("`"))))


def _rows(rows: list[Line], keeps: int, wanted: Wanted) -> list[Line]:
    """All rows, or so many that they fit a screen: of each keep the first in rank, and the controls."""
    if wanted.sort:
        rows = ordered(rows, wanted.sort)
    if wanted.every:
        return rows
    if wanted.sort:
        return rows[:SORTED]
    room = max(FEWEST, (LINES - AROUND - 5 * keeps) // keeps)  # a keep's three controls, its rule and half a sentence
    kept, taken = [], dict.fromkeys((row["keep"] for row in rows), 0)
    for row in rows:
        control = catalog.parse(row["method"])[0] in EXEMPT
        if control or taken[row["keep"]] < room:
            kept.append(row)
            taken[row["keep"]] += not control
    return kept


def _tables(rows: list[Line], width: int, wanted: Wanted) -> list[Table]:
    """One table of the columns that fit; or all that are asked for, in as many tables as that takes."""
    if not wanted.wide and not wanted.columns:
        chosen = _fitting(important(rows), rows, width)
        return [_table([column for column in COLUMNS if column in chosen], rows, width, wanted)]
    beside = [BY_NAME[name] for name in (BESIDE if wanted.wide else BESIDE[1:])]
    asked = named(wanted.columns) if wanted.columns else telling(COLUMNS, rows)
    waiting = [column for column in asked if column not in beside]
    tables: list[Table] = []
    while waiting or not tables:
        chosen = _fitting([*beside, *waiting], rows, width)
        fitting = [column for column in waiting if column in chosen] or waiting[:1]
        tables.append(_table([*beside, *fitting], rows, width, wanted))
        waiting = waiting[len(fitting) :]
    return tables


def _fitting(columns: Sequence[Column], rows: list[Line], width: int) -> list[Column]:
    """The first of the columns, as many as fit."""
    chosen: list[Column] = []
    for column in columns:
        least = _width(column, rows)
        width -= (min(least, NARROW) if column.name == "method" else least) + bool(chosen)
        if width < 0:
            break
        chosen.append(column)
    return chosen


def _width(column: Column, rows: list[Line]) -> int:
    """What its cells need, and the longest word of its header."""
    return max(map(len, [*column.header.split(), *(column.cell(row) for row in rows)]))


def _table(columns: list[Column], rows: list[Line], width: int, wanted: Wanted) -> Table:
    """A rule after each keep; only a method's name is ever wrapped."""
    view = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False, show_edge=False)
    widths = {column.name: _width(column, rows) for column in columns}
    others = sum(size + 1 for name, size in widths.items() if name != "method")
    widths["method"] = max(1, min(widths["method"], width - others))
    for column in columns:
        left = column.name == "method"
        view.add_column(
            Text(column.header), justify="left" if left else "right", overflow="fold", width=widths[column.name]
        )
    for row, following in pairwise([*rows, None]):
        assert row is not None
        last = not wanted.sort and following is not None and row["keep"] != following["keep"]
        texts = [_broken(column.cell(row), widths[column.name]) for column in columns]
        view.add_row(*map(Text, texts), end_section=last)
    return view


def _broken(text: str, width: int) -> str:
    """A name that is too long, broken before its parameters."""
    return text.replace("[", "\n[", 1) if len(text) > width else text


def _notes(board: Board, hidden: int, width: int, wanted: Wanted) -> list[Any]:
    """What the marks mean, and how to see what is not shown; or all that is to know."""
    equal = f"= {EQUIVALENT[True]} within {board.grid.delta:g}" if _equal(board) else ""
    legend = ", ".join(filter(None, [*(f"{mark.strip()} {WORDS[key]}" for key, mark in MARKS.items()), equal]))
    looks = f" over {len(board.grid.looks)} looks" if len(board.grid.looks) > 1 else ""
    notes: list[Any] = [Text(f"\n{legend} (paired, 95 %{looks})", style="dim")]
    named = {catalog.parse(method)[0] for method in board.table["method"]} if width >= 80 else ()
    known_as = ", ".join(f"{name}: {meaning}" for name, meaning in CONTROLS.items() if name in named)
    notes += [Text(known_as, style="dim")] if known_as else []
    if claims := claimed.in_short(board):
        notes.append(claimed.screen(board) if wanted.notes else Text(f"{claims}: --notes"))
    if wanted.notes:
        if len(at_cost := formats.at_cost_cells(board.table)) > 1:
            notes.append(formats.table(formats.AT_COST.lower(), at_cost))
        notes += _published(board)
        known = f"{formats.LEGEND}. Cost is (forward + 2 backward) / (3 n epochs), full training's is 1."
        notes += [Text(text, style="dim")] if (text := verdicts.looks_text(board.grid.looks)) else []
        notes += [
            Text(line, style="dim") for line in [known, *(f"! {one}" for one in formats.finding_lines(board.findings))]
        ]
    more = [f"{hidden} rows --all"] * (hidden > 0)
    more += ["notes --notes"] * (not wanted.notes)  # not counted: that takes the methods' code, and so torch
    more += ["columns --wide"] * (not wanted.wide and not wanted.columns)
    if more:
        notes.append(Text(f"More: {', '.join(more)}", style="dim"))
    return notes


def _published(board: Board) -> list[Any]:
    """A table of the figures that papers have for each dataset and model of the board, if there are any."""
    found = published.beside(board.table, board.grid.delta)
    tables: list[Any] = []
    for (dataset, model), part in found.groupby(["dataset", "model"], sort=False) if len(found) else ():
        view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for name in ("method", "pruned", "published %", "measured %", "compared", "source", "status"):
            view.add_column(name, overflow="fold", no_wrap=name == "status")
        for line in records(part):
            measured = formats.number(line["measured"], ".2f")
            numbers = [line["method"], line["prune_ratio"], line["published"], measured]
            view.add_row(*map(Text, map(str, [*numbers, line["compared"], line["source"], line["status"]])))
        tables += [Text(f"\npublished figures of {dataset}, {model}, never part of a rank"), view]
    return tables


def _equal(board: Board) -> bool:
    return any(text.startswith(EQUIVALENT[True]) for text in board.table["equivalence_full"])
