"""Flips: counted by hand, kept with a board, and used where every row has them."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_board import TESTED, make

from dpbench import store
from dpbench.analysis import board as boards
from dpbench.analysis import flips, moderated
from dpbench.analysis.board import Board
from dpbench.predictions import Predictions
from dpbench.spec import Row


def keep(board: Board, seed: int = 0) -> None:
    """Write predictions that fit the board's accuracies."""
    rng = np.random.default_rng(seed)
    half = np.full(TESTED, 0.5, np.float16)
    for key, result in (board.results | board.controls).items():
        right = rng.permutation(TESTED) < round(result["metrics"]["accuracy"] * TESTED)
        file = store.run_folder(key) / "predictions.npz"
        Predictions(np.ones(TESTED, int), right.astype(int), half, half).write(file)


FULL, UNIFORM = ("digits", "cnn", "full", 1.0), ("digits", "cnn", "uniform", 0.5)


def test_flips_are_half_of_what_two_seeds_disagree_about(home: Path) -> None:
    board = make({("full", 1.0): [0.9, 0.8, 0.9], ("uniform", 0.5): [0.5, 0.5]})
    keep(board)
    found = flips.of_results(board.results.values())
    runs = [Predictions.read(store.run_folder(key) / "predictions.npz").correct for key in board.results]
    pairs = [(runs[i] != runs[j]).sum() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found[FULL, FULL] == pytest.approx(np.mean(pairs) / 2)
    assert found[UNIFORM, UNIFORM] == pytest.approx((runs[3] != runs[4]).sum() / 2)
    assert flips.read(flips.written(found)) == found
    assert flips.read(json.loads(json.dumps(flips.written(found)))) == found


def test_flips_of_two_rows_are_those_of_their_difference_at_one_seed(home: Path) -> None:
    board = make({("full", 1.0): [0.9, 0.8, 0.9], ("uniform", 0.5): [0.5, 0.5]})
    keep(board)
    runs = [Predictions.read(store.run_folder(key) / "predictions.npz").correct for key in board.results]
    first, second = runs[0].astype(int) - runs[3], runs[1].astype(int) - runs[4]
    found = flips.of_results(board.results.values())
    assert found[FULL, UNIFORM] == pytest.approx(((first - second) ** 2).sum() / 2)
    assert len(found) == 3


def test_rows_of_equal_predictions_have_no_flips_between_them() -> None:
    right = np.random.default_rng(0).integers(0, 2, (3, 50)).astype(np.int8)
    given = {
        FULL: dict(enumerate(right)),
        UNIFORM: dict(enumerate(right)),
        ("other", *FULL[1:]): dict(enumerate(right)),
    }
    found = flips.of_rows(given)
    assert found[FULL, UNIFORM] == 0
    assert found[FULL, FULL] == found[UNIFORM, UNIFORM] > 0
    assert len(found) == 4, "rows of two datasets are not compared"


def test_a_row_with_a_run_that_kept_no_predictions_has_no_flips(home: Path) -> None:
    board = make({("full", 1.0): [0.9, 0.8], ("uniform", 0.5): [0.5, 0.5], ("a", 0.5): [0.5, None]})
    keep(board)
    (store.run_folder(next(iter(board.results))) / "predictions.npz").unlink()
    assert list(flips.of_results(board.results.values())) == [(UNIFORM, UNIFORM)]


def test_a_packed_board_has_its_flips(home: Path) -> None:
    board = make({("full", 1.0): [0.9, 0.8]})
    assert boards.unpack(boards.pack(board)).flips == {}
    one = replace(board, flips={(FULL, FULL): 2.5, (FULL, UNIFORM): 0.1})
    assert boards.unpack(boards.pack(one)).flips == one.flips


def test_flips_that_were_stored_by_single_rows_are_read() -> None:
    assert flips.read([[*FULL, 2.5], [*UNIFORM, 3]]) == {(FULL, FULL): 2.5, (UNIFORM, UNIFORM): 3.0}


def drawn(count: int, seeds: int = 3) -> tuple[dict[Row, pd.DataFrame], flips.Flips, np.ndarray]:
    """Rows of one mean whose variances are told by their flips alone, and those of their differences."""
    rng = np.random.default_rng(0)
    of_rows = np.exp(rng.normal(4, 1, count))
    variances = 3 * of_rows * 0.01**2
    values = 50 + np.sqrt(variances) * rng.normal(size=(seeds, count))
    named = [("digits", "cnn", f"{i:03}", 0.5) for i in range(count)]
    frames = {row: pd.DataFrame({"accuracy": v, "step": 0.01}) for row, v in zip(named, values.T, strict=True)}
    i, j = np.triu_indices(count, 1)
    known = {(row, row): float(of_row) for row, of_row in zip(named, of_rows, strict=True)}
    return frames, known, variances[i] + variances[j]


def test_spreads_follow_the_flips_where_all_rows_have_them() -> None:
    frames, known, true = drawn(60)
    of_pairs = {(a, b): known[a, a] + known[b, b] for a, b in combinations(frames, 2)}

    def near(given: flips.Flips | None) -> tuple[float, float]:
        variance, freedom = np.array(list(moderated.spreads(frames, given).values())).T
        return float(np.corrcoef(np.log(variance), np.log(true))[0, 1]), float(np.median(freedom))

    alike, freedom = near(known)
    assert alike > 0.8
    assert near(known | of_pairs) == pytest.approx((alike, freedom)), "of pairs that are not known the sum is taken"
    for without in (near(None), near(dict(list(known.items())[1:]))):
        assert without[0] < 0.7
        assert without[1] < freedom
