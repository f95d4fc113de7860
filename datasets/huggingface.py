"""A dataset of Hugging Face: from a folder that `save_to_disk` wrote, a folder of Parquet files, or the hub."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch
from torch import Tensor

from dpbench import frames
from dpbench.data import Dataset, UsageError, param, split_by_class
from dpbench.errors import RunFailed, one_line
from dpbench.image_files import ImageFiles
from dpbench.tables import Table
from dpbench.tokens import Texts, encode

TESTS = ("test", "validation", "val")  # what the samples to test with are called; those without labels do not count


class HuggingFace(Dataset):
    """The samples of `path`, classified by the column `label`; a folder of that name goes before the hub's dataset.

    `kind` says what they are: images (in a column of the type Image), texts (of strings), or tables (all columns but
    those in `drop`). `column` names the column of images or texts where there are several. Without samples to test
    with the share `test` of each class is held out. `side` is as for `folder`, `length` and `vocabulary` as for `text`.
    It needs `pip install 'dpbench[huggingface]'`. No code of a dataset is run.
    """

    path: str = param("")
    kind: str = param("images", choices=("images", "texts", "tables"))
    label: str = param("label")
    column: str = param("")
    drop: str = param("")
    test: float = param(0.2, low=0.01, high=0.9)
    side: int = param(32, low=4, high=4096)
    length: int = param(128, low=1, high=100_000)
    vocabulary: int = param(8192, low=300, high=1_000_000)

    def read(self, root: Path | None) -> tuple[Any, Any]:
        if not self.path:
            raise UsageError("huggingface: which? huggingface:FOLDER, or huggingface:NAME of the hub")
        with _told(self.path):
            whole, first = self._whole((root or Path()) / self.path)
            columns = list(whole.features)
            if self.label not in columns:
                raise UsageError(f"huggingface: {self.path} has no column {self.label!r}; it has {', '.join(columns)}")
            labels = frames.classes(pd.Series(whole[self.label][:]), self.label, f"huggingface: {self.path}")
            rows = np.arange(len(whole))
            train, test = (rows[:first], rows[first:]) if first < len(rows) else split_by_class(labels, self.test)
            return self._sources(whole, labels, train, test)

    def _whole(self, place: Path) -> tuple[Any, int]:
        """All samples, those to train with first, and how many these are."""
        theirs = _package()
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            found = theirs.load_from_disk(str(place))
        elif place.is_dir():
            files = {name: sorted(map(str, place.rglob(f"{name}*.parquet"))) for name in ("train", *TESTS)}
            files = {name: those for name, those in files.items() if those}
            every = sorted(map(str, place.rglob("*.parquet")))
            if not every:
                raise UsageError(f"huggingface: {place} has no .parquet files, and save_to_disk has not written it")
            found = theirs.load_dataset("parquet", data_files=files if "train" in files else {"train": every})
        else:
            found = theirs.load_dataset(self.path)
        if not isinstance(found, theirs.DatasetDict):
            return found, len(found)
        if "train" not in found:
            raise UsageError(f"huggingface: {self.path} has no train among {', '.join(found)}")
        train = found["train"]
        for name in TESTS:
            known = (
                name in found and self.label in found[name].features and found[name][self.label][:1] not in ([-1], [])
            )
            if known:
                return theirs.concatenate_datasets([train, found[name]]), len(train)
        return train, len(train)

    def _sources(self, whole: Any, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[Any, Any]:
        if self.kind == "tables":
            return self._tables(whole, labels, train, test)
        column = self._column(whole.features)
        classes = torch.from_numpy(labels.astype(np.int64))
        found: Any
        if self.kind == "images":
            encoded = whole.cast_column(column, _package().Image(decode=False))
            self._check_bytes(encoded.data.column(column))
            found = ImageFiles(_Rows(encoded, column, self.path), classes, self.side)
        else:
            texts = ["" if text is None else text for text in whole[column][:]]
            found = Texts(encode(texts, train, self.vocabulary, self.length), self.vocabulary, classes)
        return found.at(torch.from_numpy(train)), found.at(torch.from_numpy(test))

    def _check_bytes(self, images: Any) -> None:
        """Refuse images that lie elsewhere: no fingerprint would cover them, and their paths may lead anywhere."""
        content, paths = (pc.struct_field(images, name) for name in ("bytes", "path"))
        if pc.any(pc.and_(pc.is_null(content), pc.is_valid(paths))).as_py():
            raise UsageError(
                f"huggingface: {self.path} has images by their paths alone; save_to_disk of a load_dataset's result "
                "writes them into a folder, which can be given"
            )

    def _column(self, features: Any) -> str:
        """The column of the images or texts; UsageError where there is none of the type, or no single one."""
        wanted = "Image" if self.kind == "images" else "string"
        types = {
            name: getattr(one, "dtype", None) if wanted == "string" else type(one).__name__
            for name, one in features.items()
        }
        fitting = [name for name, one in types.items() if one in (wanted, f"large_{wanted}") and name != self.label]
        chosen = [self.column] if self.column in fitting else [] if self.column else fitting
        if len(chosen) != 1:
            listed = ", ".join(
                f"{name} ({getattr(one, 'dtype', None) or type(one).__name__})" for name, one in features.items()
            )
            raise UsageError(
                f"huggingface: {self.path} has {listed}; say kind=images, texts or tables, and column=NAME"
            )
        return chosen[0]

    def _tables(self, whole: Any, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[Table, Table]:
        values = whole.remove_columns([self.label, *self.drop.split()]).to_pandas()
        nested = [
            name for name, one in values.items() if one.map(lambda value: isinstance(value, dict | np.ndarray)).any()
        ]
        if nested:
            raise UsageError(
                f"huggingface: column {nested[0]!r} is no number or category; leave it out: drop={nested[0]}"
            )
        return frames.encode(values, labels, train, test, f"huggingface: {self.path}")


@dataclass(frozen=True)
class _Rows:
    """The encoded images in a column of a dataset of Hugging Face, which is memory-mapped."""

    data: Any
    column: str
    path: str
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.data) if self.rows is None else len(self.rows)

    def at(self, rows: Tensor) -> "_Rows":
        """The images at `rows`."""
        return _Rows(self.data, self.column, self.path, rows if self.rows is None else self.rows[rows])

    def _row(self, row: int) -> int:
        return row if self.rows is None else int(self.rows[row])

    def name(self, row: int) -> str:
        """How messages call the image of a row."""
        return f"{self.path}: row {self._row(row)}"

    def read(self, row: int) -> bytes:
        """The bytes of an image."""
        content: bytes | None = (self.data[self._row(row)][self.column] or {}).get("bytes")
        if content is None:
            raise RunFailed(f"{self.name(row)}: there is no image")
        return content

    def identity(self) -> bytes:
        """Names, sizes and times of the files that are memory-mapped, and the rows."""
        files = [Path(one["filename"]) for one in self.data.cache_files]
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return repr(stats).encode() + (b"" if self.rows is None else self.rows.numpy().tobytes())


def _package() -> Any:
    """Hugging Face's `datasets`, imported by name: in a checkout the folder of ours is called so, too."""
    found: Any
    try:
        found = importlib.import_module("datasets")
        found.disable_progress_bars()
    except (ImportError, AttributeError):
        raise UsageError("huggingface: it needs the package datasets: pip install 'dpbench[huggingface]'") from None
    return found


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Tell in one line what Hugging Face's package raises."""
    try:
        yield
    except (UsageError, RunFailed):
        raise
    except Exception as error:
        reason = one_line(error, 200)
        raise UsageError(f"huggingface: {path} cannot be read: {type(error).__name__}: {reason}") from None
