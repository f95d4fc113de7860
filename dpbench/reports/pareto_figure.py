"""The board's main picture: accuracy against what was spent, the front, and the lines that a method has to beat."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from dpbench.analysis import pareto
from dpbench.analysis import table as tables
from dpbench.reports.panels import Part

SIZE = (8.0, 5.2)  # inches, readable when shown 800 pixels wide
DPI = 115  # MLflow's description cuts what is wider than the page
PLACE = {"left": 0.095, "right": 0.985, "top": 0.91, "bottom": 0.21}  # of the axes, fixed, since names are fitted in
MOST_COLOURED = 7  # methods with a colour and a name, as many as are told apart by colour
REST = "0.72"
FRONT = "#f2c14e"
REACH = (9, 14, 20, 28, 38, 50, 64, 80)  # points from a mark to its name, the nearest that is free
TURNS = 16
LABELS = {
    "cost_with_proxy": "cost with proxy, of full training (forward + 2 backward)",
    "time_total_s": "wall time with proxy, s (select + train + observe + proxy)",
}
WORDS = {"full": "full training", "uniform_epoch": "uniform_epoch: random per epoch"}
EXPLAINED = ("yellow: the front, nothing is better for less", "larger marks keep more", "bars: 95 % intervals")
MOST_NAMED = 3  # rows at the edge
LINE = 125  # letters of the notes


def cost(part: Part) -> Figure:
    """Accuracy against realised cost with proxy; says why times are not compared, where they are not."""
    return _draw(part, "cost_with_proxy", part.board.times_reason)


def time(part: Part) -> Figure:
    """Accuracy against wall time with proxy."""
    return _draw(part, "time_total_s", "")


def _draw(part: Part, spent: str, note: str) -> Figure:
    table = part.everything
    figure = Figure(figsize=SIZE, dpi=DPI)
    FigureCanvasAgg(figure)  # names are measured before it is saved
    ax = figure.subplots(gridspec_kw=PLACE)
    low, high = (100 * limit for limit in pareto.accuracy_limits(table))
    right = pareto.spent_limit(table, spent)
    ax.set(xlim=(0, right), ylim=(low, high), xlabel=LABELS[spent], ylabel="test accuracy, %")
    nearest = pareto.nearest(part.table)[:MOST_COLOURED]
    colours = part.colours(nearest) | {"full": "black", "uniform_epoch": "0.3"}
    _front(ax, part.table, spent, right)
    lines = {str(method): rows for method, rows in table.groupby("method", sort=False)}
    for method in sorted(lines, key=lambda method: method in colours):  # the named ones on top
        _line(ax, part, lines[method], spent, colours.get(method))
    _to_beat(ax, part, lines, spent)
    marks = {name: _places(lines[name], spent, ax) for name in (*pareto.TO_BEAT, *nearest) if name in lines}
    _names(figure, ax, marks, colours)
    figure.text(0.01, 0.012, _notes(table, spent, ax, note), fontsize=8, color="0.35")
    return figure


def _front(ax: Axes, table: pd.DataFrame, spent: str, right: float) -> None:
    """The front as steps: what the best costs more is still beaten by it."""
    best = table[pareto.front(table, spent)].sort_values(spent)
    if best.empty:
        return
    x, y = [*best[spent], right], 100 * best["accuracy_mean"]
    ax.step(x, [*y, y.iloc[-1]], where="post", color=FRONT, lw=5, alpha=0.6, zorder=1, label="front")


def _line(ax: Axes, part: Part, rows: pd.DataFrame, spent: str, colour: Any) -> None:
    """A method's keeps, joined, with intervals if it has a colour; outside at the edge, broken ones as x below."""
    rows = rows.sort_values("keep")
    x, y = _places(rows, spent, ax).T
    style: dict[str, Any] = {"color": colour or REST, "zorder": 4 if colour else 2}
    fair = ~tables.is_broken(rows).to_numpy()
    marker = part.style[rows["method"].iloc[0]]["marker"]
    ax.plot(x[fair], y[fair], lw=1.6 if colour else 0.8, **style)
    for place, keep, whole, (below, beyond) in zip(
        np.stack([x, y], 1), rows["keep"], fair, _outside(rows, spent, ax), strict=True
    ):
        shape = "x" if not whole else "v" if below else ">" if beyond else marker
        size = (5 + 4 * keep) if colour else (4 + 3 * keep)
        edge: dict[str, Any] = {} if shape == "x" else {"mec": "white", "mew": 0.6}
        ax.plot(*place, shape, ms=size, clip_on=False, **edge, **style)
    if colour:
        half = 100 * rows["accuracy_ci95"].fillna(0).to_numpy()
        inside = fair & ~_outside(rows, spent, ax).any(axis=1)
        ax.errorbar(x[inside], y[inside], half[inside], fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.35, zorder=3)


