"""The folder of results, which is the truth: everything under $DPBENCH_HOME, written by atomic rename."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Selections:
    """Which of `n` training samples each epoch trains on, as (k,) int64 rows of range(n); one epoch if chosen for good.

    `positions` (n,) int64 tell where each of the n samples stands among the training samples that the dataset itself
    has, before validation samples are held out. `weights` and `scores` (n,) are those of a selection made for good:
    the former in the order of its indices, None where all are one, the latter None where the method has none.
    """

    epochs: list[Tensor]
    n: int
    config: dict[str, Any]
    positions: Tensor | None = None
    weights: Tensor | None = None
    scores: Tensor | None = None

    @property
    def digest(self) -> str:
        """The hash of what is trained on: samples, epoch by epoch, and weights."""
        content = hashlib.sha256(repr((self.n, [len(rows) for rows in self.epochs])).encode())
        for values in [*self.epochs, *([] if self.weights is None else [self.weights.float()])]:
            content.update(values.numpy().tobytes())
        return content.hexdigest()[:16]


def write_selections(path: Path, selections: Selections) -> None:
    """Write an .npz file: epoch e has indices[offsets[e]:offsets[e + 1]]; config is JSON, hash the digest."""
    small = np.int32 if selections.n < 2**31 else np.int64
    arrays: dict[str, Any] = {
        "indices": torch.cat(selections.epochs).numpy().astype(small),
        "offsets": np.cumsum([0, *map(len, selections.epochs)]),
        "n": selections.n,
        "config": json.dumps(selections.config, sort_keys=True),
        "hash": selections.digest,
    }
    if selections.positions is not None:
        arrays["positions"] = selections.positions.numpy().astype(small)
    for name in ("weights", "scores"):
        values = getattr(selections, name)
        if values is not None:
            arrays[name] = values.float().numpy()

    def save(file: Path) -> None:
        with file.open("wb") as stream:  # a path would get .npz appended
            np.savez_compressed(stream, **arrays)

    write(path, save)


def read_selections(path: Path) -> Selections:
    """Read what `write_selections` wrote; ValueError for another file, or one whose hash is not that of its content."""
    try:
        with np.load(path) as file:
            arrays = dict(file)
        cuts, indices = arrays["offsets"].tolist(), torch.from_numpy(arrays["indices"].astype(np.int64))
        found = Selections(
            epochs=[indices[a:b] for a, b in itertools.pairwise(cuts)],
            n=int(arrays["n"]),
            config=json.loads(str(arrays["config"])),
            positions=torch.from_numpy(arrays["positions"].astype(np.int64)) if "positions" in arrays else None,
            **{name: torch.from_numpy(arrays[name]) for name in ("weights", "scores") if name in arrays},
        )
    except (KeyError, AttributeError, TypeError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is not a file of selections: {type(error).__name__}: {error}") from None
    if str(arrays.get("hash", found.digest)) != found.digest:
        raise ValueError(f"{path}: its content does not have the hash that it names; it was changed or damaged")
    return found
