"""CIFAR's python batches (Krizhevsky 2009), read without running what a pickle may carry."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import CIFAR10

from dpbench.errors import UsageError, one_line
from dpbench.images import Images

# All that a batch is made of: arrays and their types.
HARMLESS = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
HARMLESS |= {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
CLASSES = {b"labels": 10, b"fine_labels": 100}


class _Batch(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return super().find_class(module, name)


def read(root: Path | None, theirs: type[CIFAR10], labels: bytes, checked: bool) -> tuple[Images, Images]:
    """The training and the test images that torchvision's dataset `theirs` lays out in `root`, else in the folder data.

    `labels` is the key of the classes. Without `checked` the checksums are not looked at. UsageError for a file that is
    not what it should be.
    """
    folder = (root or Path("data")) / theirs.base_folder
    train, test = (_read(folder, files, labels, checked) for files in (theirs.train_list, theirs.test_list))
    return train, test


def _read(folder: Path, files: list[Any], labels: bytes, checked: bool) -> Images:
    """The images of `files`, each a name and its MD5."""
    pixels, classes = [], []
    for name, digest in files:
        file = folder / name
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UsageError(
                f"{file}: {error.strerror}; get the files by torchvision.datasets and --data-root"
            ) from None
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if checked and md5 != digest:
            raise UsageError(f"{file}: its checksum is {md5}, not {digest}: it is damaged, or another file")
        try:
            batch = _Batch(io.BytesIO(content), encoding="bytes").load()
            pixels.append(np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32))
            found = [int(label) for label in batch[labels]]
        except Exception as error:  # a damaged pickle raises what it likes
            raise UsageError(f"{file}: not a python batch of CIFAR: {one_line(error, 200)}") from None
        outside = next((row for row, label in enumerate(found) if not 0 <= label < CLASSES[labels]), None)
        if outside is not None:
            raise UsageError(f"{file}: row {outside} has the label {found[outside]}, outside 0..{CLASSES[labels] - 1}")
        classes += found
    return Images(torch.from_numpy(np.concatenate(pixels)), torch.tensor(classes))
