"""What every figure of a board is drawn from and on: a part of the board, its methods' styles, panels and a legend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpbench.analysis import table as tables
from dpbench.analysis.board import Board
from dpbench.training import derived

# Blue, orange, green, vermilion, pink, brown and sky of seaborn's colour-blind-safe palette; each also has its marker.
COLOURS = [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 5, 9)]
MARKERS = "osD^vPX"
DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5))]
CONTROLS = {"full": "black", "full_short": "0.35", "uniform": "0.5", "uniform_epoch": "0.65"}
LETTER = 0.08  # inches that a letter of a method's name takes at most
MOST_PANELS = 9  # of a figure
MOST_NAMED = 3  # rows that were left out


@dataclass(frozen=True)
class Part:
    """What one figure is drawn from: a dataset's and model's rows and runs, and the style of each method."""

    board: Board
    dataset: str
    model: str
    table: pd.DataFrame
    style: dict[str, dict[str, Any]]

    @property
    def keeps(self) -> list[float]:
        """The shares that are pruned to."""
        return sorted(keep for keep in self.table["keep"].unique() if keep < 1) or [1.0]

    @property
    def panels(self) -> list[float]:
        """The shares that have a panel, with full training in each; of many some, evenly spread."""
        keeps = self.keeps
        chosen = np.unique(np.linspace(0, len(keeps) - 1, min(len(keeps), MOST_PANELS)).round().astype(int))
        return [keeps[i] for i in chosen]

    @property
    def everything(self) -> pd.DataFrame:
        """The table with the rows that have seeds which diverged or failed."""
        table = self.board.table
        here = (table["dataset"] == self.dataset) & (table["model"] == self.model)
        return table[here & (table["seeds"] > 0)].reset_index(drop=True)

    def colours(self, methods: list[str]) -> dict[str, Any]:
        """A colour of its own for each of at most as many methods as there are colours, in the style's order."""
        return dict(zip([method for method in self.style if method in methods], COLOURS, strict=False))

    def left_out(self, marked: bool) -> str:
        """What a figure does not show, in words; it may have `marked` the rows of which some seeds were finished."""
        broken = [
            f"{row['method']} at {row['keep']:g} ({row['trouble']})"
            for row in tables.records(self.board.table)
            if (row["dataset"], row["model"]) == (self.dataset, self.model) and row["trouble"]
            if not (marked and row["seeds"])
        ]
        rest = f" and {len(broken) - MOST_NAMED} more" if len(broken) > MOST_NAMED else ""
        return f"left out: {', '.join(broken[:MOST_NAMED])}{rest}" if broken else ""

    def curves(self, name: str, keep: float) -> Iterator[tuple[str, np.ndarray]]:
        """Each method's per-epoch record `name` as (seeds, epochs)."""
        for (method, share), results in self.board.finished(self.dataset, self.model).items():
            values = [v for v in (derived.curve(result, name) for result in results) if np.isfinite(v).any()]
            if share in (keep, 1.0) and values:
                shortest = min(map(len, values))
                yield method, np.array([v[:shortest] for v in values])


def styles_of(methods: list[str]) -> dict[str, dict[str, Any]]:
    """Grey for the controls; colour, marker and dash for the others, told apart without colour too."""
    styles = {}
    others = [method for method in sorted(methods) if method not in CONTROLS]
    for i, method in enumerate(others):
        turn = i // len(COLOURS)
        marker = MARKERS[(i + turn) % len(MARKERS)]
        styles[method] = {"color": COLOURS[i % len(COLOURS)], "marker": marker, "ls": DASHES[turn % len(DASHES)]}
    for method, marker in zip(CONTROLS, "*phd", strict=True):
        styles[method] = {"color": CONTROLS[method], "marker": marker, "ls": (0, (4, 2))}
    return styles


def with_panels(part: Part, width: float = 4.0, height: float = 3.2) -> tuple[Figure, list[tuple[float, Axes]]]:
    """One panel a keep, sharing their axes, with room for a legend at the right."""
    keeps = part.panels
    room = LETTER * max(map(len, part.style)) + 0.8
    rows, columns = shape_of(len(keeps))
    figure = Figure(figsize=(width * columns + room, height * rows), layout="constrained")
    axes = axes_of(figure, len(keeps), share=True)
    for keep, ax in zip(keeps, axes, strict=True):
        ax.set_title(f"keep {keep:g}", loc="left")
    return figure, list(zip(keeps, axes, strict=True))


def shape_of(count: int) -> tuple[int, int]:
    """Rows and columns for `count` panels: few stand in one row, more in three columns."""
    return (1, count) if count <= 4 else (-(-count // 3), 3)


def axes_of(figure: Figure, count: int, share: bool = False) -> list[Axes]:
    """So many panels, row by row."""
    rows, columns = shape_of(count)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flat)
    for spare in axes[count:]:
        spare.remove()
    return axes[:count]


def legend(figure: Figure) -> None:
    """One legend for all panels."""
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        entries |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside right upper")
    figure.set_figheight(max(figure.get_figheight(), 0.23 * len(entries) + 0.3))  # room for every entry
    for ax in figure.axes:
        sns.despine(ax=ax)


def end_at(figure: Figure, most: float) -> None:
    """Let no axis of accuracies go beyond the most that there can be, whatever the intervals do."""
    for ax in figure.axes:
        if "accuracy" in ax.get_ylabel():
            ax.set_ylim(top=min(most, ax.get_ylim()[1]))
        if "accuracy" in ax.get_xlabel():
            ax.set_xlim(right=min(most, ax.get_xlim()[1]))


def marks_of(i: int, length: int) -> tuple[int, int]:
    """Where the i-th curve has its markers: about eight, shifted so that equal curves are both seen."""
    every = max(1, length // 8)
    return (i % every, every)
