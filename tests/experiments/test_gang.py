"""Runs on several processes of this machine: a rank that dies or fails, what is refused, and the command."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forking
from rich.console import Console
from typer.testing import CliRunner

import dpbench
from dpbench import store
from dpbench.cli.app import app
from dpbench.errors import UsageError
from dpbench.experiments import executors, gang
from dpbench.experiments import grid as grids
from dpbench.experiments.plan import Plan
from dpbench.grid_file import change_grid, read_grid
from dpbench.spec import RunSpec
from dpbench.training import runner
from dpbench.training.results import read_result, read_selections

CPU = torch.device("cpu")
Spec = Callable[..., RunSpec]
TROUBLE = '''
import os, signal
from pathlib import Path
from dpbench.store import home

class Trouble(PruningMethod):
    """Random samples, and on rank 1 what `what` says, in epoch 2, until the home has a file of this name."""

    what: str = param("none", choices=("none", "killed", "raises", "strays"))

    def requires(self):
        return Requires({"loss"})

    def select(self, epoch):
        rows = torch.randperm(self.task.n, generator=self.rng)[: self.task.k]
        if epoch == 2 and os.environ["RANK"] == "1" and not (home() / self.what).exists():
            if self.what == "killed":
                (home() / self.what).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.what == "raises":
                raise MemoryError("too much")
            if self.what == "strays":
                return Selection(rows.flip(0) - rows.min())
        return Selection(rows)
'''


@dataclass(frozen=True)
class Work:
    """A run of a home; `changed` says on which rank dpbench is another one, `apart` whether each has its own home."""

    spec: RunSpec
    home: Path
    changed: int | None = None
    apart: bool = False


def carry_out(work: Work) -> tuple[dict[str, Any], list[int]]:
    """The result of a run whose every epoch leaves a checkpoint, and the epochs that it trained."""
    if work.changed is not None:
        dpbench.__version__ = "0.0" if os.environ["RANK"] == str(work.changed) else "0.1.0"
    epochs: list[int] = []
    with store.moved_home(work.home / os.environ["RANK"] if work.apart else work.home):
        result = runner.run(work.spec, CPU, None, 0.0, lambda record: epochs.append(record["epoch"]))
    return result, epochs


@pytest.fixture(scope="module")
def plug(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plug") / "trouble.py"
    path.write_text("import torch\nfrom dpbench import PruningMethod, Requires, Selection, param\n" + TROUBLE)
    return path


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start workers from a process that has imported torch."""
    monkeypatch.setattr(executors, "_CONTEXT", Forking())


def numbers(result: dict[str, Any]) -> list[Any]:
    return [{k: v for k, v in record.items() if "time" not in k} for record in result["epochs"]]


def test_ranks_that_die_fail_or_differ(plug: Path, spec: Spec, tmp_path: Path, forked: None) -> None:
    def work(kind: str, home: str, *changes: Any) -> Work:
        (tmp_path / home).mkdir(exist_ok=True)
        return Work(spec(f"{plug}[what={kind}]", devices=2), tmp_path / home, *changes)

    (tmp_path / "quiet").mkdir()
    (tmp_path / "quiet" / "killed").touch()
    killed, quiet = work("killed", "loud"), work("killed", "quiet")
    raises, strays, other = work("raises", "loud"), work("strays", "loud"), work("none", "loud", 1)
    apart = work("none", "loud", None, True)
    (before := tmp_path / "loud" / "1" / "runs" / apart.spec.hash).mkdir(parents=True)
    (before / "lock").touch()  # the other home knows of the run, too
    jobs = [killed, killed, quiet, raises, strays, other, apart]
    found = [outcome for _, outcome in gang.run_together(2, carry_out, jobs, workers=1)]

    assert str(found[0]).startswith("rank 1 of 2: the worker process died: it was killed by SIGKILL")
    with store.moved_home(killed.home):
        assert read_selections(found[1][0]) is not None
    assert found[1][0]["status"] == found[2][0]["status"] == "FINISHED"
    # epoch 1 again where rank 0 was ended while it wrote that epoch's checkpoint
    assert found[1][1] in ([2, 3], [1, 2, 3]), "it went on where it was killed"
    assert found[2][1] == [0, 1, 2, 3]
    assert numbers(found[1][0]) == numbers(found[2][0])

    assert not list(tmp_path.rglob("rank0-*"))
    reasons = [result["reason"] for result, _ in found[3:]]
    assert reasons[0].startswith("rank 1 of 2: Trouble.select(epoch=2) raised MemoryError: too much")
    assert reasons[1].startswith("the samples of epoch 2 are others on rank 1 than on rank 0")
    assert reasons[2] == "rank 1 of 2 differs from rank 0 in dpbench"
    own = tmp_path / "loud" / "0" / "runs" / apart.spec.hash
    assert reasons[3] == f"rank 1 of 2 differs from rank 0 in $DPBENCH_HOME (is {own} shared?)"
    with store.moved_home(raises.home):
        assert read_result(raises.spec.hash)["reason"] == reasons[0]  # type: ignore[index]


