"""The layout: nothing but what is named at the top level, nothing shadowed, and a wheel with all in it."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dpbench
from dpbench.source import BLOCKS

ROOT = Path(__file__).parent.parent
FOLDERS = ("methods", "datasets", "models", "leaderboards")
# the interface, what it may raise, and the building blocks, which the hash of a run covers
ALLOWED = ("dpbench.method", "dpbench.errors", *(f"dpbench.{name}" for name in BLOCKS))


def listed() -> list[str]:
    """The files of the checkout that git does not ignore."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).exists()]


def python_files(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).glob("*.py"))]


def test_top_level_is_what_the_design_names() -> None:
    found = {name.split("/")[0] for name in listed()}
    folders = {"dpbench", "methods", "datasets", "models", "leaderboards", "docs", "tests"}
    files = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert {name for name in found if not name.startswith(".")} == folders | files
    assert (ROOT / ".ci" / "run").is_file()
    assert "MIT" in (ROOT / "LICENSE").read_text()


def test_plug_in_folders_are_no_packages() -> None:
    assert [folder for folder in FOLDERS if (ROOT / folder / "__init__.py").exists()] == []


def test_no_method_or_dataset_has_the_name_of_a_module() -> None:
    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    assert {"random", "torch", "yaml"} <= taken
    assert [file.name for file in python_files("methods", "datasets") if file.stem in taken] == []


@pytest.mark.parametrize("file", python_files("methods"), ids=lambda file: file.stem)
def test_a_method_imports_the_interface_only(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module or ""]
        allowed = (*ALLOWED, "dpbench", "dpbench.selections") if file.stem == "subset" else ALLOWED
        assert [name for name in names if name.split(".")[0] == "dpbench" and name not in allowed] == []


def run_python(code: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_installed_datasets_wins_in_the_root_of_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("name = 'theirs'")
    code = "import dpbench, datasets; print(datasets.name)"
    assert run_python(code, ROOT, PYTHONPATH=str(tmp_path)) == "theirs"


def test_no_top_level_package_is_installed_beside_ours(tmp_path: Path) -> None:
    code = f"""
import importlib.util
from importlib.metadata import packages_distributions
import dpbench
of = packages_distributions()
names = [name for name in {FOLDERS} if "dpbench" in of.get(name, ["dpbench"])]  # Hugging Face has a package datasets
specs = filter(None, [importlib.util.find_spec(name) for name in names])
places = [place for spec in specs for place in [spec.origin or "", *(spec.submodule_search_locations or [])]]
print([place for place in places if place.startswith({str(ROOT)!r})])
"""
    assert run_python(code, tmp_path) == "[]"


def test_everything_of_the_interface_is_importable_from_the_top() -> None:
    for name in ("PruningMethod", "Task", "Signals", "Selection", "Proxy", "param", "load_method"):
        assert name in dpbench.__all__
    for name in dpbench.__all__:
        assert getattr(dpbench, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        dpbench.nothing  # noqa: B018


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, without its tests."""
    folder = tmp_path_factory.mktemp("copy")
    for name in listed():
        if not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(copy: Path, folder: Path, kind: str) -> Path:
    """The wheel of the copy, built without the network."""
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools >= 77 in the environment")
    run_python(f"from setuptools.build_meta import build_{kind} as build; build({str(folder)!r})", copy)
    return next(folder.glob("dpbench-*.whl"))


@pytest.fixture(scope="module")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(copy, tmp_path_factory.mktemp("wheel"), "wheel")


FINDS = """
import dpbench, importlib.util
from dpbench import catalog
assert dpbench.__path__ == [dpbench.__file__.rsplit("/", 1)[0]], dpbench.__path__
for name in ("dpbench", "tests", "docs"):
    assert importlib.util.find_spec("dpbench." + name) is None, name
for kind, names in (("methods", {"orderdp", "of_home"}), ("datasets", {"digits"}), ("models", {"mlp"})):
    assert names <= set(catalog.names(kind)), (kind, catalog.names(kind))
assert "quick" in catalog.names("grids")
assert catalog.resolve("methods", "alone.py") == "alone"
print(dpbench.__file__)
for name in ("methods.orderdp", "models.mlp", "methods.of_home", "methods.alone"):
    print(importlib.util.find_spec("dpbench." + name).origin)
"""


def found(folder: Path, path: Path, before: str = "") -> list[Path]:
    """Where dpbench, a method and a model are found; `path` is the PYTHONPATH. A home and a single file must be too."""
    for file in (folder / "home" / "methods" / "of_home.py", folder / "alone.py"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    said = run_python(before + FINDS, folder, PYTHONPATH=str(path), DPBENCH_PATH=str(folder / "home"))
    *places, home, alone = map(Path, said.splitlines())
    assert (home, alone) == (folder / "home" / "methods" / "of_home.py", folder / "alone.py")
    return places


def test_all_is_found_in_a_checkout_on_the_path(copy: Path, tmp_path: Path) -> None:
    places = [copy / "dpbench" / "__init__.py", copy / "methods" / "orderdp.py", copy / "models" / "mlp.py"]
    assert found(tmp_path, copy) == places


def test_all_is_found_by_an_editable_install(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "wheel").mkdir()
    zipfile.ZipFile(build(copy, tmp_path / "wheel", "editable")).extractall(tmp_path / "site")
    alone = """
import site, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in getattr(finder, "__name__", "")]
for name in [name for name in sys.modules if name.startswith("__editable__")]:
    del sys.modules[name]
site.addsitedir(sys.path[1])
"""
    places = [copy / "dpbench" / "__init__.py", copy / "methods" / "orderdp.py", copy / "models" / "mlp.py"]
    assert found(tmp_path, tmp_path / "site", alone) == places


def test_the_wheel_has_everything_in_its_place(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"dpbench/methods/orderdp.py", "dpbench/datasets/digits.py", "dpbench/leaderboards/quick.yaml"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"dpbench", f"dpbench-{dpbench.__version__}.dist-info"}
    inside = [str(file.relative_to(ROOT)) for file in python_files("dpbench", "methods", "datasets")]
    inside += [str(file.relative_to(ROOT)) for file in (ROOT / "dpbench" / "reports" / "page").iterdir()]
    assert {name if name.startswith("dpbench/") else f"dpbench/{name}" for name in inside} <= set(names)


def test_the_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    package = tmp_path / "site" / "dpbench"
    places = [package / "__init__.py", package / "methods" / "orderdp.py", package / "models" / "mlp.py"]
    assert found(tmp_path, tmp_path / "site") == places
    code = "from dpbench import grid_file; assert grid_file.load_grid('quick').runs()[0].hash"
    run_python(code, tmp_path, PYTHONPATH=str(tmp_path / "site"), DPBENCH_PATH="")
