"""No run, proxy record, subset or study of other data, or of other code, answers for what is asked now."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from dpbench import catalog, store
from dpbench.analysis import board as boards
from dpbench.errors import RunFailed, UsageError
from dpbench.experiments import grid as grids
from dpbench.experiments import subsets
from dpbench.experiments.plan import Plan
from dpbench.grid_file import read_grid
from dpbench.spec import RunSpec, identity_hash, source_digests
from dpbench.training import loading, proxy, runner

Spec = Callable[..., RunSpec]
CPU = torch.device("cpu")
DATASET = """
import numpy as np
import torch
from dpbench.data import Dataset
from dpbench.images import Images
from .ident_reading import read

class Ident(Dataset):
    def read(self, root):
        images, labels = read(root)
        return Images(images[:60], labels[:60]), Images(images[60:], labels[60:])
"""
READING = """
import numpy as np
import torch

def read(root):
    file = np.load(root / "data.npz")
    return torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
"""
GRID = """
datasets: [ident_data]
models: ["mlp[width=8,depth=1]"]
methods: [full, "el2n[at_epoch=1]"]
keep: [0.5]
seeds: 1
recipe: {epochs: 4, batch_size: 8, lr: 0.1}
"""


@pytest.fixture
def plugged(tmp_path: Path, add_home: Callable[[Path], None], unplug: None) -> Iterator[Path]:
    """A plug-in home with a dataset in it, which reads what lies in --data-root."""
    folder = tmp_path / "plugs"
    (folder / "datasets").mkdir(parents=True)
    (folder / "datasets" / "ident_data.py").write_text(DATASET)
    (folder / "datasets" / "ident_reading.py").write_text(READING)
    add_home(folder)
    forget()
    yield folder
    forget()


def forget() -> None:
    """Be as a new process that has imported no plug-in yet."""
    source_digests.cache_clear()
    loading.load_data.cache_clear()
    for name in [name for name in sys.modules if "ident_" in name and "test" not in name]:
        del sys.modules[name]


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of data of one size, where the pixels tell the class; in B every fourth label is wrong."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        labels = np.arange(100) % 2
        images = rng.integers(0, 100, (100, 1, 4, 4), dtype=np.uint8)
        images += (labels * 150).astype(np.uint8)[:, None, None, None]
        if name == "b":
            labels[rng.permutation(100)[:25]] ^= 1
        np.savez(tmp_path / name / "data.npz", images=images, labels=labels)
    return tmp_path / "a", tmp_path / "b"


def spec_of(root: Path, method: str = "el2n[at_epoch=1]") -> RunSpec:
    grid = read_grid(GRID, "g.yaml", "g").model_copy(update={"methods": [method]})
    return grid.runs(loading.fingerprints(grid.datasets, root))[0]


def test_another_data_root_trains_anew_and_shows_its_own(
    home: Path, plugged: Path, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grids, "run_all", lambda do, jobs, *_, **__: ((job, do(job)) for job in jobs))
    shown = []
    for root in (*roots, roots[0]):
        grids.run_grid(read_grid(GRID, "g.yaml", "g"), Console(file=io.StringIO()), 1, device=CPU, data_root=root)
        board = boards.load("g")
        assert {spec.data for spec in board.cells.values()} == {loading.load_data("ident_data", root).fingerprint}
        assert len(board.table) == 2
        assert "FAILED" not in {result["status"] for result in board.results.values()}
        shown.append(board.table.set_index("method")["accuracy_mean"])
    assert shown[0]["full"] > 0.9
    assert shown[1]["full"] < 0.9
    assert shown[2].equals(shown[0])
    assert len(list((home / "runs").iterdir())) == len(list((home / "proxy").iterdir())) * 2 == 4


def test_a_run_is_carried_out_on_the_data_that_it_names_only(home: Path, plugged: Path, roots: Any) -> None:
    a, b = roots
    spec = spec_of(a)
    result = runner.run(spec, CPU, b)
    here = loading.load_data("ident_data", b).fingerprint
    assert result["status"] == "FAILED"
    assert result["reason"].startswith(f"ident_data: this run was made for data {spec.data}, and what is loaded here")
    assert here in result["reason"]
    with pytest.raises(RunFailed, match="this proxy was made for data"):
        loading.data_of(proxy.requests(spec)[0], b)
    unknown = runner.run(spec.model_copy(update={"data": ""}), CPU, b)
    assert unknown["reason"].startswith("ident_data: this run names no data")
    assert runner.run(spec, CPU, a)["status"] != "FAILED"


def test_the_result_holds_the_identity_that_its_hash_comes_from(run: Any, spec: Spec) -> None:
    result = run(spec("el2n[at_epoch=1]"))
    read_again = store.read_json(store.run_folder(result["hash"]) / "result.json")
    assert identity_hash(read_again["identity"]) == read_again["hash"]
    assert read_again["identity"]["spec"] == read_again["spec"] == json.loads(json.dumps(result["spec"]))


def test_another_number_of_samples_gets_its_own_proxy(home: Path, spec: Spec) -> None:
    """With the dataset's name unchanged, n = 90 and then n = 60 found the record of 90."""
    one = spec("el2n[at_epoch=1]")
    other = one.model_copy(update={"data": "0123456789abcdef"})
    assert proxy.requests(one)[0].hash != proxy.requests(other)[0].hash


