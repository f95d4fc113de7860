"""What docs/extend.md shows works: its code is read from the page and used, in a plug-in home or as one entry more."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dpbench import catalog, optim, signals
from dpbench.errors import UsageError
from dpbench.experiments.grid import results
from dpbench.grid_file import load_grid
from dpbench.spec import RunSpec, source_digests
from dpbench.training import given, loading

PAGE = (Path(__file__).parent.parent / "docs" / "extend.md").read_text()
EXAMPLES = dict(re.findall(r"^## An? ([a-z]+)\n.*?```python\n(.*?)```", PAGE, re.M | re.S))
TINY = "synthetic[n=100,n_test=50,d=16,classes=4]"
MakeSpec = Callable[..., RunSpec]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def plug_in(tmp_path: Path, add_home: Callable[[Path], None]) -> Callable[[str, str], None]:
    """Give `plug_in("methods/NAME.py", example)`: write an example into a plug-in home."""

    def write(name: str, example: str) -> None:
        file = tmp_path / name
        file.parent.mkdir()
        file.write_text(EXAMPLES[example])

    add_home(tmp_path)
    return write


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[ModuleType, str, str], None]]:
    """Give `add(module, TABLE, example)`: run an example as if it stood at the end of the module."""

    def run(module: ModuleType, table: str, example: str) -> None:
        monkeypatch.setattr(module, table, dict(getattr(module, table)))
        exec(EXAMPLES[example], dict(vars(module)))

    yield run
    source_digests.cache_clear()


def learnt(result: dict[str, Any], accuracy: float = 0.5) -> None:
    assert result["status"] == "FINISHED", result["reason"]
    assert result["metrics"]["accuracy"] >= accuracy


def test_every_example_is_tested() -> None:
    tests = [name.removeprefix("test_extended_by_") for name in globals() if name.startswith("test_extended_by_")]
    assert sorted(tests) == sorted(EXAMPLES)
    assert PAGE.count("```python\n") == len(EXAMPLES) == PAGE.count("\n## ")


def test_extended_by_method(plug_in: Callable[[str, str], None], spec: MakeSpec, run: Run) -> None:
    plug_in("methods/rotating.py", "method")
    result = run(spec("rotating", keep=0.5))
    learnt(result)
    assert result["metrics"]["prune_ratio"] == 0.5
    assert result["metrics"]["jaccard_epochs"] == 0.0, "the other half in the next epoch"


def test_extended_by_dataset(plug_in: Callable[[str, str], None], spec: MakeSpec, run: Run) -> None:
    plug_in("datasets/halves.py", "dataset")
    learnt(run(spec(dataset="halves[size=60]", model="cnn[width=4]")), 1.0)


def test_extended_by_source(plug_in: Callable[[str, str], None], spec: MakeSpec, run: Run, tmp_path: Path) -> None:
    plug_in("datasets/wine.py", "source")
    with pytest.raises(UsageError, match=r"wine: say --model; for samples of the kind 'measurements': none is known"):
        catalog.fitting(["cnn", "mlp"], ["wine"])
    linear = tmp_path / "linear.py"
    linear.write_text(EXAMPLES["model"])
    assert catalog.fitting([str(linear)], ["wine"]) == [str(linear)]
    assert catalog.models_for("wine") == ["linear"]
    learnt(run(spec("orderdp", dataset="wine", model=catalog.resolve("models", str(linear)), epochs=20)), 0.8)


def test_extended_by_model(plug_in: Callable[[str, str], None], spec: MakeSpec, run: Run) -> None:
    plug_in("models/linear.py", "model")
    assert catalog.fits("digits", "linear")
    assert catalog.fits("table[path=wine]", "linear")
    assert [tuple(p.shape) for p in catalog.load_model("linear", (1, 4, 4), 3).parameters()] == [(3, 16), (3,)]
    learnt(run(spec(model="linear")))


def test_extended_by_signal(add: Callable[..., None], plugin: Callable[[str], str], spec: MakeSpec, run: Run) -> None:
    add(signals, "SIGNALS", "signal")
    method = plugin(
        """
        class Sure(PruningMethod):
            def requires(self):
                return Requires({"confidence", "direction"})
            def select(self, epoch):
                return Selection(torch.arange(self.task.n))
            def observe(self, signals):
                assert (signals["confidence"] >= 1 / 4).all() and (signals["confidence"] <= 1).all()
                assert signals["direction"].shape == (len(signals), 8)
                assert torch.allclose(signals["direction"].norm(dim=1), torch.ones(len(signals)))
        """
    )
    learnt(run(spec(method, keep=1.0)))
    assert given.signal("direction", torch.zeros(3, 8), 3).shape == (3, 8), "wide for a sampler, too"


SHOWN = """
from rich.console import Console
from synthetic_board import usual

