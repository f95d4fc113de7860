"""Data of one's own: files as a new user has them, read as they should be; bad ones end in one line."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pictures import write_pictures

from dpbench import catalog
from dpbench.analysis import gallery
from dpbench.data import Data
from dpbench.errors import RunFailed, UsageError
from dpbench.image_files import ImageFiles
from dpbench.images import Images
from dpbench.spec import Grid
from dpbench.tables import Columns, Table
from dpbench.tokens import PAD, Texts
from dpbench.training import loading, runner

FRAME = pd.DataFrame(
    {
        "age": [20.0, 30, 40, None, 60, 70, 80, 90, 100, 110],
        "town": ["B", "A", "A", "B", None, "A", "B", "A", "B", "A"],
        "id": range(10),
        "kind": ["yes", "no"] * 5,
    }
)


def load(text: str, root: Path) -> Data:
    return catalog.load_dataset(text).load(root)


def refused(text: str, root: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load(text, root)
    return str(caught.value)


# tables


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_table_becomes_numbers_codes_and_classes(suffix: str, tmp_path: Path) -> None:
    if suffix == "parquet":
        FRAME.to_parquet(tmp_path / "t.parquet")
    else:
        FRAME.to_csv(tmp_path / f"t.{suffix}", index=False, sep="\t" if suffix == "tsv" else ",")
    dataset = catalog.load_dataset(f"table[path=t.{suffix},label=kind,drop=id,test=0.4]")
    train, test = dataset.read(tmp_path)
    assert isinstance(train, Table)
    assert (len(train), len(test)) == (6, 4)
    assert train.labels.bincount().tolist() == [3, 3], "by class"
    rows = {int(age): code for age, code in zip(FRAME["age"].fillna(0), FRAME["town"], strict=True)}
    for part in (train, test):
        for age, codes, label in zip(part.numbers[:, 0].nan_to_num(0), part.codes, part.labels, strict=True):
            town = rows[int(age)]
            assert codes[-1] == (0 if pd.isna(town) else "AB".index(town) + 1)
            assert label == ["no", "yes"].index(FRAME["kind"][FRAME["age"].fillna(0) == int(age)].iloc[0])
    missing = bool(train.numbers.isnan().any())
    assert train.shape == Columns(1, (2, 3) if missing else (3,)), "a missing number is marked"


def test_what_the_training_rows_do_not_have_is_the_value_0(tmp_path: Path) -> None:
    frame = pd.DataFrame({"town": [f"town {i}" for i in range(10)], "label": [0, 1] * 5})
    frame.to_csv(tmp_path / "t.csv", index=False)
    train, test = catalog.load_dataset("table[path=t.csv]").read(tmp_path)
    assert sorted(train.codes[:, 0].tolist()) == list(range(1, 9))
    assert test.codes[:, 0].tolist() == [0, 0]


@pytest.mark.parametrize(("name", "n", "d"), [("breast_cancer", 569, 30), ("iris", 150, 4), ("wine", 178, 13)])
def test_the_tables_of_scikit_learn(name: str, n: int, d: int, tmp_path: Path) -> None:
    train, test = catalog.load_dataset(f"table[path={name}]").read(tmp_path)
    assert len(train) + len(test) == n
    assert train.shape == Columns(d, ())


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (None, "", "table: there is no file {file}"),
        ("a,b\n1,2\n", "", "table: {file} has no column 'label'; it has a, b; say label=COLUMN"),
        ("a,label\n1,x\n2,\n3,y\n", "", "table: t.csv: 1 rows have no label; the first is row 1"),
        ("a,label\n1,x\n2,y\n", "drop=c,", "table: drop: there is no column 'c'"),
        ("label\nx\ny\nx\ny\nx\ny\n", "", "training rows have no column but the label"),
        ("a,label\n" + "1,x\n" * 10, "", "table: t.csv: label has 1 different values; at least two classes are needed"),
        ("", "", "table: {file} cannot be read: No columns to parse from file"),
    ],
)
def test_a_bad_table_ends_in_one_line(content: str | None, options: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    if content is not None:
        file.write_text(content)
    assert said.format(file=file) in refused(f"table[{options}path=t.csv]", tmp_path)


def test_a_column_of_names_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"who": [f"n{i}" for i in range(1500)], "label": [0, 1] * 750}).to_csv(tmp_path / "t.csv", index=False)
    assert refused("table[path=t.csv]", tmp_path) == (
        "table: t.csv: column 'who' has 1,200 different values; leave it out: drop=who"
    )


# texts

LINES = {"cat": ["the cat sat", "a cat", "cats purr", "cat and cat", "cat!"], "dog": ["the dog", "a dog barks"] * 3}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The same samples in every form."""
    frame = pd.DataFrame([(text, name) for name, texts in LINES.items() for text in texts], columns=["text", "label"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    (tmp_path / "t").mkdir()
    for name, texts in LINES.items():
        (tmp_path / "t" / f"{name}.txt").write_text("\n".join(texts) + "\n\n")
    return tmp_path


def test_texts_are_the_same_in_every_form(written: Path) -> None:
    found = [load(f"text[path={path},length=6]", written) for path in ("t.csv", "t.tsv", "t.jsonl", "t")]
    assert {data.fingerprint for data in found} == {found[0].fingerprint}
    train = found[0].train
    assert isinstance(train, Texts)
    assert train.tokens.shape[1] == 6
    assert found[0].classes == 2


def test_tokens_are_learnt_from_the_training_texts_and_come_back(written: Path) -> None:
    dataset: Any = catalog.load_dataset("text[path=t.csv,length=200]")
    texts, _ = dataset._samples(written / "t.csv")
    train, test = dataset.read(written)
    longest = int((train.tokens != PAD).sum(1).max())
    assert longest < max(map(len, texts)), "frequent pairs are one token"
    assert len(train) + len(test) == len(texts)
    again, _ = dataset.read(written)
    assert torch.equal(again.tokens, train.tokens)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"words,label\na,b\n", "has no 'text'; it has words, label; say text=NAME"),
        ("t.csv", b"text,label\na,b\nc,\n", "sample 1 has no 'label'"),
        ("t.jsonl", b'{"text": "a", "label": "b"}\n{"text"\n', "line 2 is not an object of JSON"),
        ("t.txt", b"text,label\ncaf\xe9,b\n", "is not UTF-8 at byte"),
    ],
)
def test_bad_texts_end_in_one_line(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    line = refused(f"text[path={name}]", tmp_path)
    assert said in line
    assert str(tmp_path / name) in line


# pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "p", 10, 12, 16, ".png")
    return tmp_path


def test_a_folder_is_split_by_class(pictures: Path) -> None:
    train, test = catalog.load_dataset("folder[path=p,side=8]").read(pictures)
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([8, 8], [2, 2])
    assert train.shape == (3, 8, 8)
    again, _ = catalog.load_dataset("folder[path=p,side=8]").read(pictures)
    assert torch.equal(again.decoded().images, train.decoded().images)


def test_a_folder_that_is_split_stays_so(pictures: Path) -> None:
    for part in ("train", "val"):
        (pictures / "q" / part).mkdir(parents=True)
        (pictures / "p" / "ant").rename(pictures / "q" / part / "ant") if part == "val" else None
    (pictures / "q" / "val" / "bee").mkdir()
    (pictures / "p" / "bee" / "0.png").rename(pictures / "q" / "val" / "bee" / "0.png")
    (pictures / "p" / "bee").rename(pictures / "q" / "train" / "bee")
    (pictures / "q" / "train" / "ant").mkdir()
    (pictures / "q" / "val" / "ant" / "3.png").rename(pictures / "q" / "train" / "ant" / "3.png")
    train, test = catalog.load_dataset("folder[path=q,side=8]").read(pictures)
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([1, 9], [9, 1])


def test_many_pictures_stay_on_disk(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = load("folder[path=p,side=8]", pictures).train
    assert isinstance(memory, Images)
    monkeypatch.setattr("dpbench.data.ROOM", 20 * 3 * 8 * 8 - 1)
    disk = load("folder[path=p,side=8]", pictures).train
    assert isinstance(disk, ImageFiles)
    assert all(torch.equal(disk.picture(row), memory.picture(row)) for row in range(len(disk)))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: [file.unlink() for file in (p / "bee").iterdir()], "/bee has no pictures; every class needs some"),
        (lambda p: [file.unlink() for file in list((p / "bee").iterdir())[1:]], "has a class with one picture"),
        (lambda p: (p / "bee").rename(p.parent / "bee"), "has 1 folders; it needs one for each class, two at least"),
    ],
)
def test_a_bad_folder_ends_in_one_line(spoil: Any, said: str, pictures: Path) -> None:
    spoil(pictures / "p")
    assert said in refused("folder[path=p]", pictures)


