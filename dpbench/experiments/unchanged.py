"""Whether `dpbench run` has anything to do, by sizes and times of files alone: without torch, the data and the methods.

What a command found done is remembered under a hash of its options and of all code and grids, with the state of the
other files that its runs' hashes were made of: what plug-ins import, the datasets' files, the grid's manifest. Where
one has changed, or is not known, the command looks itself. States are taken before the files are read, never after.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpbench import catalog, claims, places, plain_yaml, source, store
from dpbench.errors import RunFailed, UsageError
from dpbench.experiments import grid as grids
from dpbench.training.results import final

VARIABLES = ("DPBENCH_PATH", "DPBENCH_DEEPCORE")  # where other code comes from
READERS = ("torch", "numpy", "scikit-learn")  # on whose versions what datasets make and hold may depend
Stamps = dict[str, list[int] | None]


def command(grid: str | None, **options: Any) -> str:
    """Name a command by its options, its grid's content and claims, where a file is given, and all code."""
    content = None
    if grid and grid.endswith((".yaml", ".yml")):
        with suppress(UsageError):  # told where it is read
            content = [plain_yaml.read(Path(grid)), claims.of_file(grid)]
    surroundings = [os.getcwd(), sys.version, *map(version, READERS), *map(os.environ.get, VARIABLES)]
    named = [grid, content, options, surroundings, source.everything()]
    return hashlib.sha256(json.dumps(named, sort_keys=True, default=str).encode()).hexdigest()[:16]


def find(command: str) -> tuple[str, list[str]] | None:
    """The grid and the hashes of its cells and controls, if the command was found done and nothing has changed."""
    found = store.read_json(_path(command), _parse)
    if found is None:
        return None
    grid, cells, stamps = found
    same = all(store.stamp(Path(path)) == stamp for path, stamp in stamps.items())
    return (grid, cells) if same and all(final(key) for key in cells) else None


def remember(command: str, grid: str, cells: Iterable[str], data: Stamps | None) -> None:
    """Write down that the grid's cells are done, unless one is not, or its `data` or code may change unseen."""
    cells = list(cells)
    manifest = grids.find_manifest(grid)
    if data is None or manifest is None or places.FILES or not all(final(key) for key in cells):
        return
    watched = [grids.manifest_path(grid)]  # other commands write it, and finish runs that want controls
    watched += [store.run_folder(key) / "done" for key in manifest.cells.keys() - set(cells)]
    stamps = data | {str(path): stamp for path, stamp in source.followed.items()} | _stamps(watched)
    with suppress(RunFailed, OSError):  # the next command looks itself
        store.write_json(_path(command), {"grid": grid, "cells": cells, "files": stamps})


def data(datasets: Iterable[str], root: Path | None) -> Stamps | None:
    """The files that datasets are about to be read from; None where nobody knows them: only ours tell."""
    found: Stamps = {}
    for text in datasets:
        name = catalog.parse(text)[0]
        module = catalog.dataset_class(name).__module__
        file = Path(sys.modules[module].__file__ or "")
        if module != f"dpbench.datasets.{name}" or file.parents[1] not in places.OURS:
            return None
        if name == "fashion_mnist":
            parts = [f"{split}-{part}-ubyte" for split in ("train", "t10k") for part in ("images-idx3", "labels-idx1")]
            paths = [sys.modules[module]._find(root, part) for part in parts]
            folders = {path.parent for path in paths}  # where a file may come to stand that is found before
            found |= _stamps([*paths, *folders, *([root, root / "FashionMNIST" / "raw"] if root else [])])
        elif name not in ("digits", "synthetic"):  # these come with a package, or are made
            return None
    return found


def _stamps(paths: Iterable[Path]) -> Stamps:
    return {str(path): store.stamp(path) for path in paths}


def _path(command: str) -> Path:
    return store.home() / "unchanged" / f"{command}.json"


def _parse(content: dict[str, Any]) -> tuple[str, list[str], Stamps]:
    cells = content["cells"]
    if not all(store.HASH.fullmatch(key) for key in cells):
        raise ValueError("not the hashes of runs")
    return str(content["grid"]), cells, dict(content["files"])
