"""The digest of a module's code: what it does, not how it is written, with the modules beside it that it imports."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from dpbench import places
from dpbench.errors import UsageError

# what methods are built of; the PROTOCOL stands for the rest of dpbench
BLOCKS = ("draws", "scores", "kernels", "greedy", "inclusion", "deepcore")
followed: dict[Path, list[int]] = {}  # size and time of the files that digests were made of in this process
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def digest(module: ModuleType) -> str:
    """Hash the parsed code of an imported module and of all that it imports from its own folder or package.

    Comments, docstrings and layout do not count, and Python's version does not. Followed are import statements,
    wherever they stand, not what `importlib` is asked for.
    """
    return _combined((path.name, code) for path, code in _followed(module).items())


def files(module: ModuleType) -> list[Path]:
    """The files that an imported module's digest is made of."""
    return sorted(_followed(module))


def digest_of(contents: Iterable[tuple[str, bytes]]) -> str:
    """The digest of a module that consists of files of these names and contents; nothing of them is run."""
    return _combined((name, _code(content)[0]) for name, content in contents)


def _combined(parts: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()[:16]


def _followed(module: ModuleType) -> dict[Path, str]:
    """The files of a module and of what it imports from its own folder, each with the digest of its code."""
    assert module.__file__ is not None
    found: dict[Path, str] = {}
    waiting = [(module.__name__, Path(module.__file__).resolve())]
    while waiting:
        name, path = waiting.pop()
        if path in found:
            continue
        stat = path.stat()
        followed.setdefault(path, [stat.st_size, stat.st_mtime_ns])
        found[path], imports = _parsed(path, stat.st_mtime_ns, stat.st_size)
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        for level, target in imports:
            base = package[: len(package) - level + 1] if level else []
            waiting += _located([*base, *target], package, path)
    return found


def content(path: str) -> str:
    """Hash a file, or all files in a folder; UsageError where there is none."""
    found = hashlib.sha256()
    try:
        inside = sorted(file for file in Path(path).rglob("*") if file.is_file())
        for file in inside if Path(path).is_dir() else [Path(path)]:
            with file.open("rb") as stream:
                found.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return found.hexdigest()[:16]


@cache
def everything() -> str:
    """Hash all files that a board is made by: dpbench's own, plug-ins in their homes, grids and published figures.

    Files that were given as single plug-ins are not among them.
    """
    searched = [(places.HERE, f"*.{suffix}") for suffix in ("py", "html", "css", "js")]
    searched += [(Path(folder), "*.py") for folders in places.FOLDERS.values() for folder in folders]
    searched += [(places.LEADERBOARDS, pattern) for pattern in ("*.yaml", "*.csv")]
    found = hashlib.sha256()
    for folder, pattern in searched:
        for path in sorted(folder.rglob(pattern)):
            with suppress(OSError):  # a broken link
                content = path.read_bytes()
                found.update(repr((str(path.relative_to(folder)), len(content))).encode() + content)
    return found.hexdigest()


@cache
def _parsed(path: Path, mtime_ns: int, size: int) -> tuple[str, list[tuple[int, tuple[str, ...]]]]:
    return _code(path.read_bytes())


def _code(content: bytes) -> tuple[str, list[tuple[int, tuple[str, ...]]]]:
    """The digest of a file's code, and its imports: how many dots they begin with, and the parts of the name."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # compiled code, or a file that nothing imports in truth
        return hashlib.sha256(content).hexdigest(), []
    code = hashlib.sha256(repr(_plain(tree)).encode("utf-8", "surrogatepass")).hexdigest()
    return code, list(dict.fromkeys(_imports(tree)))


def _plain(node: Any) -> Any:
    """The tree as nested tuples without what is empty, so that every version of Python gives the same."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    given = [(name, value) for name, value in fields.items() if value is not None and value != []]
    return (type(node).__name__, *((name, _plain(value)) for name, value in given))


def _imports(tree: ast.AST) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Every name that may be a module's: `from a import b` imports a, and b may be a module in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            for alias in node.names:
                yield node.level, (*base, alias.name)


def _located(parts: list[str], package: list[str], importer: Path) -> Iterator[tuple[str, Path]]:
    """The files that importing `parts` reads, as far as they belong to the importer, with their modules' names."""
    if parts[:1] == ["dpbench"]:
        if parts[1:2] and parts[1] in BLOCKS:
            yield from _files(places.HERE, parts[1:], ["dpbench"])
        for folder in places.FOLDERS.get(".".join(parts[:2]), []):
            yield from _files(Path(folder), parts[2:], parts[:2])
        module = ".".join(parts[:3])
        if module in places.FILES:
            yield module, Path(places.FILES[module])
        return
    alone = _shared(importer.parent)
    yield from _files(importer.parent, parts[:1] if alone else parts, [], packages=not alone)
    if package and parts[:1] == package[:1]:
        yield from _files(importer.parents[len(package)], parts, [])  # under the folder that holds the package


@cache
def _shared(folder: Path) -> bool:
    """Whether packages are installed into the folder: those of others lie beside, and only single files are ours."""
    return any(folder.glob("*.dist-info"))


def _files(folder: Path, parts: list[str], prefix: list[str], packages: bool = True) -> Iterator[tuple[str, Path]]:
    """The files of a module and of the packages that it lies in, under `folder`."""
    for i in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:i])
        for file in [place.with_name(f"{place.name}.py"), *([place / "__init__.py"] if packages else [])]:
            if file.is_file():
                yield ".".join(prefix + parts[:i]), file.resolve()