def test_el2n_never_observes_signals_of_another_n(home: Path, plugged: Path, roots: Any) -> None:
    a, b = roots
    content = dict(np.load(b / "data.npz"))
    np.savez(b / "data.npz", **{name: values[:80] for name, values in content.items()})
    for root in (a, b):
        assert runner.run(spec_of(root), CPU, root)["status"] != "FAILED"
    text = (plugged / "datasets" / "ident_data.py").read_text()
    (plugged / "datasets" / "ident_data.py").write_text(text.replace("60", "40"))
    forget()
    assert runner.run(spec_of(b), CPU, b)["status"] != "FAILED"
    assert len(list((home / "proxy").iterdir())) == 3


def test_subsets_are_of_their_data(home: Path, plugged: Path, roots: Any, tmp_path: Path) -> None:
    a, b = roots
    made = {}
    for root in roots:
        made[root] = subsets.choose(spec_of(root), CPU, root)
        made[root].write(tmp_path / f"{root.name}.npz")
    assert made[a].digest != made[b].digest
    assert made[a].config["hash"] != made[b].config["hash"]
    data_a, data_b = (loading.load_data("ident_data", root) for root in roots)
    name, _ = subsets.take_in(tmp_path / "a.npz", "ident_data", data_a)
    message = rf"a\.npz: made for other data of ident_data \({data_a.fingerprint}\) than .* \({data_b.fingerprint}\)$"
    with pytest.raises(UsageError, match=message):
        subsets.take_in(tmp_path / "a.npz", "ident_data", data_b)
    assert runner.run(spec_of(a, name), CPU, a)["status"] != "FAILED"
    refused = runner.run(spec_of(b, name), CPU, b)
    assert "is a subset of other data" in refused["reason"]


