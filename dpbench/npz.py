"""Files of arrays (.npz) that a stranger may have made: nothing is unpacked before the sizes are known to fit."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpbench import store

Kinds = Mapping[str, tuple[int, str]]  # how many dimensions an array has, and which kinds of values, as in NumPy
BAD = (*store.BAD, RuntimeError, zipfile.BadZipFile, zlib.error)  # RuntimeError: it wants a password


def write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write the arrays compressed."""

    def save(file: Path) -> None:
        with file.open("wb") as stream:  # a path would get .npz appended
            np.savez_compressed(stream, **arrays)

    store.write(path, save)


def read(source: Path | bytes, kinds: Kinds, most: int = store.MOST_UNPACKED) -> dict[str, NDArray[Any]]:
    """The arrays of a file, each one of `kinds`, which together take at most `most` bytes; raises what BAD lists."""
    content = source if isinstance(source, bytes) else store.bounded_file(source, most)
    arrays = {}
    with zipfile.ZipFile(BytesIO(content)) as archive:
        members = archive.infolist()
        if len(members) > len(kinds) or sum(member.file_size for member in members) > most:
            raise ValueError(f"{sum(member.file_size for member in members):,} bytes unpacked; at most {most:,} fit")
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise ValueError("it is packed in a way that NumPy does not use")
        for member in members:
            name = member.filename.removesuffix(".npy")
            dimensions, kind = kinds[name]
            try:
                with archive.open(member) as stream:  # which unpacks no more than it is asked for
                    arrays[name] = store.array(store.bounded(stream, member.file_size))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            if arrays[name].ndim != dimensions or arrays[name].dtype.kind not in kind:
                raise ValueError(f"{name} are {arrays[name].dtype} of shape {arrays[name].shape}")
    return arrays