def _to_beat(ax: Axes, part: Part, lines: dict[str, pd.DataFrame], spent: str) -> None:
    """Full training's accuracy at any cost, and random per epoch at its keeps and at the costs that methods had."""
    if "full" in lines:
        mean = 100 * lines["full"]["accuracy_mean"].iloc[0]
        ax.plot(ax.get_xlim(), [mean, mean], color="black", lw=1.2, ls=(0, (5, 3)), zorder=2)
    if spent != "cost_with_proxy":
        return
    found = [*part.board.controls.values(), *part.board.results.values()]
    spec = ("dataset", "model", "method")
    mine = [r for r in found if tuple(r["spec"][k] for k in spec) == (part.dataset, part.model, "uniform_epoch")]
    runs = pd.DataFrame([r["spec"] | r["metrics"] for r in mine if r["status"] == "FINISHED"])
    if len(runs):
        means = 100 * runs.groupby("keep")["accuracy"].mean()
        ax.plot(means.index, means, ".-", color="0.3", lw=2.2, ms=5, zorder=3, label="random at a realised cost")


def _places(rows: pd.DataFrame, spent: str, ax: Axes) -> NDArray[np.float64]:
    """Where the rows are drawn, (rows, 2): those outside the axes at their edge, broken ones at the bottom."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    x = np.clip(rows[spent].to_numpy(float), left, right)
    y = np.clip(100 * rows["accuracy_mean"].to_numpy(float), low, high)
    return np.stack([x, np.where(tables.is_broken(rows), low, y)], axis=1)


def _outside(rows: pd.DataFrame, spent: str, ax: Axes) -> NDArray[np.bool_]:
    """Which rows are below the axes, and which beyond their right, (rows, 2)."""
    below = 100 * rows["accuracy_mean"].to_numpy(float) < ax.get_ylim()[0]
    return np.stack([below, rows[spent].to_numpy(float) > ax.get_xlim()[1]], axis=1)


def _notes(table: pd.DataFrame, spent: str, ax: Axes, note: str) -> str:
    """What the marks mean, and who is at the edge."""
    found = list(EXPLAINED)
    broken = tables.is_broken(table)
    out = _outside(table, spent, ax).any(axis=1) & ~broken.to_numpy()
    if out.any():
        rows = tables.records(table[out])
        texts = [f"{row['method']} {row['keep']:g} ({100 * row['accuracy_mean']:.1f} %)" for row in rows]
        found.append(f"at the edge, since far off: {', '.join(texts[:MOST_NAMED])}{_rest(texts)}")
    if broken.any():
        named = [f"{row['method']} {row['keep']:g} ({row['trouble']})" for row in tables.records(table[broken])]
        found.append(f"x at the bottom: {', '.join(named[:MOST_NAMED])}{_rest(named)}")
    return textwrap.fill("; ".join([*found, *filter(None, [note])]), LINE)


def _rest(named: list[str]) -> str:
    return f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""


def _names(figure: Figure, ax: Axes, marks: dict[str, NDArray[np.float64]], colours: dict[str, Any]) -> None:
    """Write each name where it hides no mark, line or other name, as near as there is room; else leave it out.

    The lines to beat always have theirs, over marks and lines if it must be.
    """
    scale = figure.dpi / 72
    room = ax.get_window_extent()
    drawn = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in _drawn(ax)]
    taken: list[Bbox] = []
    for name, places in marks.items():
        look = {"color": colours[name], "fontsize": 10, "fontweight": "bold", "zorder": 6}
        text = ax.annotate(WORDS.get(name, name), places[0], xytext=(0, 0), textcoords="offset points", **look)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        box = text.get_window_extent()
        where = (ax.transData.transform(places), box.width, box.height, scale, room)
        found = _free(*where, [*taken, *drawn]) or (_free(*where, taken) if name in pareto.TO_BEAT else None)
        if found is None:
            text.remove()
            continue
        (mark, corner, reach) = found
        taken.append(Bbox.from_bounds(*corner, box.width, box.height).padded(2 * scale))
        text.xy = tuple(places[mark])
        text.set_position(tuple((np.asarray(corner) - ax.transData.transform(places[mark])) / scale))
        if reach > REACH[1]:
            middle = np.asarray(corner) + (box.width / 2, box.height / 2)
            ends = ax.transData.inverted().transform([ax.transData.transform(places[mark]), middle])
            ax.plot(*ends.T, color=colours[name], lw=0.6, alpha=0.7, zorder=2)


def _drawn(ax: Axes) -> Iterator[tuple[float, float]]:
    """Points in pixels, closely spaced, of all that is drawn."""
    for line in ax.lines:
        corners = ax.transData.transform(np.asarray(line.get_xydata(), dtype=float))
        corners = corners[np.isfinite(corners).all(axis=1)]
        yield from map(tuple, corners)
        for a, b in pairwise(corners):
            steps = max(2, int(np.hypot(*(b - a)) // 10))
            yield from map(tuple, a + (b - a) * np.linspace(0, 1, steps)[:, None])


def _free(
    marks: NDArray[np.float64], width: float, height: float, scale: float, room: Bbox, taken: list[Bbox]
) -> tuple[int, tuple[float, float], int] | None:
    """A free place for a name: which mark it belongs to, its lower left corner in pixels, how far it is in points."""
    for reach in REACH:
        for turn in np.arange(TURNS) * 2 * np.pi / TURNS:
            toward = np.array([np.cos(turn), np.sin(turn)])
            for i, mark in enumerate(marks):
                centre = mark + toward * reach * scale + toward * (width / 2, height / 2)
                corner = (float(centre[0] - width / 2), float(centre[1] - height / 2))
                box = Bbox.from_bounds(*corner, width, height)
                inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
                if inside and not any(box.overlaps(other) for other in taken):
                    return i, corner, reach
    return None
