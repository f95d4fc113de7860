"""Two methods head to head: what their kept predictions add to the difference over seeds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from synthetic_board import TESTED, make

from dpbench import store
from dpbench.analysis import predicted
from dpbench.analysis.board import Board
from dpbench.errors import UsageError
from dpbench.predictions import Predictions
from dpbench.reports import comparison
from dpbench.reports.columns import gap, p_value

LABELS = np.arange(TESTED) % 2


def board(kept: bool = True) -> Board:
    """Full training, wrong on the last 50 test samples, and random, wrong on the last 98 to 101 and on sample 7."""
    made = make({("full", 1.0): [0.95] * 4, ("uniform", 0.5): [1 - (98 + i) / 1000 - 0.001 for i in range(4)]})
    for key, spec in made.cells.items():
        wrong = np.arange(TESTED) >= TESTED - (50 if spec.method == "full" else 98 + spec.seed)
        wrong[7] |= spec.method != "full"
        half = np.full(TESTED, 0.5, np.float16)
        if kept:
            file = store.run_folder(key) / "predictions.npz"
            Predictions(LABELS, np.where(wrong, 1 - LABELS, LABELS), half, half).write(file)
    return made


def shown(of: Board, a: str, b: str) -> str:
    console = Console(file=io.StringIO(), width=400, record=True)
    console.print(comparison.screen(of, a, b))
    return console.export_text()


def test_both_intervals_are_named_and_the_one_for_new_samples_is_wider(home: Path) -> None:
    text = shown(board(), "uniform", "full")
    over_seeds, of_new = (
        next(line for line in text.splitlines() if start in line) for start in ("this test", "new test")
    )
    assert over_seeds.startswith("uniform - full: -5.05 ± ")
    assert "points on this test set, over 4 paired seeds" in over_seeds
    assert of_new.startswith("for new test samples, too: -5.05 ± ")
    narrow, wide = (float(line.split("± ")[1].split(" ")[0]) for line in (over_seeds, of_new))
    assert wide > 2 * narrow
    assert "of 1000 a mean of 0.0 is right in uniform alone, 50.5 in full alone (p = " in text


def test_the_samples_that_pruning_gets_wrong_are_named(home: Path) -> None:
    text = shown(board(), "uniform", "full")
    assert "Right in most seeds of full and wrong in most of uniform: 50 of 1000 test samples" in text
    assert "by class 1: 26, 0: 24" in text
    assert "(class): 7 (1), 902 (0), 903 (1)" in text
    assert "Right in most seeds of uniform and wrong in most of full: 0 of 1000 test samples" in text
    table = pd.read_csv(io.StringIO(comparison.csv(board(), "uniform", "full")))
    assert len(table) == TESTED
    assert table.loc[7].to_dict() | {"dataset": "", "model": ""} == {
        "dataset": "", "model": "", "keep_a": 0.5, "keep_b": 1, "sample": 7, "class": 1, "seeds": 4, "right_a": 0,
        "right_b": 4,
    }  # fmt: skip
    assert table["right_a"].sum() == 4 * TESTED - 398 - 4


def test_old_runs_without_predictions_say_so_in_a_line(home: Path) -> None:
    old = board(kept=False)
    text = shown(old, "uniform", "full")
    assert "kept no predictions of single samples: they were made before" in text
    assert "new test samples" not in text
    stored = Board(old.grid, old.cells, old.results, old.overlap, checked_in=True)
    assert "Results that come with dpbench have no predictions" in shown(stored, "uniform", "full")
    with pytest.raises(UsageError, match="kept no predictions"):
        comparison.csv(old, "uniform", "full")


def test_classes_are_those_that_differ_most(home: Path) -> None:
    made = make({("full", 1.0): [0.9] * 3, ("uniform", 0.5): [0.9] * 3})
    for result in made.results.values():
        pruned = result["spec"]["method"] == "uniform"
        result["diagnostics"]["accuracy_per_class"] = [0.9 - 0.01 * i * pruned for i in range(12)]
    lines = shown(made, "uniform", "full").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("accuracy % by class, the 10 of 12"))
    cells = [line.split() for line in lines[start : start + 20] if len(line.split()) == 4]
    assert cells[1:3] == [["2", "88.00", "90.00", "-2.00"], ["3", "87.00", "90.00", "-3.00"]]
    assert [line[0] for line in cells[1:]] == [str(i) for i in range(2, 12)]


def test_runs_of_other_test_sets_are_no_pair(home: Path) -> None:
    made = board()
    [file] = [store.run_folder(key) / "predictions.npz" for key, spec in made.cells.items() if spec.method == "full"][
        :1
    ]
    half = np.full(TESTED, 0.5, np.float16)
    Predictions(1 - LABELS, 1 - LABELS, half, half).write(file)
    made.results[file.parent.name]["metrics"]["accuracy"] = 1.0
    assert (
        predicted.pair(made.results.values(), ("digits", "cnn", "uniform", 0.5), ("digits", "cnn", "full", 1.0)) is None
    )


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (-13.784, 13.779, "-13.784 ± 13.779"),
        (0.1234, 0.1233, "+0.1234 ± 0.1233"),
        (2.0, 0.3, "+2.00 ± 0.30"),
        (-2.67, 10.88, "-2.67 ± 10.9"),
        (1.001, 1.002, "+1.00 ± 1.00"),
        (1.0, float("nan"), "+1.00"),
    ],
)
def test_no_rounding_contradicts_a_verdict(mean: float, half: float, text: str) -> None:
    assert gap(mean, half) == text


def test_a_p_value_shows_its_side_of_5_percent() -> None:
    assert [p_value(p) for p in (0.04996, 0.0499, 0.05, 0.0501, 0.3, 1.2e-7, float("nan"))] == [
        "0.04996", "0.0499", "0.05", "0.05", "0.3", "1.2e-07", "-",
    ]  # fmt: skip
