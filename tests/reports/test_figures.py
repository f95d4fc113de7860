"""The figures: what is drawn is what the table says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic_board import around, costing, make, usual

from dpbench.analysis import overlap
from dpbench.reports import figures, panels

PAIRS = pd.DataFrame(
    [("digits", "cnn", keep, "orderdp", "el2n", 0.4, 0.3) for keep in (0.3, 0.5)],
    columns=[*overlap.PAIR, "jaccard", "chance"],
)


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return figures.figures(usual(overlap=overlap.Overlap(methods=PAIRS)))


def line(figure: Figure, label: str, panel: int = 0) -> tuple[list[float], list[float]]:
    handles, labels = figure.axes[panel].get_legend_handles_labels()
    found = handles[labels.index(label)]
    curve = getattr(found, "lines", [found])[0]
    return list(curve.get_xdata()), list(curve.get_ydata())


def test_there_is_one_of_each(drawn: dict[str, Figure]) -> None:
    assert set(figures.FIGURES) == set(figures.TITLES)
    assert set(figures.FIGURES) - set(drawn) == {"pareto_time", "shifted"}, "a quiet machine and shifts: true"


def test_shifted_accuracy_stands_at_clean_accuracy_with_full_trainings_loss_as_a_line() -> None:
    rows = {("full", 1.0): around(0.95), ("a", 0.5): around(0.9), ("b", 0.5): around(0.92)}
    board = make(rows, {"full": {"accuracy_shifted": 0.75}, "a": {"accuracy_shifted": 0.6}})
    figure = figures.figures(board, ["shifted"])["shifted"]
    assert line(figure, "a") == ([pytest.approx(90.0)], [pytest.approx(60.0)])
    assert line(figure, "full") == ([pytest.approx(95.0)], [pytest.approx(75.0)])
    assert "b" not in figure.axes[0].get_legend_handles_labels()[1], "it was not measured"
    drop = next(drawn for drawn in figure.axes[0].get_lines() if drawn.get_label() == "lost as much as full training")
    assert (drop.get_xy1(), drop.get_slope()) == ((pytest.approx(95.0), pytest.approx(75.0)), 1)
    assert figure.axes[0].get_xlim()[1] <= 100


def test_accuracy_at_each_keep(drawn: dict[str, Figure]) -> None:
    _, y = line(drawn["accuracy_keep"], "orderdp")
    assert y == pytest.approx([92.0, 94.0])
    assert line(drawn["accuracy_keep"], "full")[1] == pytest.approx([95.0, 95.0])


def test_accuracy_ends_at_100_whatever_the_intervals_do() -> None:
    rows = {("full", 1.0): [0.99, 1.0, 1.0], ("a", 0.5): [1.0, 0.9, 1.0], ("b", 0.3): [0.99, 0.97, 1.0]}
    made = figures.figures(make(rows))
    for name in ("pareto", "accuracy_keep"):
        assert made[name].axes[0].get_ylim()[1] <= 100
    drawn = made["accuracy_keep"].axes[0].dataLim.y1
    assert drawn > 100, "the intervals go beyond"


def test_controls_at_cost_are_beside_what_they_are_compared_with() -> None:
    board = make({("a", 0.5): around(0.95)}, {"a": costing(0.7)}, controls={0.7: around(0.9)})
    assert line(figures.figures(board)["pareto"], "random at a realised cost") == ([0.7], [pytest.approx(90.0)])


def test_jaccard_stands_beside_chance(drawn: dict[str, Figure]) -> None:
    assert set(line(drawn["jaccard"], "epoch to epoch")[0]) == {0.5}
    assert set(line(drawn["jaccard"], "chance")[0]) == {0.3}


def test_curves_over_epochs(drawn: dict[str, Figure]) -> None:
    assert line(drawn["gradient_cosine"], "orderdp") == ([1, 2, 3, 4], pytest.approx([0.9] * 4))
    assert line(drawn["gradient_cosine"], "orderdp, to its surrogate") == ([1, 2, 3, 4], pytest.approx([0.8] * 4))
    assert line(drawn["coverage"], "orderdp", panel=1)[1] == pytest.approx([0.5, 1, 1, 1])
    assert "full" in drawn["coverage"].axes[0].get_legend_handles_labels()[1]


def test_heat_maps(drawn: dict[str, Figure]) -> None:
    kept = drawn["kept_per_class"].axes[1].collections[0].get_array()
    np.testing.assert_allclose(np.unique(kept), [0.5])
    shared = drawn["jaccard_methods"].axes[0].collections[0].get_array()
    np.testing.assert_allclose(np.asarray(shared).reshape(2, 2), [[1, 0.4], [0.4, 1]])
    assert "chance 0.30" in drawn["jaccard_methods"].axes[0].get_title(loc="left")


def test_twenty_methods_look_different() -> None:
    styles = panels.styles_of([f"method_{i}" for i in range(20)])
    looks = {(str(style["color"]), style["marker"], str(style["ls"])) for style in styles.values()}
    assert len(looks) == len(styles)


def test_several_datasets_have_figures_of_their_own() -> None:
    board = make({("full", 1.0): around(0.95), ("uniform", 0.5): around(0.9)}, datasets=("x", "y[a=1]"))
    names = set(figures.figures(board))
    assert {"jaccard-x-cnn", "jaccard-y_a_1_-cnn"} < names


def test_critical_difference_needs_five_datasets() -> None:
    rows = {(name, 0.5): around(mean) for name, mean in (("uniform", 0.8), ("a", 0.85), ("b", 0.9))}
    few, enough = (make(rows, datasets=tuple("vwxyz"[:count])) for count in (4, 5))
    assert not [name for name, _ in figures._critical_differences(few)]
    assert [name for name, _ in figures._critical_differences(enough)] == ["critical_difference-cnn-0.5"]
    assert enough.across_reason == ""


def test_many_keeps_have_at_most_nine_panels() -> None:
    rows = {(name, keep / 25): around(0.8) for name in ("a", "b") for keep in range(1, 21)}
    drawn = figures.figures(make(rows | {("full", 1.0): around(0.9)}))
    assert max(len(figure.axes) for figure in drawn.values()) <= 10, "nine, and a heat map's bar of colours"
    titles = [ax.get_title(loc="left") for ax in drawn["coverage"].axes]
    assert (titles[0], titles[-1], len(titles)) == ("keep 0.04", "keep 0.8", 9)
    assert "9 of 20 keeps" in drawn["coverage"].get_suptitle()
    assert "keeps" not in drawn["accuracy_keep"].get_suptitle(), "which shows them all"


def test_rows_with_diverged_seeds_are_left_out_and_named() -> None:
    rows = {
        ("full", 1.0): around(0.95),
        ("a", 0.5): [*around(0.9, seeds=4), ("diverged", "NaN")],
        ("b", 0.5): around(0.9),
    }
    for name, figure in figures.figures(make(rows)).items():
        told = figure.get_suptitle() if not name.startswith("pareto") else figure.texts[0].get_text()
        assert ("x at the bottom: a 0.5" if "pareto" in name else "left out: a at 0.5") + " (diverged 1/5)" in " ".join(
            told.split()
        )
        labels = {label for ax in figure.axes for label in ax.get_legend_handles_labels()[1]}
        assert "a" not in labels, name


def test_a_grid_of_failures_still_draws() -> None:
    assert figures.figures(make({("a", 0.5): ["it broke"]})) == {}


def test_files(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    board = make({("full", 1.0): around(0.95), ("$a_b$ <i>", 0.5): around(0.9)})
    made = figures.save(board, tmp_path)
    assert {path.name for path in made if path.suffix == ".png"} == {f"{name}.png" for name in drawn}
    assert len(made) == 2 * len(drawn)
    assert all(path.read_bytes()[:4] in (b"\x89PNG", b"%PDF") for path in made)


def test_no_label_shows_mathematics_in_the_raw(drawn: dict[str, Figure]) -> None:
    for name, figure in drawn.items():
        figure.draw_without_rendering()
        for ax in figure.axes:
            labels = [label.get_text() for label in [*ax.get_xticklabels(), *ax.get_yticklabels()]]
            assert not [label for label in labels if "$" in label], name
