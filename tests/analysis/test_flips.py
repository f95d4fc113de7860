"""Flips: counted by hand, kept with a board, and used where every row has them."""

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


def keep(board: Board, seed: int = 0) -> None:
    """Write predictions that fit the board's accuracies."""
    rng = np.random.default_rng(seed)
    half = np.full(TESTED, 0.5, np.float16)
    for key, result in (board.results | board.controls).items():
        right = rng.permutation(TESTED) < round(result["metrics"]["accuracy"] * TESTED)
        file = store.run_folder(key) / "predictions.npz"
        Predictions(np.ones(TESTED, int), right.astype(int), half, half).write(file)


def test_flips_are_half_of_what_two_seeds_disagree_about(home: Path) -> None:
    board = make({("full", 1.0): [0.9, 0.8, 0.9], ("uniform", 0.5): [0.5, 0.5]})
    keep(board)
    found = flips.of_results(board.results.values())
    runs = [Predictions.read(store.run_folder(key) / "predictions.npz").correct for key in board.results]
    pairs = [(runs[i] != runs[j]).sum() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found[("digits", "cnn", "full", 1.0)] == pytest.approx(np.mean(pairs) / 2)
    assert found[("digits", "cnn", "uniform", 0.5)] == pytest.approx((runs[3] != runs[4]).sum() / 2)
    assert flips.read(flips.written(found)) == found


def test_a_row_with_a_run_that_kept_no_predictions_has_no_flips(home: Path) -> None:
    board = make({("full", 1.0): [0.9, 0.8], ("uniform", 0.5): [0.5, 0.5], ("a", 0.5): [0.5, None]})
    keep(board)
    (store.run_folder(next(iter(board.results))) / "predictions.npz").unlink()
    assert list(flips.of_results(board.results.values())) == [("digits", "cnn", "uniform", 0.5)]


def test_a_packed_board_has_its_flips(home: Path) -> None:
    board = make({("full", 1.0): [0.9, 0.8]})
    assert boards.unpack(boards.pack(board)).flips == {}
    one = Board(board.grid, board.cells, board.results, board.overlap, flips={("digits", "cnn", "full", 1.0): 2.5})
    assert boards.unpack(boards.pack(one)).flips == one.flips


def rows(count: int, seeds: int = 3) -> tuple[dict[int, pd.DataFrame], dict[int, float], np.ndarray]:
    """Rows of one mean whose variances are told by their flips alone."""
    rng = np.random.default_rng(0)
    of_rows = np.exp(rng.normal(4, 1, count))
    sd = np.sqrt(3 * of_rows) * 0.01
    values = 50 + sd * rng.normal(size=(seeds, count))
    frames = {i: pd.DataFrame({"accuracy": column, "step": 0.01}) for i, column in enumerate(values.T)}
    return frames, dict(enumerate(of_rows.tolist())), sd**2


def test_spreads_follow_the_flips_where_all_rows_have_them() -> None:
    frames, of_rows, true = rows(200)

    def near(given: dict[int, float] | None) -> tuple[float, float]:
        variance, freedom = np.array(list(moderated.spreads(frames, given).values())).T
        return float(np.corrcoef(np.log(variance), np.log(true))[0, 1]), float(freedom[0])

    alike, freedom = near(of_rows)
    assert alike > 0.8
    for without in (near(None), near(dict(list(of_rows.items())[1:]))):
        assert without[0] < 0.7
        assert without[1] < freedom
