"""The leaderboard as one HTML file that needs nothing else: data as JSON in the page of leaderboard.html."""

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

from dpbench import gallery, measures, published, verdicts
from dpbench.board import Board
from dpbench.leaderboard import KEYS

DIGITS = 6  # significant digits of a shown number
LONGEST_CURVE = 60  # points of a row's accuracy curve


def page(board: Board) -> str:
    """Return the page."""
    parts = {"__DATA__": _embedded(_data(board)), "__DIAGRAMS__": _diagrams(board), "__SAMPLES__": samples(board)}
    return re.sub("|".join(parts), lambda found: parts[found[0]], _template("leaderboard.html"))


def samples(board: Board) -> str:
    """The page's section of the samples that were used most and least, with its own data and script."""
    return _template("samples.html").replace("__SAMPLES_DATA__", _embedded(gallery.data(board)))


def _template(name: str) -> str:
    return files("dpbench").joinpath(name).read_text(encoding="utf-8")


def _embedded(content: Any) -> str:
    """JSON for a script element; every `<` is escaped, so that no name can end the element."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c")


def _diagrams(board: Board) -> str:
    """The critical-difference diagrams, one a model and keep; the page tells why where there is none."""
    if board.across_reason:
        return ""
    from dpbench import figures  # here, since seaborn takes seconds to import

    places = verdicts.tested_over_datasets(board.runs)
    captions = (escape(f"{model}, keep {keep:g}: critical differences over datasets") for model, keep in places)
    drawn = zip(captions, figures.inline_diagrams(board), strict=True)
    return "".join(f"<figure><figcaption>{caption}</figcaption>{diagram}</figure>" for caption, diagram in drawn)


def _data(board: Board) -> dict[str, Any]:
    """All that the page shows, rows as lists in the order of `columns`."""
    table = board.table
    position = {row: i for i, row in enumerate(table[KEYS].itertuples(index=False, name=None))}
    runs, curves, settings = _runs(board, position)
    return {
        "name": board.grid.name,
        "description": board.grid.description,
        "delta": board.grid.delta,
        "seeds": max((len({run[0] for run in part}) for part in runs), default=0),
        "columns": list(table.columns),
        "rows": [[_short(value) for value in row] for row in table.itertuples(index=False, name=None)],
        "runs": runs,
        "curves": curves,
        "settings": settings,
        "findings": [
            {"badge": f.badge, "text": f.text, "row": None if f.row is None else position[f.row]}
            for f in board.findings
        ],
        "across": _records(board.across),
        "across_reason": board.across_reason,
        "times_reason": board.times_reason,
        "published": _records(published.beside(table, board.grid.delta)),
    }


def _runs(
    board: Board, position: dict[tuple[str, str, str, float], int]
) -> tuple[list[list[Any]], list[list[float]], list[dict[str, Any]]]:
    """Runs of each row (seed, hash, status, accuracy, reason, index of its settings), mean curves, and the settings."""
    runs: list[list[Any]] = [[] for _ in position]
    found: list[list[list[float]]] = [[] for _ in position]
    settings: list[dict[str, Any]] = []
    for key, spec in board.cells.items():
        result = board.results.get(key, {"status": "MISSING"})
        setting = spec.model_dump(include={"recipe", "budget", "probe"})
        if setting not in settings:
            settings.append(setting)
        status, accuracy = result["status"], result.get("metrics", {}).get("accuracy")
        run = [spec.seed, key, status, _short(accuracy), result.get("reason", ""), settings.index(setting)]
        runs[position[spec.row]].append(run)
        found[position[spec.row]].append(measures.curve(result, "accuracy"))
    return [sorted(part, key=lambda run: run[0]) for part in runs], [_mean_curve(part) for part in found], settings


def _mean_curve(curves: Iterable[list[float]]) -> list[float]:
    """Mean accuracy by epoch in percent, thinned where there are many epochs."""
    known = [curve for curve in curves if curve]
    if not known:
        return []
    shortest = min(map(len, known))
    mean = 100 * np.mean([curve[:shortest] for curve in known], axis=0)
    chosen = np.unique(np.linspace(0, shortest - 1, min(shortest, LONGEST_CURVE), dtype=int))
    return [round(float(value), 2) for value in mean[chosen]]


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): _short(value) for key, value in row.items()} for row in frame.to_dict("records")]


def _short(value: Any) -> Any:
    """A JSON value with few digits; null for what is not known."""
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return value.item() if isinstance(value, np.generic) else value