def test_one_list_taken_in_for_two_data_makes_two_subsets(
    home: Path, plugged: Path, roots: Any, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("1\n2\n3\n")
    taken = [subsets.take_in(tmp_path / "list.txt", "ident_data", loading.load_data("ident_data", r))[0] for r in roots]
    assert taken[0] != taken[1]


def test_a_subset_file_that_was_swapped_is_refused(home: Path, plugged: Path, roots: Any, tmp_path: Path) -> None:
    taken = []
    for text in ("1\n2\n", "3\n4\n"):
        (tmp_path / "list.txt").write_text(text)
        taken.append(subsets.take_in(tmp_path / "list.txt", "ident_data", loading.load_data("ident_data", roots[0]))[0])
    one, two = (store.home() / "subsets" / f"{catalog.parse(name)[1]['id']}.npz" for name in taken)
    one.write_bytes(two.read_bytes())
    assert "is not the file that was taken in" in runner.run(spec_of(roots[0], taken[0]), CPU, roots[0])["reason"]


def test_studies_are_of_their_data(home: Path, plugged: Path, roots: Any) -> None:
    def plan(root: Path) -> Plan:
        grid = read_grid(GRID, "g.yaml", "g")
        return Plan("orderdp", "ident_data", "mlp", keep=0.3, trials=1, seeds=1, grid=grid, data_root=root)

    a, b = roots
    assert plan(a).name == plan(a).name != plan(b).name
    assert plan(b).spec({}, 0.3, 0).data == loading.load_data("ident_data", b).fingerprint


# code


def test_code_that_is_changed_while_a_grid_runs_fails_its_cells(
    home: Path, plugged: Path, roots: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that starts later imports the new code; its run has another hash than the one that is waited for."""

    def in_new_process(do: Any, jobs: Any, *_: Any, **__: Any) -> Iterator[Any]:
        path = plugged / "datasets" / "ident_reading.py"
        path.write_text(f"{path.read_text()}\nMORE = 1\n")
        for job in jobs:
            with monkeypatch.context() as patch:
                patch.setattr("dpbench.spec.source_digests", source_digests.__wrapped__)
                outcome = do(job)
            yield job, outcome

    monkeypatch.setattr(grids, "run_all", in_new_process)
    console = Console(file=io.StringIO())
    cells = grids.run_grid(read_grid(GRID, "g.yaml", "g"), console, 1, device=CPU, data_root=roots[0])
    results = grids.results(cells)
    assert {result["reason"] for result in results.values()} == {
        "its code was changed while the grid ran; run it again"
    }
    assert len(results) == len(cells) == 2


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("ident_data.py", ":60", ":50", False),
        ("ident_reading.py", "data.npz", "more.npz", False),
        ("ident_reading.py", "def read", "# now and then\ndef read", True),
        ("ident_data.py", "    def read", "    '''Of this and that.'''\n    def read", True),
    ],
)
def test_a_dataset_and_its_helper_are_in_the_hash(
    home: Path, plugged: Path, roots: Any, file: str, old: str, new: str, same: bool
) -> None:
    spec = spec_of(roots[0])
    before = spec.hash, proxy.requests(spec)[0].hash
    path = plugged / "datasets" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert (spec.hash, proxy.requests(spec)[0].hash) == before, "this process runs the code that it has imported"
    forget()
    after = spec.hash, proxy.requests(spec)[0].hash
    assert [x == y for x, y in zip(before, after, strict=True)] == [same, same]


def test_a_helper_beside_a_plug_in_method_is_in_the_hash(
    spec: Spec, plugin: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    helper = tmp_path / "ident_helper.py"
    helper.write_text("SHARE = 0.5\n")
    wanted = spec(
        plugin(
            """
            from ident_helper import SHARE

            class Own(PruningMethod):
                def select(self, epoch):
                    return Selection(torch.arange(int(SHARE * self.task.n)))
            """
        )
    )
    before = wanted.hash
    for text, same in (("SHARE = 0.5  # half\n", True), ("SHARE = 0.4\n", False)):
        helper.write_text(text)
        forget()
        assert (wanted.hash == before) == same


def test_an_edited_model_of_an_installed_package_is_in_the_hash(
    run: Any, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("ident_net", "ident_nets:net", "dpbench.models")
    installed = catalog._installed
    monkeypatch.setattr(catalog, "_installed", lambda g: {"ident_net": entry} if g == "models" else installed(g))
    text = """
import torch

def build(shape, classes, dropout):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(dropout), torch.nn.Linear(16, classes))

def net(shape, classes):
    '''One layer.'''
    return build(shape, classes, 0.1)
"""
    (tmp_path / "ident_nets.py").write_text(text)
    wanted = spec("el2n[at_epoch=1]", model="ident_net")
    before = wanted.hash, proxy.requests(wanted)[0].hash
    first = run(wanted)
    (tmp_path / "ident_nets.py").write_text(text.replace("One layer.", "One linear layer."))
    forget()
    assert (wanted.hash, proxy.requests(wanted)[0].hash) == before
    (tmp_path / "ident_nets.py").write_text(text.replace("0.1", "0.9999"))
    forget()
    assert wanted.hash != before[0]
    assert proxy.requests(wanted)[0].hash != before[1]
    second = run(wanted)
    assert second["metrics"]["accuracy"] < first["metrics"]["accuracy"]


def test_the_checkout_of_deepcore_is_in_the_hash(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPBENCH_DEEPCORE", str(Path(__file__).parent / "data" / "deepcore_standin"))
    assert {"deepcore.methods", "deepcore.nets"} <= spec("deepcore:kCenterGreedy").identity["sources"].keys()