from dpbench.analysis.table import records
from dpbench.reports import comparison, formats, html, screen, send, summary, tracking

board = usual()
row = records(board.table)[0]
assert row["method"] == "orderdp" and abs(row["accuracy_first"] - 0.89) < 1e-9, row
assert "accuracy_first" in formats.text(board, "csv").splitlines()[0].split(",")


def printed(shown):
    console = Console(width=100, record=True, file=open("printed", "w"))
    console.print(shown)
    return console.export_text()


chosen = printed(screen.screen(board, 100, screen.Wanted(columns=("first",), sort="-first"))).splitlines()
assert chosen[6:9] == ["                first", "                epoch", "method     keep     %"], chosen
shown = [float(line.split()[-1]) for line in chosen[10:21]]
assert shown == sorted(shown) and (shown[0], shown[-1]) == (85.0, 92.0), "from the worst to the best"
assert "first" in printed(screen.screen(board, 100, screen.Wanted(wide=True)))
assert "first epoch %" in printed(comparison.screen(board, "orderdp", "el2n"))
page = html._data(board)
assert "accuracy_first" in page["columns"]
assert page["measures"]["accuracy_first"]["help"] == "test accuracy after the first epoch"
assert page["measures"]["accuracy_first"]["label"] == "First epoch %"
assert send._numbers(row)["accuracy_first"] == 0.89
assert "metrics.`accuracy_first`" in tracking.COLUMNS
assert "**accuracy_first**: test accuracy after the first epoch." in send.describe(board, "link")
assert "| `accuracy_first` | `first` | % | test accuracy after the first epoch |" in summary.BLOCKS["measures"]("all")
"""


def test_extended_by_measure(tmp_path: Path) -> None:
    path = [str(Path(__file__).parent), *sys.path]
    code = f"import sys\nsys.path[:] = {path!r}\nfrom dpbench.training import measures\n"
    code += f"exec({EXAMPLES['measure']!r}, vars(measures))\n{SHOWN}"
    made = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_extended_by_optimizer(add: Callable[..., None], spec: MakeSpec, run: Run, trained: Callable[..., Any]) -> None:
    add(optim, "OPTIMIZERS", "optimizer")
    chosen = spec(optimizer="rmsprop", lr=0.01)
    learnt(run(chosen))
    assert isinstance(trained(chosen).learner.optimizer, torch.optim.RMSprop)


def test_extended_by_executor(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(
        f'datasets: ["{TINY}"]\nmodels: ["mlp[width=8,depth=1]"]\nmethods: [uniform, "el2n[at_epoch=1]"]\n'
        "keep: [0.5]\nseeds: 1\nrecipe: {epochs: 2, batch_size: 16, lr: 0.1}\n"
    )
    exec(EXAMPLES["executor"], {})
    cells = {spec.hash: spec for spec in load_grid("tiny.yaml").runs(loading.fingerprints([TINY], None))}
    assert [result["status"] for result in results(cells).values()] == ["FINISHED", "FINISHED"]
