"""A pack: the images of a folder of classes in one file, read at random by one `pread` a sample."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dpbench import store
from dpbench.errors import RunFailed, UsageError
from dpbench.image_files import FolderFiles, opened

# A file is the head, the images one after the other, and the index: where each image begins and the last ends
# (n + 1 of 8 bytes), labels and CRC-32 of the images (n of 4 bytes each), and as JSON the names of classes and images.
HEAD = struct.Struct("<8sIIQQQ")  # MAGIC, VERSION, the CRC-32 of the index, n, where the index begins, its length
MAGIC = b"dpbpack\0"
VERSION = 1
QUALITY = 95  # of the JPEGs that are made of images that are shrunk


@dataclass(frozen=True, eq=False)
class Pack:
    """Images in the pack at `path`: the image i has `sizes[i]` bytes from `starts[i]` on, with the CRC-32 `sums[i]`.

    `rows` (n,) are their rows in the file. `stamp` tells a file from another one that takes its name.
    """

    path: Path
    names: list[str]
    starts: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    sums: NDArray[np.uint32]
    rows: NDArray[np.int64]
    stamp: tuple[int, int]

    def __len__(self) -> int:
        return len(self.names)

    def at(self, rows: Tensor) -> Pack:
        """The images at `rows`."""
        chosen = rows.numpy()
        return replace(
            self,
            names=[self.names[row] for row in chosen],
            starts=self.starts[chosen],
            sizes=self.sizes[chosen],
            sums=self.sums[chosen],
            rows=self.rows[chosen],
        )

    def name(self, row: int) -> str:
        """How messages call the image of a row."""
        return f"{self.path}: row {self.rows[row]} ({self.names[row]})"

    def read(self, row: int) -> bytes:
        """The bytes of an image; RunFailed if they are not those that were packed."""
        size, start = int(self.sizes[row]), int(self.starts[row])
        try:
            content = os.pread(_descriptor(self.path, self.stamp, os.getpid()), size, start)
        except OSError as error:
            raise RunFailed(f"{self.name(row)}: {error.strerror}") from None
        if len(content) != size or zlib.crc32(content) != self.sums[row]:
            raise RunFailed(f"{self.name(row)}: not the bytes that were packed; the file is damaged")
        return content

    def identity(self) -> bytes:
        """What a fingerprint is made of: sizes and checksums of the images."""
        return self.sizes.tobytes() + self.sums.tobytes()


@lru_cache
def _descriptor(path: Path, stamp: tuple[int, int], process: int) -> int:
    """The open file; a process that was forked opens its own."""
    return os.open(path, os.O_RDONLY)


def write(file: Path, files: FolderFiles, labels: Tensor, classes: list[str], side: int | None = None) -> None:
    """Write the images `files` with their labels; with `side`, larger ones are shrunk to that short side, as JPEGs."""

    def save(path: Path) -> None:
        with path.open("wb") as stream:
            _write(stream, files, labels, classes, side)

    store.write(file, save)


def _write(stream: BinaryIO, files: FolderFiles, labels: Tensor, classes: list[str], side: int | None) -> None:
    n = len(files)
    starts, sums = np.empty(n + 1, "<u8"), np.empty(n, "<u4")
    stream.write(bytes(HEAD.size))
    starts[0] = HEAD.size
    for row in range(n):
        content = files.read(row) if side is None else _shrunk(files, row, side)
        stream.write(content)
        starts[row + 1], sums[row] = starts[row] + len(content), zlib.crc32(content)
    names = json.dumps({"classes": classes, "names": files.names}).encode()
    index = starts.tobytes() + labels.numpy().astype("<u4").tobytes() + sums.tobytes() + names
    stream.write(index)
    stream.seek(0)
    stream.write(HEAD.pack(MAGIC, VERSION, zlib.crc32(index), n, int(starts[-1]), len(index)))


def _shrunk(files: FolderFiles, row: int, side: int) -> bytes:
    """The image with its short side at most `side` pixels; as it is if it is no larger."""
    content = files.read(row)
    with opened(content, files.name(row)) as image:
        short = min(image.size)
        if short <= side:
            return content
        width, height = (round(length * side / short) for length in image.size)
        image.draft("RGB", (width, height))
        smaller = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    smaller.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def read(path: Path) -> tuple[Pack, Tensor, list[str]]:
    """The images of a pack, their labels (n,) and the names of the classes; UsageError for what is no whole pack."""
    try:
        with path.open("rb") as stream:
            stat = os.fstat(stream.fileno())
            head = stream.read(HEAD.size)
            magic, version, crc, n, at, length = HEAD.unpack(head.ljust(HEAD.size, b"\0"))
            if magic != MAGIC:
                raise ValueError("it does not begin as one")
            if version != VERSION:
                raise ValueError(f"it has version {version}; this dpbench reads version {VERSION}")
            if stat.st_size != at + length or length < 16 * n + 8:
                raise ValueError(f"it has {stat.st_size:,} bytes and should have {at + length:,}: it is cut short")
            stream.seek(at)
            index = stream.read(length)
        if zlib.crc32(index) != crc:
            raise ValueError("its index is damaged")
        return _parsed(path, index, n, at, (stat.st_ino, stat.st_mtime_ns))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: not a pack of dpbench: {store.brief(error)}") from None


def _parsed(path: Path, index: bytes, n: int, at: int, stamp: tuple[int, int]) -> tuple[Pack, Tensor, list[str]]:
    starts = np.frombuffer(index, "<u8", n + 1)
    labels, sums = np.frombuffer(index, "<u4", 2 * n, 8 * (n + 1)).reshape(2, n)
    known = store.load_json(index[16 * n + 8 :])
    classes, names = ([str(name) for name in known[key]] for key in ("classes", "names"))
    if len(names) != n or (n and labels.max() >= len(classes)):
        raise ValueError("its index does not fit its images")
    if starts[0] != HEAD.size or starts[-1] != at or (starts[1:] < starts[:-1]).any():
        raise ValueError("its images do not follow each other")
    found = Pack(path, names, starts[:-1], np.diff(starts), sums, np.arange(n), stamp)
    return found, torch.from_numpy(labels.astype(np.int64)), classes
