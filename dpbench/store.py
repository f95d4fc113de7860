"""The folder of results, which is the truth: everything under $DPBENCH_HOME, written by atomic rename."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def home() -> Path:
    """$DPBENCH_HOME, or .dpbench in the current folder."""
    return Path(os.environ.get("DPBENCH_HOME") or ".dpbench").resolve()


def run_folder(run_hash: str) -> Path:
    """Where a run's files are."""
    return home() / "runs" / run_hash


def is_done(run_hash: str) -> bool:
    """Whether the run was carried to its end; the mark is written last."""
    return (run_folder(run_hash) / "done").is_file()


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Let `save` write a file beside `path`, then rename it: the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON; NaN becomes null, so that every reader can read it."""
    text = json.dumps(_finite(content), indent=1, allow_nan=False)
    write(path, lambda file: file.write_text(text))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def read_json(path: Path) -> Any:
    """Read a JSON file, None where there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


def write_selections(path: Path, selections: list[Tensor], n: int, config: dict[str, Any]) -> None:
    """Write which samples each epoch sent backward: epoch e has indices[offsets[e]:offsets[e + 1]] of range(n)."""
    offsets = np.cumsum([0, *map(len, selections)])
    indices = torch.cat(selections).numpy().astype(np.int32 if n < 2**31 else np.int64)

    def save(file: Path) -> None:
        with file.open("wb") as stream:  # a path would get .npz appended
            np.savez_compressed(
                stream, indices=indices, offsets=offsets, n=n, config=json.dumps(config, sort_keys=True)
            )

    write(path, save)


def read_selections(path: Path) -> tuple[list[Tensor], int]:
    """Read the selections of each epoch, (k,) int64 sorted, and the number of samples n they are chosen from."""
    with np.load(path) as file:
        offsets, n = file["offsets"], int(file["n"])
        indices = torch.from_numpy(file["indices"].astype(np.int64))
    return [indices[a:b] for a, b in itertools.pairwise(offsets)], n
