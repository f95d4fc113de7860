"""The log of a results folder, and what it says of rows that were not made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_board import around
from test_merge import fill, make

from dpbench import store
from dpbench.analysis import board as boards
from dpbench.experiments import bundle, history, verify
from dpbench.experiments.merge import merge
from dpbench.reports import formats
from dpbench.reports.columns import BY_NAME, telling

ROWS = {("full", 1.0): around(0.9, seeds=3), ("uniform", 0.5): around(0.8, seeds=3)}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that was made in another home; $DPBENCH_HOME is empty."""
    fill(tmp_path / "other", make(ROWS), monkeypatch)
    with store.moved_home(tmp_path / "other"):
        bundle.write("made", tmp_path / "made.zip")
    monkeypatch.setenv("DPBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "made.zip"


def statuses() -> dict[str, str]:
    table = boards.load("made").table
    return dict(zip(table["method"], table["status"], strict=True)) if "status" in table else {}


def verified(file: Path, method: str, agrees: bool) -> None:
    """A row of the bundle is made again, as `dpbench verify` does it and notes it down."""
    with bundle.opened(file) as opened:
        specs = opened.manifest().cells
        rows = {key: spec.row for key, spec in specs.items()}
        run = next(key for key, spec in specs.items() if spec.method == method)
        hashes = verify._hashes(opened, rows, [verify.Verdict(run, "", agrees, "")])
    history.add("verified", file=str(file), sha256=history.sha256(file), runs={run: agrees}, **hashes)


def bundled(tmp_path: Path, file: str, row: list[Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of another home, in which `full` is such a row."""
    fill(tmp_path / file, make({("full", 1.0): row, ("uniform", 0.5): ROWS["uniform", 0.5]}), monkeypatch)
    with store.moved_home(tmp_path / file):
        bundle.write("made", tmp_path / f"{file}.zip")
    monkeypatch.setenv("DPBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / f"{file}.zip"


def test_rows_of_a_bundle_are_self_reported_until_a_run_of_theirs_agrees(file: Path) -> None:
    merge([file])
    assert statuses() == {"full": "self-reported", "uniform": "self-reported"}
    verified(file, "full", True)
    assert statuses() == {"full": "verified", "uniform": "self-reported"}
    verified(file, "full", False)
    verified(file, "full", True)
    assert statuses()["full"] == "contradicted", "one that did not agree counts, whatever others do"


def test_a_verified_bundle_says_nothing_of_another_one(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = bundled(tmp_path, "others", around(0.95, seeds=3), monkeypatch)
    merge([other])
    verified(file, "full", True)
    assert statuses()["full"] == "self-reported"
    verified(other, "full", True)
    assert statuses()["full"] == "verified"


def test_a_folder_that_says_its_runs_are_of_a_verified_bundle_is_not_believed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified(file, "full", True)
    others = bundled(tmp_path, "others", around(0.95, seeds=3), monkeypatch)
    with store.moved_home(tmp_path / "claims"):
        merge([others])
        log = store.home() / "log.jsonl"
        log.write_text(log.read_text().replace(history.sha256(others), history.sha256(file)))
        with log.open("a") as lines:  # and that it has verified them itself
            lines.write(json.dumps(history.entries()[0] | {"what": "verified", "verified": {}}) + "\n")
    merge([tmp_path / "claims"])
    assert statuses()["full"] == "self-reported"


def test_seeds_that_came_from_elsewhere_take_a_verified_row_its_status(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge([file])
    verified(file, "full", True)
    merge([bundled(tmp_path, "more", around(0.99, seeds=4), monkeypatch)])
    assert sorted(boards.load("made").table["seeds"]) == [3, 4]
    assert statuses()["full"] == "self-reported"


@pytest.mark.parametrize("name", ["result.json", "selections.npz", "predictions.npz"])
def test_results_that_are_altered_are_not_verified(file: Path, name: str) -> None:
    merge([file])
    verified(file, "full", True)
    key = next(key for key, spec in boards.load("made").cells.items() if spec.method == "full")
    path = store.run_folder(key) / name
    before = path.read_bytes() if path.is_file() else b""
    path.write_bytes(before + b" ")
    assert history.origins([key]) == ({} if name == "result.json" else {key: "self-reported"})
    assert before or name != "result.json"


def test_a_log_of_other_results_takes_a_run_no_status(file: Path) -> None:
    merge([file])
    key = next(iter(boards.load("made").cells))
    history.add("merged", sha256="0" * 64, runs={key: "0" * 64, "1": 2}, replaced=0)
    assert history.origins([key]) == {key: "self-reported"}


def test_what_is_made_here_is_our_own(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "home", make(ROWS), monkeypatch)
    merge([file])
    assert not history.entries(), "nothing was taken"
    assert statuses() == {}, "no column where all is our own"
    assert [one.name for one in telling(BY_NAME.values(), [{}])] == [name for name in BY_NAME if name != "status"]


def test_our_own_bundle_is_our_own(file: Path) -> None:
    history.add("submitted", grid="made", file=str(file), sha256=history.sha256(file))
    merge([file])
    assert statuses() == {}


def test_a_merged_run_that_is_made_again_here_is_our_own(file: Path) -> None:
    merge([file])
    for key, spec in boards.load("made").cells.items():
        if spec.method == "uniform":
            path = store.run_folder(key) / "result.json"
            path.write_text(path.read_text().replace('"time_total_s": ', '"time_total_s": 1'))
    assert statuses() == {"full": "self-reported", "uniform": "own"}


def test_a_status_comes_with_packed_boards_and_merged_folders(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge([file])
    verified(file, "full", True)
    board = boards.load("made")
    assert boards.unpack(boards.pack(board)).table.equals(board.table)
    lines = formats.text(board, "markdown").splitlines()
    assert [line.split("|")[-2].strip() for line in lines[:4]] == ["status", "---", "self-reported", "verified"]
    monkeypatch.setenv("DPBENCH_HOME", str(tmp_path / "third"))
    merge([tmp_path / "home"])
    assert statuses() == {"full": "self-reported", "uniform": "self-reported"}, "nothing was verified in this folder"
    verified(file, "full", True)
    assert statuses() == {"full": "verified", "uniform": "self-reported"}
    assert boards.pack(replace(board, origins={})) == boards.pack(make_own(board)), "nothing is said of our own"


def make_own(board: Any) -> Any:
    return boards.Board(board.grid, board.cells, board.results, board.overlap, controls=board.controls)


def test_lines_are_only_added_and_one_that_was_cut_off_is_left_out(home: Path) -> None:
    history.add("packed", grid="a", file="a.gz", sha256="0" * 64)
    path = home / "log.jsonl"
    first = path.read_bytes()
    path.write_bytes(first + b'{"time": "2026')
    history.add("packed", grid="b")
    assert path.read_bytes().startswith(first)
    assert [one["grid"] for one in history.entries()] == ["a", "b"]
    assert json.loads(path.read_bytes().splitlines()[-1])["what"] == "packed"
    assert history.words(history.entries()[0]).endswith("packed: grid a, file a.gz, sha256 000000000000")


@pytest.mark.parametrize("line", [b"[]", b"{}", b"\xff", b'{"time": 1, "what": "merged"}', b"NaN"])
def test_a_line_that_is_none_is_passed_over(home: Path, line: bytes) -> None:
    history.add("packed", grid="a")
    with (home / "log.jsonl").open("ab") as log:
        log.write(line + b"\n")
    assert len(history.entries()) == 1
    assert history.origins(["0" * 16]) == {}
