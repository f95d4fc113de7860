"""Files of selections: which samples each epoch of a run trained on, checked when read."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpbench import npz, store

if TYPE_CHECKING:  # torch takes seconds to import, and whoever shows a board does without
    from torch import Tensor


ARRAYS = {  # whole numbers, texts, floating point
    **dict.fromkeys(("indices", "offsets", "positions"), (1, "iu")),
    "n": (0, "iu"),
    **dict.fromkeys(("config", "hash"), (0, "U")),
    **dict.fromkeys(("weights", "scores"), (1, "f")),
}


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
        """The hash of what is trained on: the data, where they are known, samples, epoch by epoch, and weights."""
        data = [self.config["data"]] if self.config.get("data") else []
        content = hashlib.sha256(repr((self.n, [len(rows) for rows in self.epochs], *data)).encode())
        for values in [*self.epochs, *([] if self.weights is None else [self.weights.float()])]:
            content.update(values.numpy().tobytes())
        return content.hexdigest()[:16]

    def write(self, path: Path) -> None:
        """Write an .npz file: epoch e has indices[offsets[e]:offsets[e + 1]]; config is JSON, hash the digest."""
        import torch

        small = np.int32 if self.n < 2**31 else np.int64
        arrays: dict[str, Any] = {
            "indices": torch.cat(self.epochs).numpy().astype(small),
            "offsets": np.cumsum([0, *map(len, self.epochs)]),
            "n": self.n,
            "config": json.dumps(self.config, sort_keys=True),
            "hash": self.digest,
        }
        if self.positions is not None:
            arrays["positions"] = self.positions.numpy().astype(small)
        for name in ("weights", "scores"):
            values = getattr(self, name)
            if values is not None:
                arrays[name] = values.float().numpy()

        npz.write(path, arrays)

    @classmethod
    def read(cls, source: Path | bytes, most: int = store.MOST_UNPACKED) -> Selections:
        """Read what `write` wrote; ValueError for another file, or one whose hash is not that of its content.

        Nothing is unpacked of a file whose arrays take more than `most` bytes.
        """
        import torch

        try:
            arrays = npz.read(source, ARRAYS, most)
            cuts, indices = arrays["offsets"].tolist(), torch.from_numpy(arrays["indices"].astype(np.int64))
            found = cls(
                epochs=[indices[a:b] for a, b in itertools.pairwise(cuts)],
                n=int(arrays["n"]),
                config=dict(json.loads(str(arrays["config"]))),
                positions=torch.from_numpy(arrays["positions"].astype(np.int64)) if "positions" in arrays else None,
                **{name: torch.from_numpy(arrays[name].copy()) for name in ("weights", "scores") if name in arrays},
            )
            _check(found, cuts, len(indices))
        except npz.BAD as error:
            raise ValueError(f"not a file of selections: {type(error).__name__}: {error}") from None
        if str(arrays.get("hash", found.digest)) != found.digest:
            raise ValueError("its content does not have the hash that it names; it was changed or damaged")
        return found


def _check(found: Selections, cuts: list[int], total: int) -> None:
    """Refuse rows outside of range(n), epochs that overlap, and other lengths than n."""
    if not cuts or cuts[0] != 0 or cuts[-1] != total or cuts != sorted(cuts):
        raise ValueError("its epochs do not follow each other")
    if any(len(rows) and (rows.min() < 0 or rows.max() >= found.n) for rows in found.epochs):
        raise ValueError(f"it selects what is not among {found.n} samples")
    if found.positions is not None and len(found.positions) != found.n:
        raise ValueError(f"{len(found.positions)} positions for {found.n} samples")
    if found.scores is not None and len(found.scores) != found.n:
        raise ValueError(f"{len(found.scores)} scores for {found.n} samples")
    if found.weights is not None and any(len(found.weights) != len(rows) for rows in found.epochs):
        raise ValueError(f"{len(found.weights)} weights for other numbers of samples")
