"""What a trained model said of each test sample: its class, how sure it was, and its loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpbench import npz, store

ARRAYS = {"labels": (1, "iu"), "classes": (1, "iu"), "confidences": (1, "f"), "losses": (1, "f")}
BINS = 15  # of the calibration error, as in Guo et al. (ICML 2017)


@dataclass(frozen=True)
class Predictions:
    """Of n test samples the label, the class that was predicted, its probability, and the cross-entropy.

    `labels` and `classes` (n,) are integers, `confidences` and `losses` (n,) float16: some 6 bytes a sample. The
    probability of the label is exp(-losses).
    """

    labels: NDArray[Any]
    classes: NDArray[Any]
    confidences: NDArray[np.float16]
    losses: NDArray[np.float16]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each sample (n,) was predicted right."""
        return np.asarray(self.classes == self.labels)

    def calibration_error(self) -> float:
        """The mean gap between confidence and accuracy over 15 bins of confidence, weighted by their samples."""
        sure = self.confidences.astype(float)
        bins = np.minimum((sure * BINS).astype(int), BINS - 1)
        gaps = np.bincount(bins, sure - self.correct, BINS)
        return float(np.abs(gaps).sum() / len(sure))

    def write(self, path: Path) -> None:
        """Write an .npz file."""
        most = int(max(self.labels.max(initial=0), self.classes.max(initial=0)))
        small = np.min_scalar_type(most)
        whole = {"labels": self.labels.astype(small), "classes": self.classes.astype(small)}
        npz.write(path, whole | {"confidences": self.confidences, "losses": self.losses})

    @classmethod
    def read(cls, source: Path | bytes, most: int = store.MOST_UNPACKED) -> Predictions:
        """Read what `write` wrote; ValueError for another file. At most `most` bytes are unpacked."""
        try:
            found = cls(**npz.read(source, ARRAYS, most))
            if len({len(values) for values in vars(found).values()}) > 1:
                raise ValueError("its arrays are of different lengths")
            sure = found.confidences.astype(float)
            if not ((sure >= 0) & (sure <= 1) & ~(found.losses < 0)).all():
                raise ValueError("a confidence outside of 0 to 1, or a loss that is negative")
        except npz.BAD as error:
            raise ValueError(f"not a file of predictions: {type(error).__name__}: {error}") from None
        return found
