"""Names and parameters, files, plug-in homes and installed packages; errors that say what is meant."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dpbench
from dpbench import PruningMethod, Task, catalog
from dpbench.aliases import ALIASES
from dpbench.errors import UsageError
from dpbench.experiments.executors import run_all
from dpbench.spec import canonical

Plugin = Callable[[str], str]
ONE = """
class One(PruningMethod):
    share: float = param(0.5, low=0.1, high=1.0)
    def select(self, epoch):
        return Selection(torch.arange(max(1, int(self.share * self.task.n))))
"""
TWO = ONE + "class Two(One):\n    pass\n"

# names with parameters

words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.text("ab,[]='\"\\ :#\n", max_size=12)
)
tricky = st.sampled_from(["1", "1e-5", "true", "~", "inf", "a,b", "a]b[", "x[y='a]b']", "a[b=1],c=2", "it's", "'a,b'"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts, tricky)


@settings(deadline=None, max_examples=100)
@given(words, st.dictionaries(words, scalars, max_size=4))
def test_parse_reads_what_label_writes(name: str, params: dict[str, Any]) -> None:
    found, read = catalog.parse(catalog.label(name, params))
    assert found == name
    assert read == params
    assert [type(value) for value in read.values()] == [type(value) for value in params.values()]


def test_parse() -> None:
    assert catalog.parse("orderdp") == ("orderdp", {})
    assert catalog.parse(" a/b.py:C[ x = 1 ,y=1e-3, z=2.5e-1,s=low,n=null,b=true,e=] ") == (
        "a/b.py:C",
        {"x": 1, "y": 0.001, "z": 0.25, "s": "low", "n": None, "b": True, "e": None},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "cannot read ''"), ("a[", "cannot read 'a['"), ("a[b]", "write key=value"), ("a[b=1]]", "cannot read"),
     ("a[=1]", "write key=value"), ("a[b=1,b=2]", "gives 'b' twice"), ("a[b={]", "cannot read the value '{'"),
     ("a[b={c: 1}]", "cannot read the value '{c: 1}'"), ("a[b=&c 1]", "cannot read the value '&c 1'"),
     ("a[b=!!int x]", "cannot read the value"), (f"a[b={'9' * 200}]", "cannot read the value"),
     ("a[b=0x_]", "cannot read the value"), ("a[b=1\n]", "a character that cannot be printed"),
     ("\0", "a character that cannot be printed"), ("\udcff", "a character that cannot be printed"),
     ("a" * 1001, "more than 1000 characters")],
)  # fmt: skip
def test_what_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        catalog.parse(text)


def test_a_value_may_have_parameters_of_its_own() -> None:
    read = catalog.parse("a[b=c[d=1,e=f[g=2]],h=3]")
    assert read == ("a", {"b": "c[d=1,e=f[g=2]]", "h": 3})
    assert catalog.parse(catalog.label(*read)) == read


@pytest.mark.parametrize(
    "text",
    ["a[b=x y]", "a[b=c=d]", "a[b=c[d=1,e=2]]", "a[b=it's]", "a[b='1e5']", "a[b='']", 'a[b="\\xFC"]', "a[b='007']"],
)
def test_what_can_be_read_without_more_quotes_is_written_as_before(text: str) -> None:
    """Runs are named by the hash of such texts."""
    assert catalog.label(*catalog.parse(text)) == text


@pytest.mark.parametrize("rest", ["d/a,b", "a=b", "it's", "it's, a = b"])
def test_what_follows_a_colon_may_have_commas(rest: str) -> None:
    written = catalog.resolve("datasets", f"folder:{rest}[side=8]")
    assert catalog.parse(written) == ("folder", {"path": rest, "side": 8})
    assert catalog.resolve("datasets", written) == written


# other names


def test_an_alias_is_the_method_that_it_means() -> None:
    assert canonical("rs2") == canonical("soft_random") == canonical("uniform_epoch[replace=true]") == "uniform_epoch"
    assert canonical("rs2_without_replacement") == "uniform_epoch[replace=false]"
    assert canonical("rs2[replace=false]") == canonical("rs2_without_replacement")
    assert canonical("rs2_without_replacement[replace=true]") == "uniform_epoch"
    for alias, meant in ALIASES.items():
        assert canonical(alias) == meant, "written as the method itself is"
        assert alias not in catalog.names("methods")
    with pytest.raises(UsageError, match="unknown method 'rs3'; did you mean rs2"):
        catalog.load_method("rs3")


def test_a_method_of_ones_own_goes_before_an_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "ALIASES", {"full": "uniform"})
    assert canonical("full") == "full"


def test_a_date_is_a_word() -> None:
    assert catalog.parse("a[b=2020-13-45,c=2020-12-24]")[1] == {"b": "2020-13-45", "c": "2020-12-24"}


def test_load_method_gives_an_object_ready_for_setup() -> None:
    method = dpbench.load_method("orderdp[explore=0.8]")
    assert isinstance(method, PruningMethod)
    assert method.hyperparameters()["explore"] == 0.8
    method.setup(Task(10, 1, 5, 0.5), __import__("torch").Generator())
    assert len(method.select(0).indices) == 5


def test_the_eight_methods_the_datasets_models_and_grids_are_there() -> None:
    eight = {"full", "full_short", "uniform", "uniform_epoch", "orderdp", "infobatch", "el2n", "selective_backprop"}
    assert eight <= set(catalog.names("methods"))
    assert {"digits", "fashion_mnist", "synthetic"} <= set(catalog.names("datasets"))
    assert {"mlp", "cnn", "resnet18"} <= set(catalog.names("models"))
    assert {"quick", "fashion_mnist"} <= set(catalog.names("grids"))


def test_listing_imports_nothing_that_it_lists() -> None:
    code = (
        "import sys; from dpbench import catalog as c; assert 'orderdp' in c.names('methods') and c.names('grids'); "
        "assert 'digits' in c.names('datasets'); "
        "found = [m for m in sys.modules if m.startswith(('torch', 'dpbench.m'))]; "
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# parameters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ordrdp", "unknown method 'ordrdp'; did you mean orderdp"),
        ("qqqqqq", "unknown method 'qqqqqq'; known: "),
        ("orderdp[exlore=1]", "unknown parameter of orderdp 'exlore'; did you mean explore"),
        ("full[a=1]", "unknown parameter of full 'a'; known: none"),
        ("orderdp[explore=0.01]", "orderdp: explore = 0.01 is outside [0.05, 1.0]"),
        ("orderdp[explore=.nan]", "explore = nan is outside"),
        ("orderdp[explore=high]", "explore = 'high' is not a number"),
        ("orderdp[explore=true]", "explore = True is not a number"),
        ("orderdp[explore=null]", "explore = None is not a number"),
        ("orderdp[score=los]", "score = 'los' is not one of loss, error_norm"),
        ("el2n[runs=1.5]", "runs = 1.5 is not a whole number"),
        ("el2n[runs=0]", "runs = 0 is outside [1, 20]"),
        ("uniform_epoch[replace=1]", "replace = 1 is not true or false"),
        ("orderdp:Nothing", "unknown PruningMethod in orderdp.py 'Nothing'; known: OrderDP"),
    ],
)
def test_wrong_methods(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        catalog.load_method(text)


@pytest.mark.parametrize(
    ("load", "text", "message"),
    [
        (catalog.load_dataset, "digit", "unknown dataset 'digit'; did you mean digits?"),
        (catalog.load_dataset, "synthetic[n=1]", "n = 1 is outside [2, inf]"),
        (catalog.check_model, "resnet", "unknown model 'resnet'; did you mean resnet50 or resnet34 or resnet18?"),
        (catalog.check_model, "mlp[wide=3]", "unknown parameter of the model mlp 'wide'; did you mean width?"),
    ],
)
def test_wrong_datasets_and_models(load: Any, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        load(text)


def test_a_whole_number_is_good_where_a_fraction_is_asked_for() -> None:
    method = catalog.load_method("orderdp[explore=1,unseen=3]")
    found = method.hyperparameters()
    assert (repr(found["explore"]), repr(found["unseen"])) == ("1.0", "3.0")


# a file


def test_a_file_is_a_method(plugin: Plugin) -> None:
    path = plugin(ONE)
    method = catalog.load_method(f"{path}[share=0.25]")
    assert method.hyperparameters() == {"share": 0.25}
    assert Path(path).stem in catalog.names("methods")
    assert canonical(f"{path}[share=0.5]") == Path(path).stem
    assert canonical(path) == Path(path).stem, "given a second time"


def test_a_file_with_two_classes_needs_the_class(plugin: Plugin) -> None:
    path = plugin(TWO)
    stem = Path(path).stem
    with pytest.raises(UsageError, match=rf"{stem}.py has 2 subclasses .*\(One, Two\); say which: {stem}.py:One"):
        catalog.load_method(path)
    assert type(catalog.load_method(f"{path}:Two[share=1]")).__name__ == "Two"
    assert canonical(f"{path}:Two[share=1]") == f"{stem}:Two[share=1.0]"
    with pytest.raises(UsageError, match=r"unknown PruningMethod .* 'Tow'; did you mean Two\?"):
        catalog.load_method(f"{path}:Tow")


def test_a_class_with_an_underscore_is_a_part_and_needs_no_naming(plugin: Plugin) -> None:
    path = plugin(TWO.replace("One", "_One"))
    assert type(catalog.load_method(path)).__name__ == "Two"
    with pytest.raises(UsageError, match="has 0 subclasses of PruningMethod; it needs one"):
        catalog.load_method(plugin(ONE.replace("One", "_One")))


def test_wrong_files(plugin: Plugin, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file .*/nowhere\.py"):
        catalog.load_method("nowhere.py")
    with pytest.raises(UsageError, match="has 0 subclasses of PruningMethod; it needs one"):
        catalog.load_method(plugin("x = 1"))
    for source, error in (
        ("class (", "SyntaxError"),
        ("import nothing_of_the_kind", "ModuleNotFoundError"),
        ("1 / 0", "Zero"),
    ):
        with pytest.raises(UsageError, match=rf"plugin_\d: importing it raised {error}"):
            catalog.load_method(plugin(source))
    taken, odd = tmp_path / "orderdp.py", tmp_path / "my-method.py"
    for path in (taken, odd):
        path.write_text(ONE)
    with pytest.raises(UsageError, match="a method named 'orderdp' exists already; rename the file"):
        catalog.load_method(str(taken))
    with pytest.raises(UsageError, match=r"my-method\.py: rename it"):
        catalog.load_method(str(odd))


def test_the_path_of_a_built_in_is_that_built_in() -> None:
    path = sys.modules[type(catalog.load_method("orderdp")).__module__].__file__
    assert catalog.resolve("methods", f"{path}[explore=0.9]") == "orderdp[explore=0.9]"


def test_a_changed_file_is_another_configuration(plugin: Plugin) -> None:
    path = plugin(ONE)
    name = canonical(path)
    before = catalog.source_digest("methods", name)
    assert catalog.source_digest("methods", name) == before
    Path(path).write_text(Path(path).read_text() + "# changed\n")
    assert catalog.source_digest("methods", name) == before
    Path(path).write_text(Path(path).read_text().replace("0.5", "0.25"))
    assert catalog.source_digest("methods", name) != before


def in_worker(method: PruningMethod) -> tuple[str, dict[str, Any], int]:
    """Use a method that was pickled, in a spawned process, where its class had to be found again."""
    import torch

    method.setup(Task(20, 1, 5, 0.5), torch.Generator())
    return type(method).__module__, method.hyperparameters(), len(method.select(0).indices)


def test_a_files_class_pickles_into_spawned_workers(plugin: Plugin) -> None:
    path = plugin(TWO)
    jobs = [catalog.load_method(f"{path}:Two[share=0.25]"), catalog.load_method("orderdp")]
    found = [outcome for _, outcome in run_all(in_worker, jobs, 1)]
    assert found[0] == (f"dpbench.methods.{Path(path).stem}", {"share": 0.25}, 5)
    assert found[1][::2] == ("dpbench.methods.orderdp", 10)


# a folder in DPBENCH_PATH

HOME_USER = """
import torch
from dpbench import catalog
from dpbench.experiments.executors import run_all
from test_catalog import in_worker

