"""What the tests share: a home of their own, tiny runs, plug-in files, and one finished grid in MLflow."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from filelock import FileLock

from dpbench import places
from dpbench.spec import Recipe, RunSpec, canonical, source_digests
from dpbench.training import loading, runner

CPU = torch.device("cpu")
MADE = Path(__file__).parent / "made.py"
TINY = "synthetic[n=100,n_test=50,d=16,classes=4]"  # 90 training samples, 10 for validation
GRID = """\
description: For the tests.
datasets: ["synthetic[n=200,n_test=100,d=16,classes=4]"]
models: ["mlp[width=8,depth=1]"]
methods:
  [full, full_short, uniform, uniform_epoch, "orderdp[explore=0.9]", infobatch, "el2n[at_epoch=1]", selective_backprop]
keep: [0.3, 0.5]
seeds: 2
recipe: {epochs: 5, batch_size: 16, lr: 0.1}
probe: {every: 1, samples: 64}
"""
PLUGIN = '''\
"""A method of one's own, outside the repository."""

import torch

from dpbench import PruningMethod, Requires, Selection, Signals, Task, param


class Hardest(PruningMethod):
    """Keep the k samples of the largest loss."""

    start: float = param(1.0, low=0.0, high=10.0)

    def requires(self) -> Requires:
        return Requires({"loss"})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.scores = torch.full((task.n,), self.start)

    def select(self, epoch: int) -> Selection:
        return Selection(self.scores.topk(self.task.k).indices)

    def observe(self, signals: Signals) -> None:
        self.scores[signals.indices] = signals["loss"]
'''


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Write nothing outside pytest's folder, and take nothing from the developer's environment."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPBENCH_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))  # else it takes 50 ms for each command
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty $DPBENCH_HOME."""
    path = tmp_path / "home"
    monkeypatch.setenv("DPBENCH_HOME", str(path))
    return path


@pytest.fixture
def unplug() -> Iterator[None]:
    """Forget the files that a test plugs in, so that no other test finds what is in them."""
    before = set(places.FILES)
    yield
    source_digests.cache_clear()
    for module in places.FILES.keys() - before:
        del places.FILES[module]
        sys.modules.pop(module, None)


@pytest.fixture
def add_home() -> Iterator[Callable[[Path], None]]:
    """Give `add_home(folder)`: a plug-in home until the test ends, as if DPBENCH_PATH named it."""
    before = {package: list(folders) for package, folders in places.FOLDERS.items()}

    def add(folder: Path) -> None:
        for package, folders in places.FOLDERS.items():
            folders.append(str(folder / package.removeprefix("dpbench.")))

    yield add
    source_digests.cache_clear()
    for package, folders in before.items():
        places.FOLDERS[package][:] = folders  # in place: it is the package's __path__


@pytest.fixture
def plugin(tmp_path: Path, unplug: None) -> Callable[[str], str]:
    """Give `plugin(source)`: the path of a new method file."""
    numbers = itertools.count()

    def write(source: str) -> str:
        path = tmp_path / f"plugin_{next(numbers)}.py"
        path.write_text(
            "import torch\nfrom dpbench import Picks, Proxy, PruningMethod, Requires, Selection, param\n"
            + textwrap.dedent(source)
        )
        return str(path)

    return write


@pytest.fixture
def spec(unplug: None) -> Callable[..., RunSpec]:
    """Give `spec(method, keep=..., epochs=..., ...)`: a run of a second; `made:Class` is a method of made.py."""

    def build(method: str = "full", **changes: Any) -> RunSpec:
        recipe = {"epochs": 4, "batch_size": 16, "lr": 0.1}
        recipe |= {key: changes.pop(key) for key in list(changes) if key in Recipe.model_fields}
        text = method.replace("made:", f"{MADE}:") if method.startswith("made:") else method
        fields = {"dataset": TINY, "model": "mlp[width=8,depth=1]", "keep": 0.5, "seed": 0} | changes
        fields.setdefault("data", loading.load_data(fields["dataset"], None).fingerprint)
        return RunSpec(method=canonical(text), recipe=Recipe(**recipe), **fields)

    return build


@pytest.fixture
def run(home: Path) -> Callable[..., dict[str, Any]]:
    """Give `run(spec)`: the result of a run on the CPU."""

    def carry_out(spec: RunSpec, **options: Any) -> dict[str, Any]:
        return runner.run(spec, CPU, **options)

    return carry_out


@pytest.fixture
def trained(home: Path) -> Callable[[RunSpec], Any]:
    """Give `trained(spec)`: the run's inner state after the training, to look at its parameters."""

    def carry_out(spec: RunSpec) -> Any:
        inner = runner._Run(spec, CPU, None, home)
        inner.train(1e9, None)
        return inner

    return carry_out


def dpbench(*arguments: str | Path, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, outside the repository."""
    home.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "dpbench.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=home.parent,
        env=os.environ | {"DPBENCH_HOME": str(home)} | environment,
    )


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    return dpbench


@dataclass(frozen=True)
class Finished:
    """A grid that was run: its home, its file, and what the command said."""

    home: Path
    file: Path
    plugin: Path
    done: subprocess.CompletedProcess[str]


def _made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first of pytest's workers makes and the others read."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder = root / name
    with FileLock(root / f"{name}.lock"):
        if not (folder / "made").exists():
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's SQLite file without runs; making it takes seconds."""

    def make(folder: Path) -> None:
        from dpbench.reports.tracking import Tracker

        Tracker(f"sqlite:///{folder / 'mlflow.db'}")

    return _made_once(tmp_path_factory, "database", make) / "mlflow.db"


@pytest.fixture
def tracked_home(home: Path, empty_database: Path) -> Path:
    """A home with a prepared MLflow database."""
    home.mkdir()
    shutil.copy(empty_database, home)
    return home


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Finished:
    """The grid `tiny` and a plug-in beside its methods, run by one command. Not to be changed: see `own_copy`."""

    def make(folder: Path) -> None:
        (folder / "tiny.yaml").write_text(GRID)
        (folder / "hardest.py").write_text(PLUGIN)
        (folder / "home").mkdir()
        shutil.copy(empty_database, folder / "home")
        done = dpbench(
            "run", folder / "tiny.yaml", "--method", folder / "hardest.py", "--jobs", "2", home=folder / "home"
        )
        (folder / "stdout").write_text(done.stdout)
        (folder / "stderr").write_text(done.stderr)
        (folder / "code").write_text(str(done.returncode))

    root = _made_once(tmp_path_factory, "finished", make)
    done = subprocess.CompletedProcess(
        "dpbench run", int((root / "code").read_text()), (root / "stdout").read_text(), (root / "stderr").read_text()
    )
    return Finished(root / "home", root / "tiny.yaml", root / "hardest.py", done)


@pytest.fixture
def own_copy(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished grid's home, that the test may change, as $DPBENCH_HOME."""
    copy = tmp_path / "copy"
    shutil.copytree(finished.home, copy)
    monkeypatch.setenv("DPBENCH_HOME", str(copy))
    return copy
