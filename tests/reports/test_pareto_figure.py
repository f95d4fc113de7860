"""The main picture: the front, the lines to beat, who is at the edge, and names that hide nothing."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from synthetic_board import around, make, usual

from dpbench.analysis.board import Board
from dpbench.reports import figures

QUIET = {"time_on_cpu": 1.0}


def draw(board: Board, name: str = "pareto") -> Figure:
    return figures.figures(board)[name]


def shown(figure: Figure) -> list[str]:
    """The names in the axes."""
    return [text.get_text() for text in figure.axes[0].texts]


def notes(figure: Figure) -> str:
    return " ".join(figure.texts[0].get_text().split())


def crowd(count: int, **options: Any) -> Board:
    """Full, random per epoch and many methods close to each other at two keeps."""
    rows = {("full", 1.0): around(0.95), ("uniform_epoch", 0.5): around(0.93)}
    for i in range(count):
        for keep in (0.3, 0.5):
            rows[f"method_number_{i}", keep] = around(0.92 + 0.0004 * i + 0.05 * keep)
    return make(rows, **options)


def test_the_front_goes_on_as_far_as_the_axis() -> None:
    ax = draw(usual()).axes[0]
    [front] = [line for line in ax.lines if line.get_label() == "front"]
    assert list(front.get_ydata()) == pytest.approx([92.0, 94.0, 95.0, 95.0])
    assert list(front.get_xdata()) == pytest.approx([0.3, 0.5, 1.0, ax.get_xlim()[1]])


def test_full_is_a_line_at_any_cost_and_a_methods_keeps_are_joined() -> None:
    ax = draw(usual()).axes[0]
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines]
    assert ([0, ax.get_xlim()[1]], [pytest.approx(95.0)] * 2) in lines
    assert ([0.3, 0.5], [pytest.approx(92.0), pytest.approx(94.0)]) in lines


def test_of_many_methods_seven_have_a_colour_and_a_name() -> None:
    figure = draw(crowd(20))
    named = [name for name in shown(figure) if name.startswith("method")]
    assert 1 <= len(named) <= 7
    assert "method_number_19" in named, "on the front"
    assert {"full training", "uniform_epoch: random per epoch"} <= set(shown(figure))
    colours = {text.get_color() for text in figure.axes[0].texts}
    assert len(colours) == len(shown(figure)), "each its own"


@pytest.mark.parametrize("count", [1, 5, 20])
def test_names_hide_neither_each_other_nor_a_mark(count: int) -> None:
    figure = draw(crowd(count))
    figure.canvas.draw()
    ax = figure.axes[0]
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    room = ax.get_window_extent()
    assert all(room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1 for box in boxes)
    marks = [line for line in ax.lines if line.get_marker() not in ("None", "")]
    points = ax.transData.transform(np.concatenate([np.asarray(line.get_xydata()) for line in marks]))
    assert not [point for point in points for box in boxes if box.contains(*point)]


def test_what_is_far_off_is_at_the_edge_and_does_not_squeeze_the_rest() -> None:
    rows = {("full", 1.0): around(0.95), ("a", 0.5): around(0.93), ("b", 0.5): around(0.94), ("c", 0.5): around(0.94)}
    figure = draw(make(rows | {("lost", 0.5): around(0.2)}))
    ax = figure.axes[0]
    assert 90 < ax.get_ylim()[0] < 93
    assert ax.get_ylim()[1] <= 100
    assert [list(line.get_ydata()) for line in ax.lines if line.get_marker() == "v"] == [[ax.get_ylim()[0]]]
    assert "at the edge, since far off: lost 0.5 (20.0 %)" in notes(figure)


def test_a_row_with_diverged_seeds_is_marked() -> None:
    figure = draw(make({("full", 1.0): around(0.95), ("b", 0.5): around(0.94), ("a", 0.5): [0.2, ("diverged", "NaN")]}))
    ax = figure.axes[0]
    [mark] = [line for line in ax.lines if line.get_marker() == "x"]
    assert mark.get_color() == "0.72"
    assert list(mark.get_ydata()) == [ax.get_ylim()[0]], "at the bottom, whatever is left of it"
    assert ax.get_ylim()[0] > 90, "and the axis is that of the others"
    assert "x at the bottom: a 0.5 (diverged 1/2)" in notes(figure)


def test_times_are_drawn_only_of_a_quiet_machine() -> None:
    rows = {("full", 1.0): around(0.95), ("a", 0.5): around(0.9)}
    quiet = make(rows, {"full": QUIET, "a": QUIET})
    assert draw(quiet, "pareto_time").axes[0].get_xlabel().startswith("wall time")
    assert "times" not in notes(draw(quiet))
    shared = make(rows, {"full": QUIET, "a": {"time_on_cpu": 0.5}})
    assert "pareto_time" not in figures.figures(shared)
    assert "times not comparable: the machine was shared" in notes(draw(shared))
