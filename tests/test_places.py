"""Plug-ins are found in homes and single files, as modules like any other; nothing else is found through dpbench."""

import importlib
import importlib.util
import inspect
import os
import pickle
import pkgutil
import pydoc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dpbench
from dpbench import catalog, places
from dpbench.errors import UsageError
from dpbench.experiments.executors import run_all
from dpbench.grid_file import load_grid

Plugin = Callable[[str], str]
METHOD = """
class One(PruningMethod):
    '''Keep the first.'''
    def select(self, epoch):
        return Selection(torch.arange(self.task.k))

def names(job):
    return __name__, type(job).__module__
"""
DATA = """
import torch
from dpbench.data import Dataset, param
from dpbench.images import Images

class Points(Dataset):
    size: int = param(10, low=4)
    path: str = param("")
    def read(self, root):
        split = Images(torch.zeros(self.size, 1, 2, 2, dtype=torch.uint8), torch.arange(self.size) % 2)
        return split, split
"""
MODEL = """
from torch import nn

KINDS = ("images",)
NOTHING = None

def {name}(shape, classes, width=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.Linear(width, classes))

def wide(shape, classes, width=20):
    return {name}(shape, classes, width)
"""


@pytest.fixture
def files(tmp_path: Path, unplug: None) -> dict[str, Path]:
    """A dataset's and a model's file."""
    folder = tmp_path / "own"
    folder.mkdir()
    texts = {"datasets": ("places_data", DATA), "models": ("places_net", MODEL.format(name="places_net"))}
    for name, text in texts.values():
        (folder / f"{name}.py").write_text(text)
    return {kind: folder / f"{name}.py" for kind, (name, _) in texts.items()}


def test_nothing_beside_the_package_is_found_through_it() -> None:
    assert dpbench.__path__ == [str(Path(dpbench.__file__).parent)]
    for name in ("dpbench", "tests", "docs", "leaderboards"):
        assert importlib.util.find_spec(f"dpbench.{name}") is None


def test_a_single_file_leaves_the_environment_and_the_search_path_alone(plugin: Plugin) -> None:
    before = dict(os.environ), list(sys.path), list(dpbench.__path__), {k: list(v) for k, v in places.FOLDERS.items()}
    path = plugin(METHOD)
    module = sys.modules[type(dpbench.load_method(path)).__module__]
    assert module.__file__ == path
    assert before == (dict(os.environ), sys.path, dpbench.__path__, places.FOLDERS)


def test_a_plug_in_is_a_module_as_any_other(plugin: Plugin) -> None:
    import dpbench.methods as package

    method = dpbench.load_method(plugin(METHOD))
    module = sys.modules[type(method).__module__]
    assert "orderdp" in {found.name for found in pkgutil.iter_modules(package.__path__)}
    assert inspect.getsource(module).endswith(METHOD)
    assert inspect.getsource(type(method)).startswith("class One(PruningMethod):")
    assert "Keep the first." in pydoc.render_doc(module.__name__, renderer=pydoc.plaintext)
    assert type(pickle.loads(pickle.dumps(method))) is type(method)
    assert importlib.reload(module) is module


def test_workers_know_single_files_before_they_read_what_is_made_of_them(plugin: Plugin) -> None:
    method = dpbench.load_method(plugin(METHOD))
    module = sys.modules[type(method).__module__]
    found = [outcome for _, outcome in run_all(module.names, [method, catalog.load_method("full")], workers=2)]
    assert sorted(found) == sorted([(module.__name__, module.__name__), (module.__name__, "dpbench.methods.full")])


def test_what_lies_in_two_homes_is_found_in_the_first_and_what_it_imports_in_any(
    tmp_path: Path, add_home: Callable[[Path], None], unplug: None
) -> None:
    for home, text in (("a", "from dpbench.methods.places_share import SHARE\n"), ("b", "SHARE = 1.0\n")):
        (tmp_path / home / "methods").mkdir(parents=True)
        (tmp_path / home / "methods" / "places_one.py").write_text(
            f"{text}import torch\nfrom dpbench import PruningMethod, Selection, param\n"
            "class One(PruningMethod):\n    share: float = param(SHARE)\n"
            "    def select(self, epoch):\n        return Selection(torch.arange(self.task.k))\n"
        )
        add_home(tmp_path / home)
    share = tmp_path / "b" / "methods" / "places_share.py"
    share.write_text("SHARE = 0.25\n")
    assert catalog.load_method("places_one").hyperparameters() == {"share": 0.25}
    before = catalog.source_digest("methods", "places_one")
    share.write_text("SHARE = 0.125\n")
    assert catalog.source_digest("methods", "places_one") != before
    for name in ("places_one", "places_share"):
        del sys.modules[f"dpbench.methods.{name}"]


