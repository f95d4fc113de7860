"""Runs on several processes of this machine: a rank that dies or fails, what is refused, and the command."""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import FORKS

import dpbench
from dpbench import store
from dpbench.experiments import executors, gang
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
    """A run of a home; `changed` says on which rank dpbench is another one."""

    spec: RunSpec
    home: Path
    changed: int | None = None


def carry_out(work: Work) -> tuple[dict[str, Any], list[int]]:
    """The result of a run whose every epoch leaves a checkpoint, and the epochs that it trained."""
    if work.changed is not None:
        dpbench.__version__ = "0.0" if os.environ["RANK"] == str(work.changed) else "0.1.0"
    epochs: list[int] = []
    with store.moved_home(work.home):
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
    monkeypatch.setattr(executors, "_CONTEXT", FORKS)


def numbers(result: dict[str, Any]) -> list[Any]:
    return [{k: v for k, v in record.items() if "time" not in k} for record in result["epochs"]]


def test_ranks_that_die_fail_or_differ(plug: Path, spec: Spec, tmp_path: Path, forked: None) -> None:
    def work(kind: str, home: str, changed: int | None = None, **more: Any) -> Work:
        (tmp_path / home).mkdir(exist_ok=True)
        return Work(spec(f"{plug}[what={kind}]", devices=2, **more), tmp_path / home, changed)

    (tmp_path / "quiet").mkdir()
    (tmp_path / "quiet" / "killed").touch()
    killed, again, quiet = work("killed", "loud"), work("killed", "loud", seed=0), work("killed", "quiet")
    raises, strays, other = work("raises", "loud"), work("strays", "loud"), work("none", "loud", changed=1)
    jobs = [killed, dataclasses.replace(again), quiet, raises, strays, other]
    found = [outcome for _, outcome in gang.run_together(2, carry_out, jobs, workers=1)]

    assert str(found[0]).startswith("rank 1 of 2: the worker process died: it was killed by SIGKILL")
    with store.moved_home(killed.home):
        assert read_selections(found[1][0]) is not None
    assert found[1][0]["status"] == found[2][0]["status"] == "FINISHED"
    assert found[1][1] == [2, 3], "it went on where it was killed"
    assert found[2][1] == [0, 1, 2, 3]
    assert numbers(found[1][0]) == numbers(found[2][0])

    reasons = [result["reason"] for result, _ in found[3:]]
    assert reasons[0].startswith("rank 1 of 2: Trouble.select(epoch=2) raised MemoryError: too much")
    assert reasons[1].startswith("the samples of epoch 2 are others on rank 1 than on rank 0")
    assert reasons[2] == "rank 1 of 2 differs from rank 0 in dpbench"
    with store.moved_home(raises.home):
        assert read_result(raises.spec.hash)["reason"] == reasons[0]  # type: ignore[index]
