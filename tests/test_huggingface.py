"""Datasets of Hugging Face from local files: images, texts and tables, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dpbench import catalog
from dpbench.errors import UsageError
from dpbench.images import Images
from dpbench.tables import Columns
from dpbench.tokens import Texts

theirs = pytest.importorskip("datasets", reason="the package datasets is not installed", exc_type=ImportError)
if not hasattr(theirs, "load_from_disk"):
    pytest.skip("the package datasets is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def pixels(n: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(n)]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Images with a class each, saved to disk in two splits."""
    features = theirs.Features({"image": theirs.Image(), "label": theirs.ClassLabel(names=["ant", "bee"])})
    parts = {}
    for name, n in (("train", 20), ("test", 6)):
        content = {"image": pixels(n), "label": [i % 2 for i in range(n)]}
        parts[name] = theirs.Dataset.from_dict(content, features=features)
    theirs.DatasetDict(parts).save_to_disk(str(tmp_path / "images"))
    return tmp_path


def test_images_that_were_saved_to_disk(saved: Path) -> None:
    data = catalog.load_dataset("huggingface[path=images,side=8]").load(saved)
    assert isinstance(data.train, Images)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [18, 2, 6]
    expected = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in pixels(20)])
    assert torch.equal(data.train.images, expected[data.positions])
    assert data.train.labels.tolist() == (data.positions % 2).tolist()
    train, _ = catalog.load_dataset("huggingface[path=images,side=8]").read(saved)
    again, _ = catalog.load_dataset("huggingface[path=images,side=8]").read(saved)
    assert train.fingerprint == again.fingerprint != train.at(torch.arange(20).flip(0)).fingerprint
    assert list(train.broken()) == []


def test_images_by_their_paths_alone_are_refused(tmp_path: Path) -> None:
    """Nothing of theirs would be in the fingerprint, and a path may lead anywhere."""
    pixels(1)[0].save(tmp_path / "0.png")
    there = {"bytes": None, "path": str(tmp_path / "0.png")}
    content = {"bytes": (tmp_path / "0.png").read_bytes(), "path": "0.png"}
    (tmp_path / "p").mkdir()
    features = theirs.Features({"image": theirs.Image(decode=False), "label": theirs.Value("int64")})
    for images, said in (([content] * 9 + [there], "images by their paths alone"), ([content] * 9 + [None], "")):
        made = theirs.Dataset.from_dict({"image": images, "label": [i % 2 for i in range(10)]}, features=features)
        pd.DataFrame({"image": made["image"][:], "label": made["label"][:]}).to_parquet(tmp_path / "raw.parquet")
        theirs.Dataset(made.data).to_parquet(tmp_path / "p" / "part.parquet")
        dataset = catalog.load_dataset("huggingface[path=p,side=8]")
        if said:
            with pytest.raises(UsageError, match=said):
                dataset.read(tmp_path)
        else:
            train, test = dataset.read(tmp_path)
            assert [why for part in (train, test) for _, why in part.broken()] == ["p: row 9: there is no image"]


def test_texts_and_tables_of_parquet_files(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"sentence": ["a cat sat", "the dog barks"] * 10, "age": np.arange(20.0), "town": list("abcd") * 5}
    )
    frame["kind"] = ["cat", "dog"] * 10
    (tmp_path / "p").mkdir()
    frame.to_parquet(tmp_path / "p" / "part.parquet")
    texts = catalog.load_dataset("huggingface[path=p,kind=texts,column=sentence,label=kind,length=6]").load(tmp_path)
    assert isinstance(texts.train, Texts)
    assert len(texts.test) == 4
    assert len(texts.train.tokens.unique(dim=0)) == 2
    table = catalog.load_dataset("huggingface[path=p,kind=tables,label=kind,drop=sentence]").load(tmp_path)
    assert table.shape == Columns(1, (5,))
    frame[:14].to_parquet(tmp_path / "p" / "train-0.parquet")
    frame[14:].to_parquet(tmp_path / "p" / "test-0.parquet")
    _, test = catalog.load_dataset("huggingface[path=p,kind=tables,label=kind,drop=sentence]").read(tmp_path)
    assert test.numbers[:, 0].tolist() == list(range(14, 20))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "path=p,kind=texts,label=kind",
            "string), age (float64), town (",
        ),
        ("path=p,label=kind", "say kind=images, texts or tables, and column=NAME"),
        ("path=p,kind=tables", "p has no column 'label'; it has sentence, age, town, kind"),
        ("path=empty", "has no .parquet files, and save_to_disk has not written it"),
        ("path=bad", "bad cannot be read: "),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(options: str, said: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"sentence": ["a", "b"] * 9, "age": 1.0, "town": "t", "kind": ["x", "y"] * 9})
    for name in ("p", "empty", "bad"):
        (tmp_path / name).mkdir()
    frame.to_parquet(tmp_path / "p" / "part.parquet")
    (tmp_path / "bad" / "x.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(UsageError) as caught:
        catalog.load_dataset(f"huggingface[{options}]").load(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_kind_is_known_before_anything_is_read() -> None:
    assert catalog.models_for("huggingface[path=nowhere,kind=texts]")[0] == "bag"
    assert catalog.load_dataset("huggingface[path=nowhere]").kind == "images"
