"""The digest of a module: another for other code, here or in what it imports from its own folder, and only then."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dpbench import source

ROOT = Path(__file__).parent.parent

MODULE = """
import math
from {helper} import factor
import torch


def net(x, size=3):
    return factor * x + size
"""
Digest = Callable[[str], str]


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Digest]:
    """Give `digest(name)`: that of a module in tmp_path, imported anew."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def of(name: str) -> str:
        for made in set(sys.modules) - before:
            del sys.modules[made]
        importlib.invalidate_caches()
        return source.digest(importlib.import_module(name))

    yield of
    for made in set(sys.modules) - before:
        del sys.modules[made]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("x + size", "x  +  size  # a comment", True),
        ("import math", "'''Of the module.'''\nimport math", True),
        ("size=3):", "size=3):\n    '''Say it.\n\n    Twice.'''", True),
        ("factor * x", "(factor * x)", True),
        ("size=3", "size=4", False),
        ("size=3", "size=3.0", False),
        ("x + size", "x - size", False),
        ("factor * x", "factor * None", False),
        ("def net", "@staticmethod\ndef net", False),
    ],
)
def test_only_code_counts(tmp_path: Path, digest: Digest, old: str, new: str, same: bool) -> None:
    text = MODULE.format(helper="ident_helper")
    write(tmp_path / "ident_helper.py", "factor = 2\n")
    write(tmp_path / "ident_net.py", text)
    before = digest("ident_net")
    assert old in text
    write(tmp_path / "ident_net.py", text.replace(old, new))
    assert (digest("ident_net") == before) == same


@pytest.mark.parametrize(
    ("module", "helper", "file"),
    [
        ("ident_net", "ident_helper", "ident_helper.py"),
        ("ident_pack.nets.net", "ident_pack.deep.helper", "ident_pack/deep/helper.py"),
        ("ident_pack.nets.net", "..deep.helper", "ident_pack/deep/helper.py"),
        ("ident_pack.nets.net", ".helper", "ident_pack/nets/helper.py"),
        ("ident_pack.nets.net", "ident_pack", "ident_pack/__init__.py"),
        ("ident_pack", ".helper", "ident_pack/helper.py"),
    ],
)
@pytest.mark.parametrize("installed", [False, True])
def test_what_it_imports_from_its_own_folder_or_package_counts(
    tmp_path: Path, digest: Digest, module: str, helper: str, file: str, installed: bool
) -> None:
    if installed:
        (tmp_path / "ident-1.0.dist-info").mkdir()
    for package in ("ident_pack", "ident_pack/nets", "ident_pack/deep"):
        write(tmp_path / package / "__init__.py", "")
    text = MODULE.format(helper=helper)
    write(tmp_path / (f"{module.replace('.', '/')}.py" if module != "ident_pack" else "ident_pack/__init__.py"), text)
    write(tmp_path / file, "from ident_deeper import factor\n")
    (tmp_path / file).parent.joinpath("ident_deeper.py").write_text("factor = 2\n")
    write(tmp_path / "ident_deeper.py", "factor = 2\n")
    before = digest(module)
    write(tmp_path / file, "from ident_deeper import factor  # again\n")
    assert digest(module) == before
    (tmp_path / file).parent.joinpath("ident_deeper.py").write_text("factor = 3\n")
    assert digest(module) != before, "what its helper imports"
    (tmp_path / file).parent.joinpath("ident_deeper.py").write_text("factor = 2\n")
    assert digest(module) == before
    write(tmp_path / file, "from ident_deeper import factor\nfactor += 1\n")
    assert digest(module) != before


def test_packages_of_others_do_not_count(tmp_path: Path, digest: Digest) -> None:
    (tmp_path / "ident-1.0.dist-info").mkdir()
    write(tmp_path / "ident_other/__init__.py", "factor = 2\n")
    write(tmp_path / "ident_net.py", MODULE.format(helper="ident_other"))
    before = digest("ident_net")
    write(tmp_path / "ident_other/__init__.py", "factor = 3\n")
    assert digest("ident_net") == before


def test_an_import_inside_a_function_counts_and_a_circle_ends(tmp_path: Path, digest: Digest) -> None:
    write(tmp_path / "ident_net.py", "def net():\n    import ident_helper\n")
    write(tmp_path / "ident_helper.py", "import ident_net\n")
    before = digest("ident_net")
    write(tmp_path / "ident_helper.py", "import ident_net\nx = 1\n")
    assert digest("ident_net") != before


def test_a_helper_that_cannot_be_parsed_counts_byte_by_byte(tmp_path: Path, digest: Digest) -> None:
    write(tmp_path / "ident_net.py", "try:\n    import ident_helper\nexcept SyntaxError:\n    pass\n")
    write(tmp_path / "ident_helper.py", "print 'x'\n")
    before = digest("ident_net")
    write(tmp_path / "ident_helper.py", "print 'y'\n")
    assert digest("ident_net") != before


def test_the_blocks_of_methods_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(name: str) -> set[str]:
        found: set[str] = set()
        parsed = source._parsed
        with monkeypatch.context() as patch:
            patch.setattr(source, "_parsed", lambda path, *rest: (found.add(path.name), parsed(path, *rest))[1])
            source.digest(importlib.import_module(f"dpbench.methods.{name}"))
        return found

    assert seen("full") == {"full.py"}
    assert seen("el2n") == {"el2n.py", "scores.py", "draws.py"}
    assert "greedy.py" in seen("craig")
    assert seen("orderdp") == {"orderdp.py", "draws.py", "inclusion.py"}


@pytest.mark.parametrize("file", sorted((ROOT / "methods").glob("*.py")), ids=lambda file: file.stem)
def test_all_that_methods_compute_with_is_in_their_digest(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Followed are the blocks that a method imports, and those that these import."""
    monkeypatch.setattr(source, "followed", {})
    source.digest(importlib.import_module(f"dpbench.methods.{file.stem}"))
    found = {path.stem for path in source.followed if path.parent == ROOT / "dpbench"}
    needed, waiting = set(), [file]
    while waiting:
        names = re.findall(r"^from dpbench\.(\w+) import", waiting.pop().read_text(), re.MULTILINE)
        new = set(names) - needed - {"method", "errors", "signals", "selections"}
        needed |= new
        waiting += [ROOT / "dpbench" / f"{name}.py" for name in new]
    assert found == needed


def test_a_change_of_a_draw_is_another_digest(tmp_path: Path, digest: Digest, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine.py", "from dpbench.draws import sample\nchosen = sample\n")
    before = digest("mine")
    changed = tmp_path / "changed"
    write(changed / "draws.py", (ROOT / "dpbench" / "draws.py").read_text().replace("def others", "def the_others"))
    monkeypatch.setattr("dpbench.places.HERE", changed)
    assert digest("mine") != before
    write(changed / "draws.py", "# a comment\n" + (ROOT / "dpbench" / "draws.py").read_text())
    assert digest("mine") == before
