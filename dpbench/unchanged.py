"""Whether `dpbench run` has anything to do, by sizes and times of files alone: without torch, the data and the methods.

What a command found done is remembered with all files that its runs' hashes were made of: dpbench's and the plug-ins'
code, the grid, its manifest and the datasets' files. Where one has changed, or is not known, the command looks itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import dpbench
from dpbench import catalog, source, store
from dpbench import grid as grids
from dpbench.errors import RunFailed
from dpbench.results import final
from dpbench.spec import Grid

VARIABLES = ("DPBENCH_PATH", "DPBENCH_DEEPCORE")  # where other code comes from
Stamp = list[int] | None


def command(**options: Any) -> str:
    """Name a command by its options and where it is given."""
    surroundings = [os.getcwd(), sys.version, dpbench.__version__, *map(os.environ.get, VARIABLES)]
    return hashlib.sha256(json.dumps([options, surroundings], sort_keys=True, default=str).encode()).hexdigest()[:16]


def find(command: str) -> tuple[str, list[str]] | None:
    """The grid and the hashes of its cells and controls, if the command was found done and nothing has changed."""
    found = store.read_json(_path(command), _parse)
    if found is None:
        return None
    grid, cells, stamps = found
    same = all(_stamp(Path(path)) == stamp for path, stamp in stamps.items())
    return (grid, cells) if same and all(final(key) for key in cells) else None


def remember(command: str, grid: Grid, name: str | None, cells: Iterable[str], data_root: Path | None) -> None:
    """Write down that the cells are done, unless one is not or a dataset does not tell its files."""
    cells = list(cells)
    data = [_data_files(text, data_root) for text in grid.datasets]
    if not all(final(key) for key in cells) or None in data or catalog.linked():
        return
    homes = [Path(part) for part in dpbench.__path__]
    loaded = [Path(file) for module in [*sys.modules.values()] if (file := getattr(module, "__file__", None))]
    ours = (file for file in loaded if "site-packages" not in file.parts[-4:] and any(h in file.parents for h in homes))
    watched = set(ours) | source.followed
    watched |= {home / folder for home in homes for folder in ("methods", "datasets")}  # where one may be added
    watched |= {path for paths in data if paths for path in paths} | {grids.manifest_path(grid.name)}
    watched.add(Path(name).resolve() if name and name.endswith((".yaml", ".yml")) else _built_in(name or "quick"))
    content = {"grid": grid.name, "cells": cells, "files": {str(path): _stamp(path) for path in sorted(watched)}}
    with suppress(RunFailed, OSError):  # the next command looks itself
        store.write_json(_path(command), content)


def _data_files(text: str, root: Path | None) -> list[Path] | None:
    """The files that a dataset of ours is read from; None for others, of which nobody knows that."""
    name, module = catalog.parse(text)[0], catalog.dataset_class(catalog.parse(text)[0]).__module__
    if module != f"dpbench.datasets.{name}" or Path(sys.modules[module].__file__ or "").parents[1] not in catalog.OURS:
        return None
    match name:
        case "synthetic":
            return []
        case "digits":
            package = Path(sys.modules["sklearn"].__file__ or "")  # its time tells of another version
            return [package, package.parent / "datasets" / "data" / "digits.csv.gz"]
        case "fashion_mnist":
            find = sys.modules[module]._find
            parts = ("images-idx3-ubyte", "labels-idx1-ubyte")
            return [find(root, f"{split}-{part}") for split in ("train", "t10k") for part in parts]
        case _:
            return None


def _built_in(grid: str) -> Path:
    return Path(str(files("dpbench.leaderboards") / f"{grid}.yaml"))


def _path(command: str) -> Path:
    return store.home() / "unchanged" / f"{command}.json"


def _parse(content: dict[str, Any]) -> tuple[str, list[str], dict[str, Stamp]]:
    cells = content["cells"]
    if not all(store.HASH.fullmatch(key) for key in cells):
        raise ValueError("not the hashes of runs")
    return str(content["grid"]), cells, dict(content["files"])


def _stamp(path: Path) -> Stamp:
    """Size and time; None for what is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]
