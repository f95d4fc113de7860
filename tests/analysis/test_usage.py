"""Use of samples from made-up selections: counts, extremes of a class, likely wrong labels, CSV, and pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from used import NOISY, N, board_of, flat

from dpbench import catalog, store
from dpbench.analysis import board as boards
from dpbench.analysis import gallery, usage
from dpbench.analysis.board import Board
from dpbench.errors import RunFailed
from dpbench.reports import html
from dpbench.training import loading

pytestmark = pytest.mark.usefixtures("home")


def of_board(board: Board) -> list[usage.Usage]:
    return list(usage.of_results(board.results.values()))


def test_the_methods_that_go_by_loss_are_there() -> None:
    assert {"aum", "selective_backprop"} <= usage.by_loss() <= set(catalog.names("methods"))


def test_counts_epochs_and_takes_means_over_seeds() -> None:
    board = board_of({"orderdp": [[[0, 1], [0]], [[0], [2]]]})
    [found] = of_board(board)
    assert (found.seeds, found.epochs, found.scores) == (2, 2, None)
    assert found.times[:4].tolist() == [1.5, 0.5, 0.5, 0]
    assert not found.even
    [full] = of_board(board_of({"full": [[range(N)]]}))
    assert full.even


def test_scores_break_ties_and_one_that_is_infinite_is_above_all() -> None:
    scores = torch.arange(N).float()
    scores[7] = float("inf")
    board = board_of({"el2n": [[range(40, 80)]]}, {"el2n": scores})
    [found] = of_board(board)
    assert found.order[:2].tolist() == [79, 78]
    assert found.order[-1] == 0
    assert found.order[40] == 7, "the first of those that were never used"
    assert found.standing.argmax() == 7


def test_a_failed_run_and_one_without_selections_do_not_count() -> None:
    board = board_of({"orderdp": [[[0]], [[1]]]})
    first, second = board.results
    (store.run_folder(second) / "selections.npz").unlink()
    [found] = of_board(board)
    assert (found.seeds, found.times[0], found.times[1]) == (1, 1, 0)
    board.results[first]["status"] = "FAILED"
    assert of_board(board) == []


def test_extremes_of_each_class_are_the_most_and_the_least_used() -> None:
    board = board_of({"orderdp": [ranked(range(N))]})
    [found] = of_board(board)
    labels = np.array([0] * 60 + [1] * 3 + [2] * (N - 63))
    (first, last), (few_first, few_last), _ = usage.extremes(found, labels, 4)
    assert first == [59, 58, 57, 56]
    assert last == [0, 1, 2, 3]
    assert (few_first, few_last) == ([62, 61], [60]), "none in both"


def ranked(order: Sequence[int], epochs: int = N) -> list[list[int]]:
    """Epochs that use the i-th of the samples i times."""
    return [[sample for i, sample in enumerate(order) if i > epoch] for epoch in range(epochs)]


def test_wrong_labels_are_the_first_suspects() -> None:
    data = loading.load_data(NOISY, None)
    assert data.noisy is not None
    wrong = data.noisy.nonzero().flatten().tolist()
    right = [i for i in range(N) if i not in wrong]
    scores = data.noisy.float() + torch.rand(N, generator=torch.Generator().manual_seed(0)) / 2
    loss, easy = ranked(right + wrong), ranked(wrong + right)
    board = board_of({"el2n": [[range(20)]], "orderdp": [loss], "small_loss": [easy]}, {"el2n": scores}, NOISY)
    [found] = board.gallery.suspected
    assert found.methods == ["el2n", "orderdp"], "small_loss keeps what is easy"
    assert (found.injected, found.found) == (len(wrong), len(wrong))
    sheet = board.gallery.sheets[NOISY]
    assert sheet.wrong is not None
    assert all(sheet.wrong[tile] for tile, _ in found.samples[: len(wrong)])
    mixed = board_of({"orderdp": [ranked(wrong[1:] + right + wrong[:1])]}, dataset=NOISY)
    assert mixed.gallery.suspected[0].found == 1


def test_csv_has_a_line_for_each_sample() -> None:
    board = board_of({"el2n": [[[5, 3]], [[5]]], "orderdp": [[[1]]]}, {"el2n": torch.arange(N).float()})
    lines = "".join(usage.csv(usage.of_results(board.results.values()), None))
    table = pd.read_csv(io.StringIO(lines))
    assert len(table) == 2 * N
    assert list(table.columns)[4:8] == ["sample", "file name", "times used", "score"]
    data = loading.load_data(flat(), None)
    first, second = table.iloc[0], table.iloc[1]
    assert (first["method"], first["sample"], first["times used"]) == ("el2n", data.positions[5], 1.0)
    assert (first["score"], first["label"], first["seeds"]) == (5, data.train.labels[5], 2)
    assert (second["sample"], second["times used"]) == (data.positions[3], 0.5)
    assert table.iloc[N]["method"] == "orderdp"
    assert np.isnan(table.iloc[N]["score"])
    with pytest.raises(RunFailed, match="dpbench run makes them"):
        list(usage.csv([], None))


def test_csv_begins_no_cell_as_a_formula() -> None:
    [found] = usage.of_results(board_of({"el2n": [[[5]]]}).results.values())
    named = replace(found, row=(*found.row[:2], "=HYPERLINK(1)", found.row[3]))
    lines = "".join(usage.csv([named], None)).splitlines()
    assert all("'=HYPERLINK(1)" in line for line in lines[1:])


def tile_of(sheet: gallery.Sheet, tile: int) -> Any:
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.png))))
    down, right = divmod(tile, sheet.across)
    return picture[down * sheet.height : (down + 1) * sheet.height, right * sheet.width : (right + 1) * sheet.width]


def test_the_sheet_has_each_samples_own_picture() -> None:
    board = board_of({"orderdp": [ranked(range(N))]})
    data, found = loading.load_data(flat(), None), board.gallery
    [row], sheet = found.rows, found.sheets[flat()]
    assert len(row.most) == data.classes
    for label, strip in enumerate(row.most):
        members = (data.train.labels == label).nonzero().flatten().tolist()
        assert [sheet.sample[tile] for tile, _, _ in strip] == data.positions[members[::-1][: len(strip)]].tolist()
        for tile, times, _ in strip:
            index = int((data.positions == sheet.sample[tile]).nonzero())
            assert (sheet.label[tile], times) == (label, index)
            assert np.array_equal(tile_of(sheet, tile), data.train.images[index, 0].numpy())


def test_large_and_coloured_images_become_small() -> None:
    assert gallery._thumbnail(torch.zeros(3, 96, 64, dtype=torch.uint8)).shape == (32, 21, 3)
    assert gallery._thumbnail(torch.zeros(1, 1, 65, dtype=torch.uint8)).shape == (1, 32, 1)
    assert gallery._thumbnail(torch.full((2, 8, 8), 9, dtype=torch.uint8)).shape == (8, 8, 1)


def test_data_that_is_not_there_is_told_in_a_sentence() -> None:
    board = board_of({"orderdp": [[[0]]]})
    for result in board.results.values():
        result["spec"]["data"] = "0" * 16
    assert not board.gallery.rows
    assert board.gallery.note.startswith(f"No pictures of {flat()}: ")
    assert "have no pictures" in boards.unpack(boards.pack(board)).gallery.note
    assert "No run" in Board(board.grid, {}, {}, board.overlap).gallery.note


def test_packed_pictures_are_read_again_and_validated() -> None:
    board = board_of({"orderdp": [[[0], [0, 1]]]})
    again = boards.unpack(boards.pack(board, pictures=True))
    assert again.gallery == board.gallery
    with pytest.raises(ValidationError):
        gallery.Sheet.model_validate(board.gallery.sheets[flat()].model_dump() | {"png": "); } body { --x: url("})


def test_a_picture_of_a_row(tmp_path: Path) -> None:
    board = board_of({"orderdp": [[[0], [0, 1]]]})
    file = tmp_path / "row.png"
    assert gallery.sheet(board, board.gallery.rows[0].row, file)
    assert Image.open(file).width > 400
    assert not gallery.sheet(board, (flat(), "cnn", "full", 1.0), file)


def test_a_page_of_a_thousand_rows_with_pictures_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    board = board_of({"orderdp": [[[0]]]}, dataset="digits")
    [one], drawn = of_board(board), np.random.default_rng(0)
    rows = [
        replace(one, row=("digits", "cnn", f"method_{i}", 0.3), times=drawn.integers(0, 30, len(one.times)) / 5)
        for i in range(1000)
    ]
    monkeypatch.setattr(usage, "of_results", lambda results: rows)
    assert len(html.page(board).encode()) < 5_000_000, "the rest has less than 5 MB too: see test_html.py"
    assert len(board.gallery.rows) == 1000
    cramped = gallery.make(board.results.values(), None, room=100_000)
    assert 0 < len(cramped.rows) < 100
    assert f"{1000 - len(cramped.rows)} more would be too much for a page" in cramped.note
