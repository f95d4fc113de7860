"""The battery passes every method that dpbench has, and finds what is wrong with broken ones."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from dpbench import catalog
from dpbench.training import conformance

METHODS = [name for name in catalog.names("methods") if name != "subset"]  # it is made for the n of one file


@pytest.mark.parametrize("check", conformance.CHECKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_conforms(method: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPBENCH_DEEPCORE", str(Path(__file__).parent.parent / "data" / "deepcore_standin"))
    assert conformance.CHECKS[check](method) == []


INEXACT = (  # what they keep depends on losses, a window, or coins
    {"full_short", "ies", "importance_sampling", "infobatch", "kakurenbo", "ordered_sgd", "progressive_dropout"}
    | {"bls", "repb", "selective_backprop", "seta"}
)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in INEXACT])
def test_the_others_select_exactly_the_share_asked_for(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPBENCH_DEEPCORE", str(Path(__file__).parent.parent / "data" / "deepcore_standin"))
    setting, loaded = conformance.Setting(), catalog.load_method(method)
    if not loaded.picks():
        fixed = loaded.requires().fixed_keep
        k = round(setting.n * (setting.keep if fixed is None else fixed))
        assert {len(chosen) for chosen in conformance.pretend(method, setting).selected} == {k}


HEADER = """
import numpy, torch
from dpbench.draws import sample, top
from dpbench.method import Picks, PruningMethod, Requires, Selection

class Broken(PruningMethod):
    def requires(self):
        return Requires({"loss"})

    def setup(self, task, rng):
        super().setup(task, rng)
        self.scores = torch.full((task.n,), float("inf"))

    def observe(self, signals):
        self.scores[signals.indices] = signals["loss"]
"""
BROKEN = {
    "range": (
        "    def select(self, epoch):\n        return Selection(torch.arange(self.task.k) + self.task.n - 5)",
        "valid",
    ),
    "repeats": (
        "    def select(self, epoch):\n        return Selection(torch.zeros(self.task.k, dtype=torch.int64))",
        "valid",
    ),
    "floats": ("    def select(self, epoch):\n        return Selection(torch.arange(self.task.k) * 1.0)", "valid"),
    "global_torch": (
        "    def select(self, epoch):\n        return Selection(torch.randperm(self.task.n)[: self.task.k])",
        "no_globals",
    ),
    "global_numpy": (
        "    def select(self, epoch):\n        numpy.random.rand()\n"
        "        return Selection(sample(self.task.n, self.task.k, self.rng))",
        "no_globals",
    ),
    "unseeded": (
        "    def select(self, epoch):\n        return Selection(torch.randperm(self.task.n)[: self.task.k])",
        "seeded",
    ),
    "same_for_every_seed": (
        "    def select(self, epoch):\n        torch.rand(1, generator=self.rng)\n"
        "        return Selection(sample(self.task.n, self.task.k, torch.Generator().manual_seed(epoch)))",
        "seeded",
    ),
    "order": (
        "    def select(self, epoch):\n        return Selection(top(self.scores, self.task.k, self.rng))\n"
        "    def observe(self, signals):\n"
        "        self.scores[signals.indices] = torch.arange(len(signals)).float()",
        "any_order",
    ),
    "repeats_count": (
        "    def select(self, epoch):\n        return Selection(top(self.scores, self.task.k, self.rng))\n"
        "    def observe(self, signals):\n"
        "        self.scores[signals.indices] = self.scores[signals.indices].nan_to_num(posinf=0) + signals['loss']",
        "any_order",
    ),
    "forgets": (
        "    def select(self, epoch):\n        return Selection(top(self.scores, self.task.k, self.rng))\n"
        "    def state_dict(self):\n        return super().state_dict() | {'state': {}}",
        "resumable",
    ),
    "nan": (
        "    def select(self, epoch):\n        assert not self.scores.isnan().any()\n"
        "        return Selection(top(self.scores, self.task.k, self.rng))",
        "edge_cases",
    ),
    "empty": (
        "    def select(self, epoch):\n        return Selection(torch.arange(int(self.task.keep * self.task.n)))",
        "edge_cases",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_methods_are_found(broken: str, tmp_path: Path, unplug: None) -> None:
    body, check = BROKEN[broken]
    file = tmp_path / f"broken_{broken}.py"
    file.write_text(HEADER + "\n" + body + "\n")
    name = catalog.resolve("methods", str(file))
    findings = conformance.check(name)[check]
    assert findings
    assert all(
        finding.startswith(("select", "observe", "state_dict", "setup", "Broken", "n = ", "keep", "NaN"))
        for finding in findings
    )


def test_a_method_that_fails_everywhere_is_told_so_once(tmp_path: Path, unplug: None) -> None:
    file = tmp_path / "careless.py"
    file.write_text(HEADER.replace("        super().setup(task, rng)\n", "") + "\n" + BROKEN["range"][0] + "\n")
    told = "Broken.setup did not call super().setup(task, rng); begin it with that line (careless.py, line 10)"
    assert conformance.check(catalog.resolve("methods", str(file))) == {"valid": [told]}


def test_ranks_that_drift_apart_are_found(tmp_path: Path, unplug: None) -> None:
    file = tmp_path / "broken_ranks.py"
    file.write_text(
        HEADER
        + "    def select(self, epoch):\n"
        + "        return Selection(top(self.scores + self.extra, self.task.k, self.rng))\n"
        + "    extra = 0\n"
        + "    def pick(self, signals, rng):\n"
        + "        self.extra = torch.rand(self.task.n, generator=rng)\n"
        + "        return Picks(torch.arange(len(signals)))\n"
    )
    assert "rank 1 chose other samples" in conformance.check(catalog.resolve("methods", str(file)))["same_on_ranks"][0]


def test_measure_counts_state_and_selection() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # here, memory that is free already would be taken
        seconds, size = fresh.submit(conformance.measure, "uniform", n=1_000_000).result()
    assert seconds > 0
    assert 3 < size < 60  # 8 bytes for each of 400,000 indices, and the draw's 3 bytes a sample
