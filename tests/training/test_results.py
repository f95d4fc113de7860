"""The folder of a run, read: whatever a file of it holds, no command ends, and the run is made again."""

from __future__ import annotations

import copy
import gzip
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_board import around, make

from dpbench import store
from dpbench.analysis import board as boards
from dpbench.experiments import grid as grids
from dpbench.reports import screen
from dpbench.spec import RunSpec
from dpbench.training import results, runner

CPU = torch.device("cpu")


def changed(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """A result with other values; None removes one."""

    def change(result: dict[str, Any]) -> dict[str, Any]:
        both = copy.deepcopy(result) | changes
        return {name: value for name, value in both.items() if value is not None}

    return change


def with_metric(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda result: result | {"metrics": result["metrics"] | {name: value}}


BAD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "empty": lambda result: {},
    "a list": lambda result: [result],
    "null": lambda result: None,
    "a number": lambda result: 5,
    "no metrics": changed(metrics=None),
    "no accuracy": changed(metrics={"prune_ratio": 0.5}),
    "null accuracy": with_metric("accuracy", None),
    "a text as accuracy": with_metric("accuracy", "0.9"),
    "a text as another metric": with_metric("time_total_s", "fast"),
    "hash 5": changed(hash=5),
    "another's hash": changed(hash="f" * 16),
    "another status": changed(status="DONE"),
    "no reason": changed(status="FAILED"),
    "no spec": changed(spec={}),
    "epochs of numbers": changed(epochs=[1, 2]),
    "epochs without number": changed(epochs=[{"accuracy": 0.5}]),
    "epochs of texts": changed(epochs=[{"epoch": 0, "accuracy": "0.5"}]),
    "samples": changed(samples={"train": -1}),
    "coverage": changed(diagnostics={"coverage": 1}),
    "environment": changed(environment=None),
    "when it began": changed(started="today"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_result_counts_as_missing(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    board = make({("full", 1.0): around(0.9), ("uniform", 0.5): around(0.8)})
    for key, result in board.results.items():
        store.write_json(store.run_folder(key) / "result.json", result)
        (store.run_folder(key) / "done").touch()
    grids.Manifest(board.grid, board.cells, {}).save()
    [first, *others] = board.cells
    path = store.run_folder(first) / "result.json"
    path.write_text(json.dumps(BAD[name](board.results[first])))
    read = boards.load("made")
    assert list(read.results) == others
    assert dict(zip(read.table["method"], read.table["missing"], strict=True)) == {"full": 1, "uniform": 0}
    assert screen.screen(read, 80)
    assert f"{path} is damaged and counts as not there" in capsys.readouterr().err
    assert (results.is_done(first), results.is_done(others[0])) == (False, True)


def test_nulls_are_what_was_not_measured(home: Path) -> None:
    board = make({("full", 1.0): [0.9]})
    [(key, result)] = board.results.items()
    result["metrics"] |= {"loss_test": None, "gradient_cosine": None}
    result["epochs"][0] |= {"loss_train": None}
    read = results.check(result, key)
    assert "loss_test" not in read["metrics"]
    assert read["metrics"]["accuracy"] == 0.9
    assert math.isnan(read["epochs"][0]["loss_train"])
    assert read["epochs"][1:] == result["epochs"][1:]
    assert b"NaN" not in gzip.decompress(results.pack({"results": {key: read}, "controls": {}}))


def test_a_result_and_a_packed_board_say_their_version_and_another_one_is_not_read() -> None:
    board = make({("full", 1.0): [0.9]})
    [(key, result)] = board.results.items()
    assert results.check(result, key).get("version") is None, "a file from before it was written"
    assert results.check(result | {"version": 1}, key)["version"] == 1
    with pytest.raises(ValueError, match="version"):
        results.check(result | {"version": 2}, key)
    content = json.loads(gzip.decompress(boards.pack(board)))
    assert content.pop("version") == 1
    for version, known in ((None, True), (1, True), (2, False)):
        packed = gzip.compress(json.dumps(content | ({"version": version} if version else {})).encode())
        if known:
            assert boards.unpack(packed).results.keys() == board.results.keys()
        else:
            with pytest.raises(ValueError, match="version 2"):
                boards.unpack(packed)


@pytest.mark.parametrize("how", ["junk", "null", "gone"])
def test_a_finished_run_without_its_result_is_made_again(
    spec: Callable[..., RunSpec], home: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    wanted = spec("uniform")
    first = runner.run(wanted, CPU)
    path = store.run_folder(wanted.hash) / "result.json"
    path.unlink() if how == "gone" else path.write_bytes({"junk": b"\x80\xff", "null": b"null"}[how])
    assert not results.is_done(wanted.hash)
    again = runner.run(wanted, CPU)
    assert again["started"] > first["started"]
    assert again["metrics"]["accuracy"] == first["metrics"]["accuracy"]
    assert len(list(path.parent.glob("result.json.bad-*"))) == (how != "gone")
    assert (results.final(wanted.hash) or {})["started"] == again["started"]


def test_a_damaged_checkpoint_starts_the_run_afresh(
    spec: Callable[..., RunSpec], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    wanted, other = spec("orderdp"), spec("orderdp", seed=1)
    whole = runner.run(spec("orderdp"), CPU)
    for one in (wanted, other):
        path = store.run_folder(one.hash) / "done"
        path.unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            runner.run(one, CPU, checkpoint_s=0.0, on_epoch=stop)
    checkpoint = store.run_folder(wanted.hash) / "checkpoint.pt"
    good, foreign = checkpoint.read_bytes(), (store.run_folder(other.hash) / "checkpoint.pt").read_bytes()
    damaged = [b"", b"junk", good[: len(good) // 2], foreign]
    for number, content in enumerate(damaged, start=1):
        (checkpoint.parent / "done").unlink(missing_ok=True)
        checkpoint.write_bytes(content)
        epochs: list[int] = []
        again = runner.run(wanted, CPU, on_epoch=lambda record: epochs.append(record["epoch"]))  # noqa: B023
        assert epochs[0] == 0
        assert again["epochs"][-1]["accuracy"] == whole["epochs"][-1]["accuracy"]
        assert f"set aside as checkpoint.pt.bad-{number}" in capsys.readouterr().err


def test_a_worker_that_died_after_the_end_does_not_undo_it(spec: Callable[..., RunSpec], home: Path) -> None:
    wanted = spec("uniform")
    finished = runner.run(wanted, CPU)
    assert runner.lost(wanted, RuntimeError("killed")) == results.final(wanted.hash)
    assert (results.final(wanted.hash) or {})["metrics"]["accuracy"] == finished["metrics"]["accuracy"]


def test_a_long_reason_is_cut_and_the_whole_is_kept(
    spec: Callable[..., RunSpec], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "x" * 20_000

    def fail(*_: Any) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(runner, "_begin", fail)
    wanted = spec("uniform")
    for result in (runner.run(wanted, CPU), runner.lost(wanted, RuntimeError(text))):
        where = f"runs/{wanted.hash}/traceback.txt"
        assert len(result["reason"]) < 600
        assert result["reason"].endswith(f"xxx... (the whole is in {where})")
        assert text in (home / where).read_text()
        assert (results.read_result(wanted.hash) or {})["reason"] == result["reason"]


def test_selections_of_another_run_are_set_aside(
    spec: Callable[..., RunSpec], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (runner.run(spec("uniform", seed=seed), CPU) for seed in (0, 1))
    path = store.run_folder(one["hash"]) / "selections.npz"
    path.write_bytes((store.run_folder(other["hash"]) / "selections.npz").read_bytes())
    assert results.read_selections(other) is not None
    assert results.read_selections(one) is None
    assert f"the selections of the run {other['hash']}" in capsys.readouterr().err
    assert not results.is_done(one["hash"]), "it is made again"
    np.savez_compressed(path, indices=np.zeros(10**7, dtype=np.int32))
    with pytest.raises(ValueError, match=r"40,000,128 bytes unpacked; at most 1,0\d\d,\d\d\d fit"):
        results.check_selections(path, one)


def test_predictions_are_those_of_the_run(
    spec: Callable[..., RunSpec], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = runner.run(spec("uniform"), CPU)
    found = results.read_predictions(one)
    assert found is not None
    assert found.correct.mean() == one["metrics"]["accuracy"]
    assert one["diagnostics"]["calibration_error"] == found.calibration_error()
    path = store.run_folder(one["hash"]) / "predictions.npz"
    replace(found, classes=1 - found.correct).write(path)
    assert results.read_predictions(one) is None
    assert "of them are right, where the run has" in capsys.readouterr().err
    assert not results.is_done(one["hash"]), "it is made again"
    np.savez_compressed(path, labels=np.zeros(10**7, dtype=np.int32))
    with pytest.raises(ValueError, match=r"40,000,128 bytes unpacked; at most \d\d,\d\d\d fit"):
        results.check_predictions(path, one)