def test_a_picture_that_is_cut_short_is_named(pictures: Path) -> None:
    file = pictures / "p" / "bee" / "3.png"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises((UsageError, RunFailed), match=r"bee/3\.png: not an image that can be read"):
        load("folder[path=p]", pictures)


# a grid of them


def test_a_path_after_the_name_is_a_parameter() -> None:
    assert catalog.resolve("datasets", "table:a b/t.csv[label=y]") == "table[path=a b/t.csv,label=y]"
    assert catalog.resolve("datasets", "folder:P") == "folder[path=P]"
    assert catalog.resolve("datasets", "digits") == "digits"
    with pytest.raises(UsageError, match="nothing may follow the colon of digits:P: the dataset digits has no"):
        catalog.resolve("datasets", "digits:P")


def test_what_follows_a_colon_is_the_first_parameter_of_ones_own_dataset(tmp_path: Path, unplug: None) -> None:
    source = (
        "from dpbench.data import Dataset, param\n"
        "class Mine(Dataset):\n"
        "    source: str = param('')\n"
        "    side: int = param(8)\n"
        "    def read(self, root):\n"
        "        raise NotImplementedError\n"
    )
    (tmp_path / "own_source.py").write_text(source)
    for name in (f"{tmp_path}/own_source.py:P", "own_source:P"):
        assert catalog.resolve("datasets", name) == "own_source[source=P]"
    assert catalog.load_dataset("own_source:P[side=9]").source == "P"  # type: ignore[attr-defined]