if __name__ == "__main__":
    assert {"at_home", "orderdp"} <= set(catalog.names("methods"))
    assert {"data_at_home", "digits"} <= set(catalog.names("datasets"))
    assert len(catalog.load_dataset("data_at_home").load().train) == 9
    method = catalog.load_method("at_home[share=0.3]")
    assert catalog.method_class("at_home").__module__ == "dpbench.methods.at_home"
    [(_, found)] = run_all(in_worker, [method], 1)
    assert found == ("dpbench.methods.at_home", {"share": 0.3}, 6), found
"""


def test_a_folder_in_dpbench_path_is_a_home(tmp_path: Path) -> None:
    for folder in ("methods", "datasets"):
        (tmp_path / "plugs" / folder).mkdir(parents=True)
    (tmp_path / "plugs/methods/at_home.py").write_text(
        "import torch\nfrom dpbench import PruningMethod, Selection, param\n" + ONE
    )
    (tmp_path / "plugs/datasets/data_at_home.py").write_text(
        "import torch\nfrom dpbench.data import Dataset\nfrom dpbench.images import Images\n"
        "class AtHome(Dataset):\n    def read(self, root):\n"
        "        split = Images(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10) % 2)\n"
        "        return split, split\n"
    )
    (tmp_path / "user.py").write_text(HOME_USER)
    path = os.pathsep.join(["", str(tmp_path / "plugs")])
    places = os.pathsep.join([str(Path(__file__).parent), str(Path(dpbench.__file__).parent.parent)])
    environment = os.environ | {"DPBENCH_PATH": path, "PYTHONPATH": places}
    done = subprocess.run([sys.executable, "user.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# an installed package


def test_entry_points_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plug_in_of_a_stranger.py").write_text(
        "import torch\nfrom dpbench import PruningMethod, Selection, param\nfrom dpbench.data import Dataset\n"
        + TWO
        + "class Points(Dataset):\n    def read(self, root):\n        return None, None\n"
        + "def net(shape, classes, size=3):\n    return torch.nn.Linear(size, classes)\n"
    )
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    module = "plug_in_of_a_stranger"
    (info / "entry_points.txt").write_text(
        f"[dpbench.methods]\nstranger = {module}:Two\nstrangers = {module}\ngone = {module}:Gone\n"
        f"[dpbench.datasets]\npoints = {module}:Points\n[dpbench.models]\nnet = {module}:net\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(catalog, "_installed", catalog._installed.__wrapped__)
    assert {"stranger", "strangers", "orderdp"} <= set(catalog.names("methods"))
    assert catalog.load_method("stranger[share=0.2]").hyperparameters() == {"share": 0.2}
    assert type(catalog.load_method("strangers:One")).__name__ == "One"
    assert len(catalog.source_digest("methods", "stranger")) == 16
    assert type(catalog.load_dataset("points")).__name__ == "Points"
    assert catalog.load_model("net[size=5]", (1, 2, 2), 4).weight.shape == (4, 5)
    with pytest.raises(UsageError, match="unknown method 'strangr'; did you mean stranger"):
        catalog.load_method("strangr")
    with pytest.raises(UsageError, match="gone: importing it raised AttributeError"):
        catalog.load_method("gone")
