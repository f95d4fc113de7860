"""What a plug-in changes of what all share is given back and fails its run; other methods' data is out of its reach."""

import os
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpbench import PruningMethod, Selection, isolation
from dpbench.errors import RunFailed
from dpbench.training import answers, loading

torch.use_deterministic_algorithms(False)  # its first call imports what adds warning filters
CHANGES: dict[str, Callable[[], object]] = {
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's gradient mode": lambda: torch.set_grad_enabled(False),
    "torch's deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch's precision of matrix products": lambda: torch.set_float32_matmul_precision("medium"),
    "cuDNN's settings": lambda: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    "NumPy's handling of floating-point errors": lambda: np.seterr(all="ignore"),
    "environment variables (HOME, MADE_BY_A_TEST)": lambda: os.environ.update(HOME="/", MADE_BY_A_TEST="1"),
    "environment variables (HOME)": lambda: os.environ.pop("HOME"),
    "the current folder": lambda: os.chdir("/"),
    "the warning filters": lambda: warnings.simplefilter("error"),
    "signal handlers": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "torch's global generator": lambda: torch.rand(1),
    "NumPy's global generator": lambda: np.random.rand(),
    "Python's global generator": lambda: random.random(),
}


class Method(PruningMethod):
    """A method with one more function."""

    def select(self, epoch: int) -> Selection:
        raise AssertionError


def call(*arguments: Any) -> Any:
    with isolation.strict():
        return answers.call(*arguments)


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_undone_and_named(what: str) -> None:
    before = isolation._State(isolation._EVERYTHING).values
    with pytest.raises(RunFailed) as found:
        call(Method(), "select(epoch=3)", CHANGES[what])
    assert isolation._State(isolation._EVERYTHING).values == before
    remedy = "draw from self.rng" if "generator" in what else "other methods share it"
    assert str(found.value) == f"Method.select(epoch=3) changed {what}; {remedy}"


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_by_what_raises_is_undone(what: str) -> None:
    def change() -> None:
        CHANGES[what]()
        raise SystemExit(3)

    before = isolation._State(isolation._EVERYTHING).values
    with pytest.raises(RunFailed, match="raised SystemExit: 3"):
        call(Method(), "select(epoch=3)", change)
    assert isolation._State(isolation._EVERYTHING).values == before


def test_no_change_is_no_finding() -> None:
    assert call(Method(), "select(epoch=0)", lambda: 7) == 7


def test_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave() -> None:
        (tmp_path / "gone").mkdir()
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()

    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFailed, match="changed the current folder"):
        call(Method(), "select(epoch=0)", leave)
    assert Path.cwd() == tmp_path


def test_what_a_library_adds_while_it_is_imported_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def use() -> None:
        import dpbench_library  # noqa: F401

    added = "import os, warnings\nos.environ['DPBENCH_LIBRARY'] = '1'\nwarnings.simplefilter('always', FutureWarning)"
    (tmp_path / "dpbench_library.py").write_text(added)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DPBENCH_LIBRARY", "0")  # taken away again by the fixture
    del os.environ["DPBENCH_LIBRARY"]
    with warnings.catch_warnings():
        call(Method(), "select(epoch=0)", use)
        assert os.environ["DPBENCH_LIBRARY"] == "1"


# in runs

REACHES = """
class Reaches(PruningMethod):
    what: str = param("labels", choices=("labels", "signals", "dtype", "environment", "proxy"))

    def setup(self, task, rng):
        super().setup(task, rng)
        if self.what == "labels":
            task.labels.zero_()
        if self.what in ("dtype", "proxy"):
            torch.set_default_dtype(torch.float64)

    def requires(self):
        return Requires({"loss"}, Proxy(1) if self.what == "proxy" else None)

    def select(self, epoch):
        if self.what == "environment":
            import os
            os.environ["OMP_NUM_THREADS"] = "7"
        return Selection(torch.arange(self.task.k))

    def pick(self, signals, rng):
        rows = torch.arange(len(signals))
        signals.indices.zero_(), signals["loss"].zero_()
        return Picks(rows)

    def observe(self, signals):
        signals.indices.zero_(), signals["loss"].zero_()
"""


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    assert result["status"] == "FINISHED", result
    return {name: v for name, v in result["metrics"].items() if "time" not in name and "memory" not in name}


@pytest.mark.parametrize("other", ["uniform", "el2n[at_epoch=1,runs=1]"])
def test_a_method_that_writes_into_what_it_is_given_changes_no_other(
    other: str, spec: Callable[..., Any], run: Callable[..., Any], plugin: Callable[[str], str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In one process, where uniform's accuracy fell from 0.63 to 0.41 and el2n's from 0.18 to 0.10."""
    alone = numbers(run(spec(other)))
    file = plugin(REACHES)
    monkeypatch.setenv("DPBENCH_HOME", str(tmp_path / "another"))
    for what in ("labels", "signals"):
        assert run(spec(f"{file}[what={what}]"))["status"] == "FINISHED"
    assert numbers(run(spec(other))) == alone


def test_a_static_method_that_writes_into_replayed_signals_changes_no_record(
    spec: Callable[..., Any], run: Callable[..., Any], plugin: Callable[[str], str]
) -> None:
    file = plugin("""
    class Zeroes(PruningMethod):
        def requires(self):
            return Requires({"error_norm"}, Proxy(2), period=0)
        def select(self, epoch):
            return Selection(torch.arange(self.task.k))
        def observe(self, signals):
            signals["error_norm"].zero_()
    """)
    assert run(spec(file))["status"] == "FINISHED"
    [record] = (Path(os.environ["DPBENCH_HOME"]) / "proxy").glob("*/pass-*-error_norm.npy")
    assert np.load(record).any()


@pytest.mark.parametrize(("what", "reason"), [
    ("dtype", "setup changed torch's default dtype"), ("proxy", "setup changed torch's default dtype"),
    ("environment", "select(epoch=0) changed environment variables (OMP_NUM_THREADS)"),
])  # fmt: skip
def test_a_run_whose_method_changes_settings_has_failed(
    what: str, reason: str, spec: Callable[..., Any], run: Callable[..., Any], plugin: Callable[[str], str],
    home: Path,
) -> None:  # fmt: skip
    alone = run(spec("uniform"))
    result = run(spec(f"{plugin(REACHES)}[what={what}]"))
    assert result["status"] == "FAILED"
    assert result["reason"] == f"Reaches.{reason}; other methods share it"
    assert not list(home.glob("proxy/*/*.npy")), "a record was made under the changed settings"
    loading.load_data.cache_clear()
    (home / "runs").rename(home / "first")
    assert numbers(run(spec("uniform"))) == numbers(alone)