def test_a_dataset_and_a_model_are_single_files(files: dict[str, Path]) -> None:
    assert catalog.resolve("datasets", f"{files['datasets']}[size=8]") == "places_data[size=8]"
    with pytest.raises(UsageError, match="size is given twice"):
        catalog.resolve("datasets", f"{files['datasets']}:a/b.py[size=8]")
    assert len(catalog.load_dataset(f"{files['datasets']}[size=20]").load().train) == 18
    model = f"{files['models']}:wide[width=3]"
    assert catalog.resolve("models", model) == "places_net:wide[width=3]"
    for text in (model, "places_net:wide[width=3]"):
        assert [p.shape[0] for p in catalog.load_model(text, (1, 2, 2), 5).parameters()] == [3, 3, 5, 5]
    assert [kind for kind in catalog.FIRST if catalog.takes(str(files["models"]), kind)] == ["images"]
    assert "places_net" in catalog.models_for(str(files["datasets"]))
    assert catalog.elsewhere("models", "places_net:wide[width=3]") == model
    assert catalog.elsewhere("models", "mlp[width=3]") == "mlp[width=3]"
    before = catalog.source_digest("models", "places_net:wide")
    files["models"].write_text(files["models"].read_text().replace("width=20", "width=21"))
    assert catalog.source_digest("models", "places_net:wide") != before


def test_what_an_earlier_command_ran_is_named_without_its_file() -> None:
    assert catalog.resolve("models", "gone_net:wide[width=3]") == "gone_net:wide[width=3]"
    with pytest.raises(UsageError, match="unknown model 'gone_net'"):
        catalog.check_model("gone_net:wide[width=3]")


def test_a_path_that_a_dataset_reads_is_no_single_file() -> None:
    assert catalog.resolve("datasets", "folder:pictures.py") == "folder[path=pictures.py]"
    assert catalog.resolve("datasets", "table:/a/b.py[label=y]") == "table[path=/a/b.py,label=y]"
    assert catalog.resolve("datasets", "folder[path=a.py]") == "folder[path=a.py]"
    assert catalog.resolve("methods", "deepcore:Craig") == "deepcore:Craig"


def test_a_grid_names_single_files_from_the_folder_where_it_is_run(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "datasets: [own/places_data.py]\nmodels: ['own/places_net.py:wide[width=3]']\nmethods: [full]\n"
    (tmp_path / "g.yaml").write_text(f"{text}keep: [0.5]\nseeds: 1\nrecipe: {{epochs: 1, batch_size: 4, lr: 0.1}}\n")
    [spec] = load_grid("g.yaml").runs()
    assert (spec.dataset, spec.model) == ("places_data", "places_net:wide[width=3]")
    (tmp_path / "g.yaml").write_text((tmp_path / "g.yaml").read_text().replace("own/places_net", "gone"))
    with pytest.raises(UsageError, match=r"g\.yaml:2: models: no file .*/gone\.py"):
        load_grid("g.yaml")


@pytest.mark.parametrize("kind", places.KINDS)
def test_wrong_single_files(kind: str, tmp_path: Path, unplug: None) -> None:
    taken = {"methods": "orderdp", "datasets": "digits", "models": "mlp"}[kind]
    one = kind.removesuffix("s")
    for folder, name in (("a", taken), ("a", "places_twice"), ("b", "places_twice"), ("a", "my-own")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text("x = 1\n")
    assert catalog.resolve(kind, f"{tmp_path}/a/places_twice.py") == "places_twice"
    for file, message in (
        (f"a/{taken}", f"{taken}.py: a {one} named '{taken}' exists already; rename the file"),
        ("b/places_twice", f"places_twice.py: a {one} named 'places_twice' exists already"),
        ("a/my-own", f"my-own.py: rename it so that its name is a Python identifier, it names the {one}"),
        ("a/gone", f"no file {tmp_path}/a/gone.py"),
    ):
        with pytest.raises(UsageError) as found:
            catalog.resolve(kind, f"{tmp_path}/{file}.py")
        assert str(found.value).startswith(message)


@pytest.mark.parametrize(
    ("load", "text", "message"),
    [
        (catalog.check_model, "{models}:gone", "places_net.py has no function gone(shape, classes, ...)"),
        (catalog.check_model, "{models}:NOTHING", "places_net.py has no function NOTHING"),
        (catalog.check_model, "{models}:KINDS", "places_net:KINDS: it names ('images',); a function of (shape,"),
        (catalog.check_model, "{models}[size=3]", "unknown parameter of the model places_net 'size'; known: width"),
        (catalog.check_model, "{datasets}", "places_data.py has no function places_data(shape, classes, ...); name"),
        (catalog.load_dataset, "{datasets}[size=1]", "places_data: size = 1 is outside [4, inf]"),
        (catalog.load_dataset, "{models}", "places_net.py has 0 subclasses of Dataset; it needs one"),
    ],
)
def test_wrong_contents_of_single_files(load: Any, text: str, message: str, files: dict[str, Path]) -> None:
    with pytest.raises(UsageError) as found:
        load(text.format(**files))
    assert str(found.value).startswith(message)
