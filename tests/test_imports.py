"""The floors of the house: which package may import which, read from every import statement."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dpbench

PACKAGE = Path(dpbench.__file__).parent
# A floor imports what lies below it; reports and orderdp stand side by side.
BELOW = {"": set(), "training": {""}}
BELOW["experiments"] = BELOW["training"] | {"training"}
BELOW["analysis"] = BELOW["experiments"] | {"experiments"}
BELOW["reports"] = BELOW["orderdp"] = BELOW["analysis"] | {"analysis"}
BELOW["cli"] = BELOW["reports"] | {"reports", "orderdp"}
PLUG_INS = ("methods", "datasets", "leaderboards")  # found by name, on no floor


def floor(parts: list[str]) -> str:
    return parts[0] if parts and parts[0] in BELOW else ""


def imports(tree: ast.AST) -> Iterator[tuple[int, list[str]]]:
    """The line of each import of dpbench's own, wherever it stands, and the parts of the name below dpbench."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their floor"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, *parts = name.split(".")
            if package == "dpbench":
                yield node.lineno, parts


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_downward(file: Path) -> None:
    here = floor(list(file.relative_to(PACKAGE).parent.parts))
    found = [(line, floor(parts)) for line, parts in imports(ast.parse(file.read_text())) if parts[:1] != ["methods"]]
    if file == PACKAGE / "__init__.py":
        return  # it offers names of every floor, imported on first use
    upward = [(line, there) for line, there in found if there != here and there not in BELOW[here]]
    assert upward == [], f"{file.name} on {here or 'the root'}"


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_general_module_knows_one_method_beyond_examples(file: Path) -> None:
    if "orderdp" in file.relative_to(PACKAGE).with_suffix("").parts:
        return
    text = file.read_text()
    strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    assert "OrderDP" not in text
    assert "orderdp" not in strings


def test_every_folder_is_a_floor_and_the_test_finds_an_upward_import() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(BELOW) - {""}
    lines = "from dpbench.cli import app\nimport dpbench.reports.html\nfrom dpbench import training, errors\n"
    assert [floor(parts) for _, parts in imports(ast.parse(lines))] == ["cli", "reports", "training", ""]


def test_the_core_loads_nothing_that_only_the_tool_needs() -> None:
    code = (
        "import sys; from dpbench import PruningSampler, load_method; load_method('infobatch')\n"
        "PruningSampler('orderdp', n=100, epochs=3, batch_size=10, keep=0.5); import dpbench.training.runner\n"
        "print(sorted(set(sys.argv[1:]) & sys.modules.keys()))"
    )
    tools = ["mlflow", "optuna", "seaborn", "scikit_posthocs", "matplotlib", "pandas", "typer"]
    done = subprocess.run([sys.executable, "-c", code, *tools], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
