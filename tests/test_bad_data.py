"""Bad data of every kind ends in one line that names the file, before anything is trained."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import write_pictures

from dpbench import catalog
from dpbench.errors import RunFailed, UsageError


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it ran",)


def pictures(folder: Path) -> None:
    write_pictures(folder / "p", 5, 40, 40, ".jpg")


def truncated_jpeg(folder: Path) -> None:
    pictures(folder)
    file = folder / "p" / "bee" / "3.jpg"
    file.write_bytes(file.read_bytes()[:-200])


def empty_class(folder: Path) -> None:
    pictures(folder)
    (folder / "p" / "cat").mkdir()


def one_folder(folder: Path) -> None:
    pictures(folder)
    (folder / "p" / "bee").rename(folder / "bee")


def cifar(folder: Path, labels: Any) -> None:
    inside = folder / "cifar-10-batches-py"
    inside.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 3]}
        if name == "data_batch_2":
            batch[b"labels"] = labels
        (inside / name).write_bytes(pickle.dumps(batch, protocol=2))


def lines(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


TABLE = b"a,b,label\n" + b"1,,x\n2,,y\n" * 6
CASES = {
    "truncated JPEG": (truncated_jpeg, "folder[path=p]", "p/bee/3.jpg: not an image that can be read: "),
    "empty class folder": (empty_class, "folder[path=p]", "p/cat has no pictures; every class needs some"),
    "one class of pictures": (one_folder, "folder[path=p]", "p has 1 folders; it needs one for each class"),
    "label outside the range": (
        lambda folder: cifar(folder, [0, 1, 10, 3]),
        "cifar10[checked=false]",
        "data_batch_2: row 2 has the label 10, outside 0..9",
    ),
    "label below the range": (
        lambda folder: cifar(folder, [0, 1, 2, -1]),
        "cifar10[checked=false]",
        "data_batch_2: row 3 has the label -1, outside 0..9",
    ),
    "wrong checksum": (lambda folder: cifar(folder, [0, 1, 2, 3]), "cifar10", "data_batch_1: its checksum is "),
    "pickle that would run code": (
        lambda folder: cifar(folder, Runs()),
        "cifar10[checked=false]",
        "data_batch_2: not a python batch of CIFAR: it would run ",
    ),
    "table without its label": (lines("t.csv", b"a,b\n1,2\n"), "table[path=t.csv]", "t.csv has no column 'label'"),
    "missing label in a table": (
        lines("t.csv", b"a,label\n1,x\n2,\n3,y\n"),
        "table[path=t.csv]",
        "t.csv: 1 rows have no label; the first is row 1",
    ),
    "one class in a table": (
        lines("t.csv", b"a,label\n" + b"1,x\n" * 9),
        "table[path=t.csv]",
        "t.csv: label has 1 different values",
    ),
    "column of NaN": (lines("t.csv", TABLE), "table[path=t.csv]", "t.csv: column 'b' has no value among the training"),
    "table that is no UTF-8": (
        lines("t.csv", b"a,label\n\xe9,x\n"),
        "table[path=t.csv]",
        "t.csv cannot be read: 'utf-8'",
    ),
    "Parquet that is none": (lines("t.parquet", b"PAR1"), "table[path=t.parquet]", "t.parquet cannot be read: "),
    "text that is no UTF-8": (
        lines("t.csv", b"text,label\n\xe9,x\n"),
        "text[path=t.csv]",
        "t.csv is not UTF-8 at byte",
    ),
    "line that is no JSON": (
        lines("t.jsonl", b'{"text": "a", "label": "b"}\n{"text"\n'),
        "text[path=t.jsonl]",
        "t.jsonl: line 2 is not an object",
    ),
    "one class of texts": (
        lines("t.jsonl", b'{"text": "a", "label": "b"}\n' * 9),
        "text[path=t.jsonl]",
        "t.jsonl: all samples are of one label",
    ),
}


@pytest.mark.parametrize(("spoil", "dataset", "said"), CASES.values(), ids=CASES)
def test_bad_data_ends_in_one_line(
    spoil: Callable[[Path], object], dataset: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil(tmp_path)
    with pytest.raises((UsageError, RunFailed)) as caught:
        catalog.load_dataset(dataset).load(tmp_path)
    line = str(caught.value)
    assert said in line
    assert "\n" not in line
    assert not (tmp_path / "it ran").exists()