def grid(**changes: object) -> Grid:
    recipe = {"epochs": 2, "batch_size": 8, "lr": 0.05, "schedule": "cosine"}
    base = {"name": "own", "methods": ["full", "uniform"], "keep": [0.5], "seeds": 1, "recipe": recipe}
    return Grid.model_validate(base | changes)


def test_each_dataset_runs_with_the_models_of_its_kind() -> None:
    both = grid(datasets=["digits", "table:wine", "text:t.csv"], models=["mlp", "cnn", "bag", "ft_transformer"])
    assert both.pairs() == [
        ("digits", "mlp"),
        ("digits", "cnn"),
        ("table[path=wine]", "mlp"),
        ("table[path=wine]", "ft_transformer"),
        ("text[path=t.csv]", "bag"),
    ]
    assert catalog.fitting(["cnn"], ["digits", "text[path=t.csv]"]) == ["cnn", "bag"]
    assert catalog.fitting(["cnn", "mlp"], ["table[path=wine]"]) == ["mlp"]
    with pytest.raises(
        UsageError, match=r"no model of the grid takes text\[path=t.csv\]; for its kind: bag, hf, transformer"
    ):
        grid(datasets=["digits", "text:t.csv"], models=["mlp"]).pairs()
    with pytest.raises(UsageError, match="the model bag takes none of the grid's datasets: digits"):
        grid(datasets=["digits"], models=["mlp", "bag"]).pairs()


@pytest.mark.parametrize(
    ("dataset", "model"),
    [
        ("table[path=wine]", "mlp[width=8]"),
        ("table[path=wine]", "ft_transformer[width=8,depth=1]"),
        ("text[path=t.csv,length=6]", "bag[width=8]"),
        ("text[path=t.csv,length=6]", "transformer[width=8,depth=1]"),
        ("folder[path=p,side=8]", "cnn[width=2]"),
    ],
)
@pytest.mark.parametrize("method", ["orderdp", "el2n[at_epoch=1]", "selective_backprop"])
def test_methods_of_each_kind_run_on_each(
    dataset: str,
    model: str,
    method: str,
    written: Path,
    pictures: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [fingerprint] = loading.fingerprints([dataset], written).values()
    asked = grid(datasets=[dataset], models=[model], methods=[method], probe={"every": 1, "samples": 8})
    [spec] = asked.runs({dataset: fingerprint})
    result = runner.run(spec, torch.device("cpu"), written)
    assert result["status"] != "FAILED", result["reason"]
    assert len(result["epochs"]) == 2
    result["status"] = "FINISHED"  # so little data may teach nothing, and what did not learn has no pictures
    has_pictures = dataset.startswith("folder")
    if not has_pictures:
        monkeypatch.setattr(loading, "load_data", None)  # nothing is read to find that out
    drawn = gallery.sheet_of_run(result, written, written / "sheet.png")
    assert drawn == has_pictures
    note = gallery.make([result], written).note
    assert note == ("" if has_pictures else f"No pictures of {dataset}: its samples are no images.")
