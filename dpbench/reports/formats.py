"""The leaderboard as text: JSON, CSV, markdown and LaTeX."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from dpbench.analysis import published, verdicts
from dpbench.analysis.board import Board
from dpbench.analysis.fairness import Finding
from dpbench.analysis.table import Line, csv, records
from dpbench.reports import claimed, html
from dpbench.reports.columns import difference, differing, named, number, p_value, pipes, telling

LEGEND = (
    "▲ better, ▼ worse, ≈ not separable, = equivalent to full within the grid's delta: differences are paired and in "
    "points; their 95 % intervals hold all at once"
)
SHOWN: tuple[str, ...] = (
    "rank",
    "method",
    "keep",
    "accuracy",
    "to_uniform",
    "to_uniform_epoch",
    "prune",
    "cost_with_proxy",
    "time",
)
SHOWN += ("jaccard", "chance", "cosine", "seeds", "status")  # the columns of markdown and LaTeX
AT_COST = "Against random per epoch at the realised cost"
LEFT = {"dataset", "model", "method"}  # columns of names


def text(board: Board, form: str) -> str:
    """Write the leaderboard as "json" (a list of rows), "csv", "latex", "html", "summary" (sentences) or "markdown"."""
    match form:
        case "json":
            return as_json(published.with_rows(board.table, board.grid.delta))
        case "csv":
            return csv(published.with_rows(board.table, board.grid.delta))
        case "latex":
            return latex(board.table)
        case "html":
            return html.page(board)
        case "summary":
            from dpbench.reports import summary

            return summary.text(board)
        case _:
            return markdown(board)


def as_json(frame: pd.DataFrame) -> str:
    """A list of rows; what is not known is null."""
    return json.dumps(plain(frame), indent=1, allow_nan=False)


def plain(frame: pd.DataFrame) -> list[Line]:
    """The rows as JSON values."""
    return [{key: None if pd.isna(value) else value for key, value in row.items()} for row in records(frame)]


def markdown(board: Board) -> str:
    """The table, what to know before reading it, the summary over datasets, and the published figures."""
    ruled = [list(line) for line in cells(board.table)]
    parts = [
        _pipes(["dataset", "model", *ruled[0]], [_names(row) + line for row, line in _zip(board.table, ruled[1:])])
    ]
    if len(at_cost := at_cost_cells(board.table)) > 1:
        parts.append(f"**{AT_COST}**\n\n{_pipes(at_cost[0], at_cost[1:])}")
    parts.append(f"Track: {board.track}.")
    parts.append(f"{LEGEND}. Cost is (forward + 2 backward) / (3 n epochs). Accuracies have their own 95 % intervals.")
    if board.outcomes:
        header, *lines = claimed.cells(board)
        parts.append(f"**Claims**\n\n{_pipes(header, lines)}\n\n{claimed.note(board)}.")
    parts += [said] if (said := verdicts.looks_text(board.grid.looks)) else []
    if board.findings:
        parts.append("\n".join(f"- {md(line)}" for line in finding_lines(board.findings)))
    parts.append(across_markdown(board))
    parts.append(published_markdown(board))
    return "\n\n".join(parts)


def across_markdown(board: Board) -> str:
    """The summary over datasets, or the one line that says why there is none."""
    reason = md(board.across_reason)
    if board.across.empty:
        return reason
    header, *lines = across_cells(board)
    return "**Over datasets**\n\n" + _pipes(header, lines) + (f"\n\n{reason}" if reason else "")


def at_cost_cells(frame: pd.DataFrame) -> list[list[str]]:
    """Header and rows as short text: each row that random at its keep does not match in cost, with its own control."""
    lines = [["dataset", "model", "method", "keep", "cost", "random at", "to it", "p"]]
    for row in records(frame[frame["control_keep"].notna()]):
        numbers = [number(row["cost"], ".2f"), number(row["control_keep"], "g")]
        texts = [difference(row, verdicts.AT_COST), p_value(row["difference_control_p"])]
        lines.append([*_names(row), row["method"], f"{row['keep']:g}", *numbers, *texts])
    return lines


def across_cells(board: Board) -> list[list[str]]:
    """Header and rows of the summary over datasets as short text."""
    lines = [["model", "keep", "method", "mean rank", "IQM %", "beats random"]]
    for row in records(board.across):
        rank = f"{row['rank']:.2f} [{row['rank_low']:.2f}, {row['rank_high']:.2f}]"
        mean = f"{row['iqm']:.2f} [{row['iqm_low']:.2f}, {row['iqm_high']:.2f}]"
        chance = number(row.get("beats_random"), ".2f")
        lines.append([row["model"], f"{row['keep']:g}", row["method"], rank, mean, chance])
    return lines


def published_markdown(board: Board) -> str:
    """Published accuracies beside the measured ones."""
    lines = published.beside(board.table, board.grid.delta).to_dict("records")
    if not lines:
        return "No published figures are known for these datasets and models."
    header = ["method", "dataset", "model", "pruned", "published %", "measured %", "compared", "paper", "source"]
    names = ["method", "dataset", "model", "prune_ratio", "published", "measured", "compared", "paper", "source"]
    header, names = ([*listed, "status"] for listed in (header, names))
    texts = [[number(line[name], ".2f") if name == "measured" else str(line[name]) for name in names] for line in lines]
    return "**Published figures**, beside the measured ones, never part of a rank\n\n" + _pipes(header, texts)


def _zip(frame: pd.DataFrame, lines: list[list[str]]) -> list[tuple[Line, list[str]]]:
    return list(zip(records(frame), lines, strict=True))


def _names(row: Line) -> list[str]:
    return [row["dataset"], row["model"]]


def _pipes(header: list[str], lines: list[list[str]]) -> str:
    escaped = [list(map(md, line)) for line in (header, *lines)]
    return pipes([escaped[0], ["---"] * len(header), *escaped[1:]])


def md(cell: str) -> str:
    """Text that markdown and HTML in it leave as it is."""
    for mark, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("[", "\\["), ("`", "\\`")):
        cell = cell.replace(mark, written)
    return cell


def latex(frame: pd.DataFrame) -> str:
    """A booktabs table, and one of the rows with a control at their cost, where there are any."""
    header, *lines = cells(frame)
    ends = frame[["dataset", "model", "keep"]].ne(frame[["dataset", "model", "keep"]].shift(-1)).any(axis=1)
    found = [["dataset", "model", *header], *([*_names(row), *line] for row, line in _zip(frame, lines))]
    at_cost = at_cost_cells(frame)
    caption = f"\n\n{AT_COST}:\n\n"
    return _tabular(found, [*ends[:-1], False]) + (caption + _tabular(at_cost) if len(at_cost) > 1 else "")


def _tabular(lines: list[list[str]], ends: list[bool] | None = None) -> str:
    """A booktabs table with a rule after each line that ends a section."""
    columns = "".join("l" if name in LEFT else "r" for name in lines[0])
    marked = zip(lines[1:], ends or [False] * len(lines), strict=False)
    body = [_amp(line) + ("\n\\midrule" if end else "") for line, end in marked]
    parts = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _amp(lines[0]), "\\midrule", *body]
    return "\n".join([*parts, "\\bottomrule", "\\end{tabular}"])


_LATEX = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
_LATEX |= {mark: f"\\{mark}" for mark in "&%$#_{}"}
_LATEX |= {"±": "$\\pm$", "▲": "$\\blacktriangle$", "▼": "$\\blacktriangledown$", "≈": "$\\approx$"}
_LATEX |= {"<": "$<$", ">": "$>$", "[": "{[}"}


def _amp(line: list[str]) -> str:
    return " & ".join("".join(_LATEX.get(mark, mark) for mark in cell) for cell in line) + " \\\\"


def finding_lines(findings: list[Finding]) -> list[str]:
    """One line a finding; rows with the same one share it."""
    rows: dict[tuple[str, str], list[str]] = {}
    for found in findings:
        where = [] if found.row is None else [f"{found.row[2]} at {found.row[3]:g}"]
        rows.setdefault((found.badge, found.text), []).extend(where)
    names = {key: ", ".join(dict.fromkeys(where)) for key, where in rows.items()}  # one method on several datasets
    return [f"{badge}: {where + ': ' if where else ''}{text}" for (badge, text), where in names.items()]


def table(title: str, lines: list[list[str]], ends: list[bool] | None = None) -> Table:
    """A table whose texts are taken as they are; a rule after each line that ends a section."""
    view = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 0), pad_edge=False)
    for name in lines[0]:
        justify: Any = "left" if name in LEFT else "right"
        header = name.replace("random ", "random\n").replace("cost ", "cost\n")  # the longest names
        view.add_column(header, justify=justify, overflow="fold", no_wrap=name != "method")
    for line, end in zip(lines[1:], ends or [False] * len(lines), strict=False):
        view.add_row(*map(escape, line), end_section=end)
    return view


def cells(frame: pd.DataFrame) -> list[list[str]]:
    """Header and rows as short text."""
    rows = records(frame)
    columns = telling(named([*SHOWN, *differing(rows)]), rows)
    return [[column.header for column in columns], *([c.cell(row) for c in columns] for row in rows)]
