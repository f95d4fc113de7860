"""The estimate of a grid: what it counts is what its runs do, and what is done is left out."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from dpbench.cli import ahead
from dpbench.errors import UsageError
from dpbench.experiments import estimate as estimates
from dpbench.experiments import grid as grids
from dpbench.experiments.estimate import Estimate, Part, Speed
from dpbench.grid_file import change_grid, read_grid

CPU = torch.device("cpu")
GRID = """\
datasets: ["synthetic[n=200,n_test=100,d=16,classes=4]"]
models: ["mlp[width=8,depth=1]"]
methods: [full, full_short, uniform, uniform_epoch, "el2n[at_epoch=2]", "aum[proxy_epochs=3]", ordered_sgd]
keep: [0.5]
seeds: 2
recipe: {epochs: 6, batch_size: 16, lr: 0.1}
probe: {every: 0}
"""


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second a sample trained on, half of one forwarded."""

    class Known(dict[Any, float]):
        def __missing__(self, key: Any) -> float:
            return 0.5

    def calibrate(*_: Any) -> Speed:
        return Speed(1.0, Known({frozenset(): 0.5}), {"el2n": 4, "margin": 4}, 100.0)

    monkeypatch.setattr(estimates, "calibrate", calibrate)


def test_samples_are_those_that_the_runs_send_backward(home: Path, timed: None) -> None:
    grid = read_grid(GRID, "g.yaml", "g")
    before = estimates.estimate(grid, CPU, None)
    assert (before.cells, before.done) == (14, 0)
    [part] = before.parts.values()
    cells = grids.run_grid(grid, Console(file=io.StringIO()), jobs=2)
    found = grids.results(cells)
    spent = {
        name: sum(one["metrics"][name] for one in found.values()) for name in next(iter(found.values()))["metrics"]
    }
    known = [key for key in cells if key in {spec.hash for spec in grid.runs({cells[key].dataset: cells[key].data})}]
    assert len(known) == part.cells
    backward = sum(found[key]["metrics"]["samples_backward"] for key in known)
    assert part.samples == pytest.approx(backward, rel=0.01)
    assert before.controls.cells == len(cells) - len(known) > 0
    once = {
        one["spec"]["seed"]: one["metrics"]["samples_proxy"] for one in found.values() if "aum" in one["spec"]["method"]
    }
    assert before.proxies.samples == sum(once.values()), "one training serves both methods"
    assert spent["samples_backward"] == pytest.approx(part.samples + before.controls.samples, rel=0.01)

    after = estimates.estimate(grid, CPU, None)
    assert (after.done, after.whole.cells, after.whole.seconds) == (14, 0, 0.0)


def test_seconds_are_of_training_evaluation_and_choosing(home: Path, timed: None) -> None:
    text = GRID.replace(GRID.split("methods: ")[1].split("\n")[0], "[ordered_sgd]").replace("seeds: 2", "seeds: 1")
    [part] = estimates.estimate(read_grid(text, "g.yaml", "g"), CPU, None).parts.values()
    n, tested, epochs = 180, 120, 6
    assert part.samples == 0.5 * n * epochs
    assert part.seconds == pytest.approx(estimates.RUN_S + part.samples + 0.5 * epochs * (n + tested))


def test_a_budget_of_time_is_spent_and_no_more(home: Path, timed: None) -> None:
    """An epoch of 180 samples takes 90 s of training and, of a batch-level method, as long to choose among them."""
    grid = GRID.replace("seeds: 2", "seeds: 1") + "budget: {unit: time, seconds: 360}\n"
    for method, epochs in (("uniform", 4), ("ordered_sgd", 2), ("full", 2)):
        text = grid.replace(grid.split("methods: ")[1].split("\n")[0], f"[{method}]")
        found = estimates.estimate(read_grid(text, "g.yaml", "g"), CPU, None)
        [part] = found.parts.values()
        assert part.samples == epochs * 180 * (1.0 if method == "full" else 0.5), method
        assert part.seconds == pytest.approx(estimates.RUN_S + 360 + 0.5 * epochs * 120), method
        assert found.controls.cells == 0


def test_absent_files_are_stood_in_for_at_the_datasets_own_size(home: Path, tmp_path: Path, timed: None) -> None:
    text = "datasets: [cifar10]\nmodels: [cnn]\nmethods: [full]\nkeep: [1.0]\nseeds: 1\n"
    text += "recipe: {epochs: 2, batch_size: 128, lr: 0.1}\nprobe: {every: 0}\n"
    found = estimates.estimate(read_grid(text, "g.yaml", "g"), CPU, tmp_path)
    assert found.made == ["cifar10"]
    assert found.whole.samples == pytest.approx(2 * 45_000, rel=1e-3)
    with pytest.raises(UsageError, match="there is no folder"):
        estimates.estimate(read_grid(text.replace("cifar10", '"folder:nowhere"'), "g.yaml", "g"), CPU, tmp_path)


def test_a_calibration_times_steps_and_passes(home: Path) -> None:
    data, _, real = estimates._data("synthetic[n=200,n_test=100,d=16,classes=4]", None, home)
    recipe = read_grid(GRID, "g.yaml", "g").recipe
    needs = frozenset({frozenset({"logits"})})
    found = estimates.calibrate(data, "mlp[width=8,depth=1]", recipe, CPU, needs)
    assert real
    assert found.train > 0
    assert found.forward.keys() == {frozenset(), *needs}
    assert found.bytes["logits"] == 4 * 4


def test_several_devices_share_what_is_trained_and_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    work = estimates._Work(2.0, 600.0, 300.0, 100.0, 60.0)
    alone, shared = Part(), Part()
    for part, share in ((alone, 1), (shared, 4)):
        estimates._add(part, work, Speed(3.0, {frozenset(): 1.0}), share)
    undivided = estimates.RUN_S + 3.0 * estimates.PROBED * 60
    assert alone.seconds == pytest.approx(undivided + 3 * 600 + 400)
    assert shared.seconds == pytest.approx(undivided + (3 * 600 + 400) / 4)
    assert shared.samples == 600, "of all devices together"

    found = Estimate(4, 0, {("d", "m"): Part(4, 1e6, 80.0)}, memory=100.0, share=2)
    monkeypatch.setattr(estimates, "estimate", lambda *_: found)
    monkeypatch.setattr(ahead, "out", Console(file=io.StringIO(), width=200))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    ahead.dry_run(change_grid(read_grid(GRID, "g.yaml", "g"), {"devices": 2}), None, 1, torch.device("cpu"), None)
    said = ahead.out.file.getvalue()  # type: ignore[attr-defined]
    for words in (
        "3 min",
        "time     40 s with 2 workers on 2 devices each",
        "memory   4 x 104.9 MB",
        "are divided by 2",
    ):
        assert words in said
