"""Two methods head to head: every measure side by side, the paired difference, and how much they select alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dpbench import catalog
from dpbench.aliases import ALIASES
from dpbench.analysis import stats, verdicts
from dpbench.analysis.board import Board
from dpbench.analysis.table import KEYS, Line, broken, records
from dpbench.errors import UsageError
from dpbench.reports.columns import accuracy, difference, number
from dpbench.spec import canonical
from dpbench.training.measures import MEASURES


def screen(board: Board, a: str, b: str) -> Group:
    """One table a dataset, model and keep, and below it what the paired seeds say."""
    pairs = _pairs(board.table, a, b)
    runs = {row: part.set_index("seed")["accuracy"] for row, part in board.runs.groupby(KEYS)}
    step = float(board.runs["step"].max()) if len(board.runs) else 0.0
    none = pd.Series(dtype=float)
    differences = {
        i: stats.paired_difference(runs.get(_row(x), none), runs.get(_row(y), none), step=step)
        for i, (x, y) in enumerate(pairs)
    }
    compared = records(stats.compare(differences, b, board.grid.delta))
    shown: list[Any] = []
    for i, (x, y) in enumerate(pairs):
        trouble = [f"{row['method']}: {text}" for row in (x, y) if (text := broken(row))]
        said = Text(f"not compared: {'; '.join(trouble)}", style="bold") if trouble else _said(compared[i], a, b)
        shown += [_table(x, y), said, _alike(board, x, y), Text()]
    return Group(*shown)


def named(board: Board, text: str) -> str:
    """The method of the board that `text` names, as the board writes it."""
    return among(set(board.table["method"]), board.grid.name, text)


def among(methods: Iterable[str], grid: str, text: str) -> str:
    """The method that `text` names of those of a grid, as the grid writes it; UsageError if it has none such."""
    known = sorted(methods)
    if text in known:
        return text
    name = catalog.parse(text)[0]
    if name in (*catalog.names("methods"), *ALIASES) or ".py" in name:
        found = canonical(text)
        if found in known:
            return found
    near = [method for method in known if catalog.parse(method)[0] == name] or difflib.get_close_matches(text, known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"
    raise UsageError(f"no method {text!r} in the grid {grid}; {hint}")


def _pairs(table: pd.DataFrame, a: str, b: str) -> list[tuple[Line, Line]]:
    """The rows to compare: equal keeps, or every keep with the one row of a method whose keep is fixed."""
    pairs = []
    for _, part in table.groupby(["dataset", "model"], sort=False):
        xs, ys = (records(part[part["method"] == method]) for method in (a, b))
        pairs += [(x, y) for x in xs for y in ys if x["keep"] == y["keep"] or 1.0 in (x["keep"], y["keep"])]
    if not pairs:
        raise UsageError(f"{a} and {b} have no keep in common")
    return pairs


def _row(row: Line) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEYS)


def _table(x: Line, y: Line) -> Table:
    view = Table(
        title=escape(f"{x['dataset']}, {x['model']}"), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False
    )
    view.add_column("")
    for row in (x, y):
        view.add_column(escape(f"{row['method']} at {row['keep']:g}"), justify="right")
    view.add_row("accuracy %", accuracy(x), accuracy(y))
    lines = [("rank", [number(row["rank"], "d") for row in (x, y)])]
    lines.append(("random at its cost", [number(row["control_keep"], "g") for row in (x, y)]))
    lines.append(("  difference to it", [difference(row, verdicts.AT_COST) for row in (x, y)]))
    lines += [(one.header, [one.shown(row[one.name]) for row in (x, y)]) for one in MEASURES if one.column]
    for label, texts in lines:
        if texts != ["-", "-"]:
            view.add_row(label, *texts)
    return view


def _said(line: dict[str, Any], a: str, b: str) -> Text:
    """The paired difference in words."""
    if not line["n"]:
        return Text("No seed was finished by both.")
    interval = "" if pd.isna(line["half_width"]) else f" ± {line['half_width']:.2f}"
    p = "" if pd.isna(line["p"]) else f" (corrected p = {line['p']:.2g})"
    verdict = "; ".join(dict.fromkeys([line["verdict"], line["equivalence"]]))
    return Text(
        f"{a} - {b}: {line['mean']:+.2f}{interval} points over {line['n']} paired seeds{p}: {verdict}", style="bold"
    )


def _alike(board: Board, x: Line, y: Line) -> Text:
    """How much the two select the same samples."""
    lines = board.overlap.methods
    names = [x["method"], y["method"]]
    same = lines["method"].isin(names) & lines["other"].isin(names)
    at = (lines["dataset"] == x["dataset"]) & (lines["model"] == x["model"]) & (lines["keep"] == x["keep"])
    found = lines[same & at] if x["keep"] == y["keep"] else lines[:0]
    if found.empty:
        return Text()
    return Text(
        f"Jaccard of their selections {found['jaccard'].iloc[0]:.3f}, chance {found['chance'].iloc[0]:.3f}", style="dim"
    )
