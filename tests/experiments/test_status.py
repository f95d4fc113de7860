"""What a grid's folders tell of how far it is."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from dpbench import store
from dpbench.cli.status import screen
from dpbench.errors import RunFailed
from dpbench.experiments import grid as grids
from dpbench.experiments.status import status
from dpbench.grid_file import read_grid
from dpbench.spec import RunSpec
from dpbench.training import loading, pulse, results, runner

GRID = """\
datasets: ["synthetic[n=100,n_test=50,d=16,classes=4]"]
models: ["mlp[width=8,depth=1]"]
methods: [full, uniform, uniform_epoch]
keep: [0.5]
seeds: 2
recipe: {epochs: 4, batch_size: 16, lr: 0.1}
"""


@pytest.fixture
def cells(home: Path) -> dict[str, RunSpec]:
    grid = read_grid(GRID, "small.yaml", "small")
    found = {spec.hash: spec for spec in grid.runs(loading.fingerprints(grid.datasets, None))}
    grids.write_manifest(grid, found)
    return found


def sign(key: str, epoch: int, clock: float = 0.0, **changes: Any) -> None:
    """Write a sign as a machine does whose clock is so many seconds ahead."""
    now = time.time()
    content = {"host": "node7", "pid": 12, "epoch": epoch, "epochs": 4, "epoch_s": 1.0, "since": now - 60, "at": now}
    store.write_json(store.run_folder(key) / pulse.FILE, content | changes)
    written = changes.get("at", now) - clock
    os.utime(store.run_folder(key) / pulse.FILE, (written, written))


def test_runs_are_told_by_what_has_become_of_them(cells: dict[str, RunSpec]) -> None:
    done, failed, running, silent, *waiting = cells
    begun = {key: runner.account.blank(spec) for key, spec in cells.items()}
    result = runner.run(cells[done], torch.device("cpu"))
    results.write(result | {"started": 1000.0, "ended": 1010.0})
    results.write(begun[failed] | {"status": "FAILED", "reason": "on purpose"})
    sign(running, 1)
    sign(silent, 2, at=time.time() - 1000, host="node8")
    found = status("small")
    assert [one["hash"] for one in found.done] == [done]
    assert [(spec.hash, why) for spec, why in found.failed] == [(failed, "on purpose")]
    assert [spec.hash for spec, _ in found.running] == [running]
    assert [spec.hash for spec, _ in found.silent] == [silent]
    assert (found.waiting, found.total, found.over) == (len(waiting), len(cells), False)
    assert found.left_s == pytest.approx(10 * (len(waiting) + 0.75)), "one worker, which has done a quarter"
    console = Console(file=io.StringIO(), width=100)
    console.print(screen(found))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert (
        "small: 1 done, 1 running, 1 silent, 1 failed, 2 waiting of 6 runs; about 0:00:28 left with 1 workers" in said
    )
    for words in ("node7, 12", "1 of 4", "node8, 12", "on purpose"):
        assert words in said


def test_an_epoch_that_takes_long_is_waited_for(cells: dict[str, RunSpec]) -> None:
    [key, *_] = cells
    sign(key, 1, at=time.time() - 1000, epoch_s=400.0)
    assert status("small").running


def test_clocks_that_differ_are_told_and_count_for_nothing(cells: dict[str, RunSpec]) -> None:
    now = time.time()
    ahead, behind, dead, failed, *_ = cells
    sign(ahead, 1, clock=500, at=now + 500, since=now + 440, host="ahead")
    sign(behind, 1, clock=-500, at=now - 500, since=now - 560, host="behind")
    sign(dead, 1, clock=500, at=now - 500, since=now - 560, host="dead")
    sign(failed, 1, clock=500, at=now + 400, host="ahead")  # nobody could remove it
    results.write(runner.account.blank(cells[failed]) | {"status": "FAILED", "reason": "its node is gone"})
    found = status("small")
    assert {sign.host for _, sign in found.running} == {"ahead", "behind"}
    assert [sign.host for _, sign in found.silent] == ["dead"]
    assert [spec.hash for spec, _ in found.failed] == [failed]
    assert all(now - sign.since == pytest.approx(60, abs=1) for _, sign in found.running)
    console = Console(file=io.StringIO(), width=100)
    console.print(screen(found))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "The clock of ahead is 500 s ahead of that of the results' folder." in said
    assert "The clock of behind is 500 s behind that of the results' folder." in said


def test_what_is_left_is_never_less_than_nothing(cells: dict[str, RunSpec]) -> None:
    done, running, *waiting = cells
    sign(running, 6)  # of a budget that is spent in more epochs than are planned
    result = runner.account.blank(cells[done]) | {
        "status": "FINISHED",
        "metrics": {"accuracy": 0.5, "prune_ratio": 0.5},
    }
    results.write(result | {"started": 1000.0, "ended": 900.0})
    assert status("small").left_s is None, "its clock was set back"
    results.write(result | {"started": 1000.0, "ended": 1010.0})
    assert status("small").left_s == 10 * len(waiting)


def test_a_grid_is_not_over_between_its_cells_and_their_controls(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = read_grid(GRID.replace("full, uniform, uniform_epoch", "selective_backprop"), "small.yaml", "small")
    cells = {spec.hash: spec for spec in grid.runs(loading.fingerprints(grid.datasets, None))}
    grids.write_manifest(grid, cells)
    made = {key: runner.run(spec, torch.device("cpu")) for key, spec in cells.items()}
    with monkeypatch.context() as patch:
        patch.setattr(RunSpec, "hash", None)  # which takes the sources, that another machine may lack
        found = status("small")
    assert (len(found.done), found.waiting, found.over) == (2, 2, False)
    assert status("small", made).waiting == 2, "by results that were read already"
    for spec in grids.list_controls("small", grids.all_controls).values():
        runner.run(spec, torch.device("cpu"))
    found = status("small")
    assert (len(found.done), found.waiting, found.over) == (4, 0, True)


def test_a_run_whose_worker_died_has_failed_and_runs_no_more(cells: dict[str, RunSpec]) -> None:
    first, second, *_ = cells
    sign(first, 1)
    runner.lost(cells[first], RunFailed("killed"))
    results.write(runner.account.blank(cells[second]) | {"status": "FAILED", "reason": "its node is gone"})
    sign(second, 1, at=time.time() - 5)  # nobody could remove it
    found = status("small")
    assert {why for _, why in found.failed} == {"killed", "its node is gone"}
    assert not found.running


def test_a_run_gives_signs_and_none_when_it_has_ended(home: Path, spec: Callable[..., RunSpec]) -> None:
    one = spec("uniform_epoch", epochs=3)
    folder, seen = store.run_folder(one.hash), []
    runner.run(one, torch.device("cpu"), on_epoch=lambda record: seen.append(pulse.read(folder)))
    assert [(sign.epoch, sign.epochs) for sign in seen] == [(0, 3)] * 3, "not more than one in two seconds"
    assert pulse.read(folder) is None
