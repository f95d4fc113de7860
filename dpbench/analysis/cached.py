"""What is found in the files of many runs, kept for as long as they are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from dpbench import source, store
from dpbench.errors import RunFailed
from dpbench.training.results import RunResult

T = TypeVar("T")


def of_runs(
    find: Callable[[Iterable[RunResult]], T],
    results: Iterable[RunResult],
    name: str,
    path: Path,
    written: Callable[[T], Any],
    read: Callable[[Any], T],
) -> T:
    """As `find(results)`, which reads the file `name` of each run; what was found is kept as JSON in `path`."""
    results = list(results)
    state = [(r["hash"], r["status"], store.stamp(store.run_folder(r["hash"]) / name)) for r in results]
    key = hashlib.sha256(repr([source.everything(), *state]).encode()).hexdigest()
    kept = store.read_json(path, lambda content: read(content["found"]) if content["key"] == key else None)
    if kept is not None:
        return kept
    found = find(results)
    with suppress(RunFailed, OSError):  # it is made again
        store.write_json(path, {"key": key, "found": written(found)})
    return found
