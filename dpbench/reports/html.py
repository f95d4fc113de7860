"""The leaderboard as one HTML file that needs nothing else: data as JSON in the page of the folder `page`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from dpbench.analysis import gallery, pareto, published, verdicts
from dpbench.analysis.board import Board
from dpbench.analysis.stats import WORDS
from dpbench.analysis.table import KEYS
from dpbench.reports import claimed, summary
from dpbench.reports.columns import MARKS
from dpbench.training import derived
from dpbench.training.measures import MEASURES, Measure
from dpbench.training.results import RunResult

DIGITS = 6  # significant digits of a shown number
LONGEST_CURVE = 60  # points of a row's curve
SCRIPTS = ("state.js", "table.js", "charts.js", "gallery.js", "notes.js")  # in the order in which they run


def page(board: Board) -> str:
    """Return the page."""
    parts = {
        "__STYLE__": _source("page.css"),
        "__SCRIPT__": "\n".join(map(_source, SCRIPTS)),
        "__DATA__": _embedded(_data(board)),
        "__DIAGRAMS__": _diagrams(board),
    }
    return re.sub("|".join(parts), lambda found: parts[found[0]], _source("page.html"))


def _source(name: str) -> str:
    return files("dpbench.reports").joinpath("page", name).read_text(encoding="utf-8")


def _embedded(content: Any) -> str:
    """JSON for a script element; every `<` is escaped, so that no name can end the element."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c")


def _diagrams(board: Board) -> str:
    """The critical-difference diagrams, one a model and keep; the page tells why where there is none."""
    if board.across_reason:
        return ""
    from dpbench.reports import figures

    places = verdicts.tested_over_datasets(board.runs)
    captions = (escape(f"{model}, keep {keep:g}: critical differences over datasets") for model, keep in places)
    drawn = zip(captions, figures.inline_diagrams(board), strict=True)
    return "".join(f"<figure><figcaption>{caption}</figcaption>{diagram}</figure>" for caption, diagram in drawn)


def _data(board: Board) -> dict[str, Any]:
    """All that the page shows, rows as lists in the order of `columns`."""
    table = board.table
    position = {row: i for i, row in enumerate(table[KEYS].itertuples(index=False, name=None))}
    runs, settings = _runs(board, position)
    epochs, curves = _curves(board, position)
    return {
        "name": board.grid.name,
        "description": f"{board.grid.description} {verdicts.looks_text(board.grid.looks)}".strip(),
        "track": board.track,
        "delta": board.grid.delta,
        "seeds": max((len({run[0] for run in part}) for part in runs), default=0),
        "headlines": [
            {**{name: _short(part[name].iloc[0]) for name in ("dataset", "model", "keep")}, "text": text}
            for part, text in zip(summary.parts(board), summary.headlines(board), strict=True)
        ],
        "plots": [_plot(part) for _, part in table.groupby(["dataset", "model"], sort=False)],
        "columns": list(table.columns),
        "words": {key: f"{MARKS.get(key, '')} {word}".strip() for key, word in WORDS.items()},
        "measures": {one.name: _declared(one) for one in MEASURES},
        "rows": [[_short(value) for value in row] for row in table.itertuples(index=False, name=None)],
        "runs": runs,
        "epochs": epochs,
        "curves": curves,
        "settings": settings,
        "findings": [
            {"badge": f.badge, "text": f.text, "row": None if f.row is None else position[f.row]}
            for f in board.findings
        ],
        "claims": {"lines": claimed.cells(board)[1:], "note": claimed.note(board)},
        "across": _records(board.across),
        "across_reason": board.across_reason,
        "times_reason": board.times_reason,
        "published": _records(published.beside(table, board.grid.delta)),
        **gallery.data(board),
    }


def _declared(one: Measure) -> dict[str, Any]:
    """What the page has to know of a measure; its meaning is plain text there."""
    return {
        "label": one.header[0].upper() + one.header[1:],
        "help": one.meaning.replace("`", ""),
        "digits": one.digits,
        "factor": one.factor,
        "up": one.better != "down",
        "column": bool(one.column),
        "drawn": one.drawn,
    }


def _plot(part: pd.DataFrame) -> dict[str, Any]:
    """Axes, fronts (rows by what they spend) and the methods to name, of one dataset's and model's picture."""
    fronts = {spent: part[pareto.front(part, spent)].sort_values(spent, kind="stable") for spent in pareto.SPENT}
    return {
        "dataset": part["dataset"].iloc[0],
        "model": part["model"].iloc[0],
        "accuracy": [_short(end) for end in pareto.accuracy_limits(part)],
        **{spent: _short(pareto.spent_limit(part, spent)) for spent in pareto.SPENT},
        "front": {spent: front.index.tolist() for spent, front in fronts.items()},
        "near": pareto.nearest(part),
    }


def _runs(
    board: Board, position: dict[tuple[str, str, str, float], int]
) -> tuple[list[list[Any]], list[dict[str, Any]]]:
    """Runs of each row (seed, hash, status, accuracy, reason, index of its settings), and the settings."""
    runs: list[list[Any]] = [[] for _ in position]
    settings: list[dict[str, Any]] = []
    for key, spec in board.cells.items():
        result = board.results.get(key)
        setting = spec.model_dump(include={"recipe", "budget", "probe"})
        if setting not in settings:
            settings.append(setting)
        said = ["MISSING", None, ""]
        if result is not None:
            said = [result["status"], _short(result.get("metrics", {}).get("accuracy")), result.get("reason", "")]
        run = [spec.seed, key, *said, settings.index(setting)]
        runs[position[spec.row]].append(run)
    return [sorted(part, key=lambda run: run[0]) for part in runs], settings


def _curves(
    board: Board, position: dict[tuple[str, str, str, float], int]
) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Mean curves of each row by name, as the index of its epochs and the values; and the lists of epochs, from 1."""
    found: list[list[RunResult]] = [[] for _ in position]
    for key, spec in board.cells.items():
        if key in board.results:
            found[position[spec.row]].append(board.results[key])
    places: dict[tuple[int, ...], int] = {}
    curves: list[dict[str, Any]] = []
    for results in found:
        curves.append({})
        for one in (one for one in MEASURES if one.drawn):
            epochs, values = _mean_curve([derived.curve(result, one.name) for result in results])
            if epochs:
                digits = one.digits + (2 if one.factor == 100 else 0)
                short = [round(value, digits) for value in values]
                curves[-1][one.name] = [places.setdefault(epochs, len(places)), short]
    return [list(epochs) for epochs in places], curves


def _mean_curve(curves: Iterable[list[float]]) -> tuple[tuple[int, ...], list[float]]:
    """The mean by epoch where all seeds have a value, thinned where there are many."""
    made = [curve for curve in curves if curve]
    if not made:
        return (), []
    shortest = min(map(len, made))
    mean = np.mean([curve[:shortest] for curve in made], axis=0)
    known = np.flatnonzero(np.isfinite(mean))
    if not len(known):
        return (), []
    chosen = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), LONGEST_CURVE), dtype=int))]
    return tuple((chosen + 1).tolist()), mean[chosen].tolist()


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): _short(value) for key, value in row.items()} for row in frame.to_dict("records")]


def _short(value: Any) -> Any:
    """A JSON value with few digits; null for what is not known."""
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return value.item() if isinstance(value, np.generic) else value
