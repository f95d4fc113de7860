"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of 28 x 28 of clothes, 10 classes, in IDX files."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpbench.data import Dataset, UsageError
from dpbench.images import Images

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
MOST = 2**26  # bytes of a file, unpacked; the largest has 47 million


class FashionMNIST(Dataset):
    """55,000 training, 5,000 validation and the 10,000 official test images.

    The files are looked for in --data-root (as they are, or as torchvision lays them out) and where Debian's
    package dataset-fashion-mnist puts them.
    """

    validation = 1 / 12

    def read(self, root: Path | None) -> tuple[Images, Images]:
        return _split(root, "train"), _split(root, "t10k")


def _split(root: Path | None, part: str) -> Images:
    images, labels = _idx(_find(root, f"{part}-images-idx3-ubyte")), _idx(_find(root, f"{part}-labels-idx1-ubyte"))
    return Images(images[:, None], labels.long())


def _find(root: Path | None, name: str) -> Path:
    folders = [DEBIAN] if root is None else [root, root / "FashionMNIST" / "raw"]
    for folder in folders:
        for file in (folder / f"{name}.gz", folder / name):
            if file.is_file():
                return file
    raise UsageError(
        f"fashion_mnist: no {name}.gz in {' or '.join(map(str, folders))}. Get the files by "
        "`apt install dataset-fashion-mnist`, or by torchvision.datasets.FashionMNIST(DIR, download=True) and "
        "--data-root DIR"
    )


def _idx(file: Path) -> Tensor:
    """Read an IDX file of unsigned bytes: two zero bytes, type 8, the number of axes, their sizes, the data."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            raw = stream.read(MOST + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raw = b""  # refused below
    axes = raw[3] if len(raw) > 3 and raw[:3] == b"\x00\x00\x08" else 0
    shape = np.frombuffer(raw, ">u4", axes, 4) if len(raw) >= 4 + 4 * axes else np.empty(0, ">u4")
    if axes == 0 or len(raw) != 4 + 4 * axes + int(np.prod(shape, dtype=np.int64)):
        raise UsageError(f"fashion_mnist: {file} is not an IDX file of unsigned bytes, or it is cut short")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())
