"""Jobs on other machines: what comes back is what the folder has, and what is lost runs again."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dpbench import store
from dpbench.cli.options import asked_executor
from dpbench.errors import RunFailed, UsageError
from dpbench.experiments import cluster
from dpbench.experiments.cluster import Engine, Errand, send_all
from dpbench.experiments.executors import run_all
from dpbench.experiments.plan import Plan
from dpbench.experiments.trials import counted
from dpbench.experiments.tuning import tune
from dpbench.grid_file import read_grid

LOCAL = {"use": "local"}


@dataclass(frozen=True)
class Noted:
    """A job whose result is a file of the home."""

    title: str
    devices: int = 1

    @property
    def key(self) -> str:
        return f"key of {self.title}"

    @property
    def path(self) -> Path:
        return store.home() / self.title

    def done(self) -> bool:
        return self.path.is_file()

    def found(self) -> str | None:
        return self.path.read_text() if self.done() else None


def note(job: Noted) -> str:
    if job.title == "bad":
        raise ValueError("on purpose")
    job.path.write_text(f"made {job.title}")
    return "what a worker returns is not looked at"


class Here(Engine):
    """Runs errands in this process, but for those whose node is `lost` so many times."""

    poll_s = lag_s = 0.0

    def __init__(self, lost: dict[str, int] | None = None) -> None:
        self.lost, self.waiting, self.most, self.cancelled = dict(lost or {}), [], 0, []

    def start(self, errands: list[Errand], folder: Path) -> list[Any]:
        self.waiting += errands
        self.most = max(self.most, len(self.waiting))
        return [errand.name for errand in errands]

    def over(self, handles: list[Any]) -> dict[Any, str]:
        errand = self.waiting.pop(0)
        if self.lost.get(errand.title, 0):
            self.lost[errand.title] -= 1
        else:
            try:
                errand()
            except RunFailed:
                pass  # it is written
        return {errand.name: "the node is gone"}

    def cancel(self, handles: list[Any]) -> None:
        self.cancelled += handles


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, in which errands do their jobs without a process of their own."""
    home.mkdir()

    def inline(work: Any, jobs: list[Any], *_: Any) -> Any:
        for job in jobs:
            try:
                yield job, work(job)
            except Exception as error:
                yield job, error

    monkeypatch.setattr(cluster, "run_all", inline)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    return home


def send(engine: Engine, *titles: str, workers: int = 2) -> dict[str, Any]:
    return {job.title: outcome for job, outcome in send_all(engine, note, map(Noted, titles), workers, 1, 60.0)}


def test_an_outcome_is_what_the_folder_has_and_an_error_what_was_written(here: Path) -> None:
    engine = Here()
    found = send(engine, "a", "bad", "b", "c")
    assert {name: found[name] for name in "abc"} == {"a": "made a", "b": "made b", "c": "made c"}
    assert str(found["bad"]) == "ValueError: on purpose"
    assert engine.most == 2, "no more errands at a time than workers"
    [kept] = (here / "cluster").iterdir()
    assert (kept / "00002.error").is_file(), "what failed can be read about"
    send(Here(), "a")
    assert list((here / "cluster").iterdir()) == [kept], "what ended well leaves nothing"


def test_a_lost_node_costs_only_its_jobs_which_run_again(here: Path) -> None:
    assert send(Here({"a": 2, "b": 1}), "a", "b", "c") == {"a": "made a", "b": "made b", "c": "made c"}
    found = send(Here({"d": 3}), "d", "e")
    assert found["e"] == "made e"
    assert "the node is gone; tried 3 times" in str(found["d"])


def test_what_a_node_has_written_may_be_seen_late(here: Path) -> None:
    class Late(Here):
        lag_s = 100.0

        def over(self, handles: list[Any]) -> dict[Any, str]:
            found = super().over(handles)
            for path in [Noted("a").path, *here.glob("cluster/*/*.over")]:
                path.rename(path.with_name(f"{path.name}.hidden"))
            threading.Timer(0.1, self.show).start()
            return found

        def show(self) -> None:
            for path in [*here.rglob("*.hidden")]:
                path.rename(path.with_name(path.name.removesuffix(".hidden")))

    assert send(engine := Late(), "a") == {"a": "made a"}
    assert engine.most == 1
    assert not engine.waiting, "it was started once"


def test_a_job_that_was_done_before_its_node_was_lost_is_done(here: Path) -> None:
    Noted("a").path.write_text("made a")
    engine = Here({"a": 1})
    assert send(engine, "a") == {"a": "made a"}
    assert engine.lost == {"a": 0}


def test_leaving_early_cancels_what_waits_or_runs(here: Path) -> None:
    engine = Here()
    iterator = send_all(engine, note, map(Noted, "abc"), 3)
    assert next(iterator)[1] == "made a"
    iterator.close()
    assert len(engine.cancelled) == 2


def errand(at: Path, **changes: Any) -> Errand:
    at.mkdir(parents=True, exist_ok=True)
    return replace(
        Errand(pickle.dumps((note, Noted("a"))), "a", str(at), "00001", 1, None, {}, str(at), 2, "key of a"), **changes
    )