# what is refused


def test_a_run_of_several_devices_is_another_run(spec: Spec) -> None:
    one, two = spec("full"), spec("full", devices=2)
    assert "devices" not in one.identity["spec"]
    assert "sync_batchnorm" not in one.identity["spec"]
    assert len({one.hash, two.hash, spec("full", devices=2, sync_batchnorm=True).hash}) == 3
    with pytest.raises(ValueError, match="sync_batchnorm is for several devices"):
        spec("full", sync_batchnorm=True)


def test_a_run_of_several_devices_needs_as_many_processes(spec: Spec, home: Path) -> None:
    with pytest.raises(UsageError, match=r"of 2 devices, and 1 were started; dpbench run --devices 2, or torchrun"):
        runner.run(spec("full", devices=2), CPU)


GRID = """
datasets: ["synthetic[n=100,n_test=50,d=16,classes=4]"]
models: ["mlp[width=8,depth=1]"]
methods: [full, "el2n[at_epoch=1]"]
keep: [0.5]
seeds: 1
recipe: {epochs: 2, batch_size: 16, lr: 0.1, batch_size_at: {0.5: 3}}
"""


def test_devices_are_no_more_than_a_batch_has_samples() -> None:
    grid = read_grid(GRID, "g.yaml", "g")
    assert {spec.devices for spec in change_grid(grid, {"devices": 3}).runs()} == {3}
    with pytest.raises(UsageError, match="devices = 4 have to share batches of 3 samples"):
        change_grid(grid, {"devices": 4})


@pytest.mark.parametrize(
    ("device", "devices", "jobs", "message"),
    [
        ("cuda", 4, None, "--devices 4: this machine has 3 GPUs"),
        ("cuda", 2, 2, "--jobs 2 of 2 devices each are more than the 3 GPUs of this machine"),
        ("cpu", 2, 2, "--jobs 2 of 2 devices of 2 threads each are more than the 7 cores of this machine"),
        ("cpu", 2, 1, None),
        ("cpu", 8, None, None),
        ("cuda", 3, None, None),
    ],
)
def test_the_machine_has_room(
    monkeypatch: pytest.MonkeyPatch, device: str, devices: int, jobs: int | None, message: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    if message is None:
        assert gang.of(devices, torch.device(device), jobs, 2)[0] == 1
    else:
        with pytest.raises(UsageError, match=message):
            gang.of(devices, torch.device(device), jobs, 2)


def test_a_study_has_no_devices() -> None:
    grid = change_grid(read_grid(GRID, "g.yaml", "g"), {"devices": 2})
    with pytest.raises(UsageError, match=r"g: devices = 2; trials run on one device each; tune by the grid without"):
        Plan("orderdp", grid.datasets[0], grid.models[0], 0.5, 3, 1, grid)


# torchrun


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["run", "quick", "--cell-timeout", "60"], "--cell-timeout and --jobs are for processes that dpbench starts"),
        (["run", "quick", "--jobs", "2"], "--cell-timeout and --jobs are for"),
        (["run", "quick", "--dry-run"], "--dry-run, --smoke and --list-commands need one process"),
        (["tune", "orderdp"], "dpbench tune needs one process, and torchrun has started 2"),
        (["verify", "bundle.zip"], "dpbench verify needs one process"),
    ],
)
def test_what_has_no_effect_under_torchrun_is_refused(asked: list[str], message: str) -> None:
    refused = CliRunner().invoke(app, asked, env={"RANK": "0", "WORLD_SIZE": "2"}).exception
    assert isinstance(refused, UsageError)
    assert str(refused).startswith(message)


def test_a_grid_under_torchrun_goes_on_with_devices(plug: Path, tmp_path: Path, forked: None) -> None:
    """A rank is killed under torchrun; the same grid goes on in processes of dpbench's own, in the same home."""
    text = GRID.replace("full,", f'full, "{plug}[what=killed]",').replace("epochs: 2", "epochs: 4")
    file = tmp_path / "g.yaml"
    file.write_text(text)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dpbench.cli"]
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | {"DPBENCH_HOME": str(home)}
    command = [sys.executable, *launch, "run", str(file), "--device", "cpu"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert said.returncode == 1
    assert "a rank is gone; what is finished is kept, the same command continues" in said.stderr
    with store.moved_home(home):
        cells = grids.read_manifest("g").cells
        before = {spec.method: result for key, spec in cells.items() if (result := read_result(key))}
        assert before["trouble[what=killed]"]["reason"] == "rank 1 of 2 is gone, or does not answer"
        grid = change_grid(read_grid(text, str(file), "g"), {"devices": 2})
        done = grids.run_grid(grid, Console(quiet=True), device=CPU)
        assert done.keys() == cells.keys()
        results = [read_result(key) for key in done]
        assert all(result is not None and result["status"] == "FINISHED" for result in results)
        assert before["full"] == read_result(before["full"]["hash"]), "what was finished is kept"
