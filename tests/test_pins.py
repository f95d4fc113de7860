"""Numbers that no change of structure may change: every method in a run and in a sampler, a study, a board.

`python tests/test_pins.py` writes them to data/pins.json; a commit that does so says why. Floating-point sums differ in
their last bits between versions of torch and kinds of processors, so that other ones compare no more than the names.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from dpbench import PruningSampler, catalog, load_method
from dpbench.analysis import board as boards
from dpbench.experiments import grid as grids
from dpbench.experiments.plan import Plan
from dpbench.experiments.trials import counted
from dpbench.experiments.tuning import tune
from dpbench.grid_file import read_grid
from dpbench.spec import Recipe, RunSpec, canonical
from dpbench.training import loading, runner
from dpbench.training.results import read_selections

FILE = Path(__file__).parent / "data" / "pins.json"
DATASET, MODEL = "synthetic[n=100,n_test=50,d=16,classes=4]", "mlp[width=8,depth=1]"
RECIPE = Recipe(epochs=6, batch_size=16, lr=0.1)
METHODS = [name for name in catalog.names("methods") if name not in ("subset", "deepcore")]  # which need files
MORE = ["orderdp[explore=0.6]", "infobatch[match=cost]", "score[by=el2n,rule=easiest]", "uniform[balanced=true]"]
GRID = f"""
datasets: ["{DATASET}"]
models: ["{MODEL}"]
methods: [full, uniform, uniform_epoch, orderdp, infobatch, selective_backprop]
keep: [0.3, 0.5]
seeds: 2
recipe: {{epochs: 4, batch_size: 16, lr: 0.1}}
probe: {{every: 1, samples: 64}}
"""
TIMED = ("time", "overhead", "peak", "speed", "started", "ended", "seconds")  # in the names of what a clock measures


def machine() -> list[str]:
    """What the last bits of a number depend on."""
    return [torch.__version__, torch.backends.cpu.get_cpu_capability()]


def digest(*parts: Tensor | None) -> str:
    """A short name for tensors that are equal to the last bit."""
    found = hashlib.sha256()
    for part in parts:
        found.update(b"none" if part is None else repr((part.dtype, part.tolist())).encode())
    return found.hexdigest()[:16]


def untimed(values: dict[str, Any]) -> dict[str, Any]:
    """Without what a clock measured, and without NaN, which equals nothing."""
    kept = {k: v for k, v in values.items() if not any(word in k for word in TIMED)}
    return {k: v for k, v in kept.items() if not (isinstance(v, float) and math.isnan(v))}


def of_run(method: str) -> dict[str, Any]:
    """The numbers of a short run."""
    data = loading.load_data(DATASET, None).fingerprint
    spec = RunSpec(dataset=DATASET, model=MODEL, method=canonical(method), keep=0.3, seed=0, recipe=RECIPE, data=data)
    result = runner.run(spec, torch.device("cpu"))
    assert result["status"] != "FAILED", result["reason"]
    chosen = read_selections(result) if "metrics" in result else None
    return {
        "status": result["status"],
        "metrics": untimed(result.get("metrics", {})),
        "epochs": [untimed(record) for record in result["epochs"]],
        "selections": chosen and digest(*chosen.epochs, chosen.weights, chosen.scores),
    }


def of_sampler(method: str) -> str:
    """What a training of one's own gets from the sampler, in which the signals are made up."""
    n, epochs, classes = 61, 5, 4
    rng = torch.Generator().manual_seed(1)
    labels = torch.arange(n) % classes
    logits = torch.randn(epochs, n, classes, generator=rng) + 2 * F.one_hot(labels, classes)
    embedding = torch.randn(epochs, n, 3, generator=rng)
    sampler = PruningSampler(method, n=n, epochs=epochs, batch_size=8, keep=0.4, labels=labels)
    seen: list[Tensor | None] = []
    for epoch in range(epochs):
        for step, _ in enumerate(sampler):
            rows = sampler.batch(step)
            losses = F.cross_entropy(logits[epoch, rows], labels[rows], reduction="none")
            signals = {"logits": logits[epoch, rows], "embedding": embedding[epoch, rows]}
            seen += [rows, sampler.reduce(losses, rows, **signals)]
        if sampler.refresh is not None:
            losses = F.cross_entropy(logits[epoch, sampler.refresh], labels[sampler.refresh], reduction="none")
            sampler.observe(sampler.refresh, losses, logits=logits[epoch, sampler.refresh])
        seen += [sampler.refresh, torch.tensor(sampler.lr_scale)]
    return digest(*seen)


def of_study() -> list[dict[str, Any]]:
    """The trials of a small study."""
    grid = read_grid(GRID, "pins", "pinned")
    plan = Plan("orderdp", DATASET, MODEL, keep=0.3, trials=3, seeds=1, grid=grid)
    *_, (_, study) = tune([plan], jobs=1)
    return [{"params": trial.params, "value": trial.value} for trial in counted(study)]


def of_board() -> list[dict[str, Any]]:
    """The rows of a small grid's board."""
    grids.run_grid(read_grid(GRID, "pins", "pinned"), Console(quiet=True), jobs=1)
    rows = boards.load("pinned").table.to_dict("records")
    return [untimed(row) for row in rows]


def of(name: str) -> Any:
    """The numbers of one pin, as JSON has them."""
    kind, *method = name.split(" ")
    make: Callable[..., Any] = {"run": of_run, "sampler": of_sampler, "study": of_study, "board": of_board}[kind]
    return json.loads(json.dumps(make(*method)))


def in_a_loop(method: str) -> bool:
    """Whether a sampler can drive it on signals that a loop has, without a proxy."""
    made = load_method(method).requires()
    return made.proxy is None and made.budget == "epochs" and method not in ("full_short", "metriq")


NAMES = [f"run {name}" for name in METHODS + MORE]
NAMES += [f"sampler {name}" for name in METHODS if in_a_loop(name)]
NAMES += ["study", "board"]


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_as_before(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = json.loads(FILE.read_text())
    assert pinned["numbers"].keys() == set(NAMES)
    if pinned["machine"] != machine():
        pytest.skip(f"the numbers are of {pinned['machine']}")
    monkeypatch.setenv("DPBENCH_HOME", str(tmp_path))
    found, before = of(name), pinned["numbers"][name]
    if name == "board":  # columns may come beside those that are pinned
        found = [{column: row[column] for column in old} for row, old in zip(found, before, strict=True)]
    assert found == before


if __name__ == "__main__":
    import tempfile

    torch.set_num_threads(1)
    numbers = {}
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["DPBENCH_HOME"] = folder
            try:
                numbers[name] = of(name)
            except Exception as error:
                sys.exit(f"{name}: {type(error).__name__}: {error}")
    FILE.write_text(json.dumps({"machine": machine(), "numbers": numbers}, indent=0) + "\n")