def test_a_node_that_would_make_something_else_refuses(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here / "cluster" / "x"
    with pytest.raises(RunFailed, match=r"has dpbench .*, and this command is of 0\.0\.1"):
        errand(folder, version="0.0.1")()
    with pytest.raises(RunFailed, match=r"does not see .*elsewhere; DPBENCH_HOME must be a folder that all"):
        errand(folder, folder=str(here / "elsewhere" / "cluster" / "x"))()
    with pytest.raises(RunFailed, match=r"has other code: its methods"):
        errand(folder, key="key of older code")()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 300)
    with pytest.raises(RunFailed, match=r"the clock of .* is \+300 s from that of the shared folder"):
        errand(folder)()
    monkeypatch.setattr(time, "time", real)
    errand(folder)()
    assert Noted("a").done()


def test_an_errand_in_a_process_of_its_own(home: Path) -> None:
    home.mkdir()
    assert send(Here(), "a") == {"a": "made a"}


@pytest.mark.parametrize(
    ("of_grid", "name", "options", "message"),
    [
        (LOCAL, "pbs", [], "there is no executor 'pbs'; known: local, slurm, ray"),
        (LOCAL, None, ["time=3"], "the executor local has no option 'time'"),
        (LOCAL, "ray", ["time=3"], "the executor ray has no option 'time'; known: address, num_cpus"),
        (LOCAL, "slurm", ["time=2:00:00"], "time is '2:00:00', and must be a whole number of minutes"),
        (LOCAL, "slurm", ["time=0"], "time is 0, and must be"),
        (LOCAL, "slurm", ["partition=["], "'\\[' is no value"),
        (LOCAL, "slurm", ["time"], "--executor-option time: KEY=VALUE is needed"),
        (LOCAL, "slurm", [], "finds no Slurm here"),
        ({"use": "slurm", "colour": "red"}, None, [], "finds no Slurm here|colour"),
    ],
)
def test_what_cannot_be_used_is_refused(
    of_grid: dict[str, Any], name: str | None, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=message):
        asked_executor(of_grid, name, options)


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_engine_that_is_not_installed_says_how(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"pip install 'dpbench\[{name}\]'"):
        asked_executor(LOCAL, name, [])


GRID = """\
datasets: [digits]
models: [cnn]
methods: [full]
keep: [0.5]
seeds: 1
recipe: {epochs: 2, batch_size: 50, lr: 0.1}
"""


def test_a_grid_names_its_executor() -> None:
    assert read_grid(GRID, "g.yaml", "g").executor == LOCAL
    assert asked_executor(LOCAL, None, []) is None
    assert read_grid(GRID + "executor: slurm\n", "g.yaml", "g").executor == {"use": "slurm"}
    whole = read_grid(GRID + "executor: {use: slurm, time: 120, partition: gpu}\n", "g.yaml", "g").executor
    assert whole == {"use": "slurm", "time": 120, "partition": "gpu"}
    with pytest.raises(UsageError, match="use: NAME is missing"):
        read_grid(GRID + "executor: {time: 120}\n", "g.yaml", "g")


def test_trials_of_a_study_are_errands_too(here: Path) -> None:
    data, model = "synthetic[n=60,n_test=20,d=8,classes=2]", "mlp[width=4,depth=1]"
    text = GRID.replace("digits", f"'{data}'").replace("cnn", f"'{model}'")
    plan = Plan("orderdp", data, model, 0.5, 3, 1, read_grid(text, "g.yaml", "g"))
    engine = Here({f"{plan.name} trial 1": 1})
    *_, (_, study) = tune([plan], 2, partial(send_all, engine))
    assert len(counted(study)) == 3, "a trial whose node is lost is made again"
    assert engine.most == 2


SLURM = {  # a Slurm of shell scripts: jobs are numbered and listed until their line is removed
    "srun": "",
    "sbatch": 'n=$(($(cat "$S/n" 2>/dev/null || echo 10) + 1)); echo $n > "$S/n"; cp "$1" "$S/$n.sh"; '
    'echo $n >> "$S/queue"; echo "Submitted batch job $n"',
    "squeue": 'cat "$S/queue"',
    "scancel": 'echo "$@" > "$S/cancelled"',
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, script in SLURM.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("S", str(folder))
    return folder


def test_slurm_is_asked_for_what_the_options_say(slurm: Path, here: Path) -> None:
    from dpbench.experiments.slurm import engine

    folder = here / "cluster" / "x"
    made = engine({"time": 30, "partition": "gpu", "mem": "8G"})
    [job] = made.start([errand(folder, timeout_s=7200.0)], folder)
    written = (slurm / f"{job}.sh").read_text()
    for line in ("--time=30", "--partition=gpu", "--mem=8G", "--job-name=dpbench", "--cpus-per-task=2"):
        assert line in written
    assert "--signal=USR2@90" in written, "it is told before its time is over"
    assert made.over([job]) == {}
    (slurm / "queue").write_text("")
    assert made.over([job]) == {job: f"the Slurm job {job} ended without a result: it printed nothing"}
    made.cancel([job])
    assert (slurm / "cancelled").read_text().split() == [job]
    with pytest.raises(UsageError, match=r"Unavailable parameter\(s\): \['colour'\]"):
        engine({"colour": "red"})


def test_a_refusing_slurm_is_told(slurm: Path, here: Path) -> None:
    from dpbench.experiments.slurm import engine

    (slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2; exit 1\n")
    folder = here / "cluster" / "x"
    with pytest.raises(UsageError, match=r"Slurm does not take the jobs: .*invalid partition specified: gpu"):
        engine({"partition": "gpu"}).start([errand(folder)], folder)


def test_workers_share_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    found = sorted(outcome for _, outcome in run_all(os.getenv, ["CUDA_VISIBLE_DEVICES"] * 2, workers=2))
    assert found == ["4", "6"]
