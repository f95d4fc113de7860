"""CIFAR's batches: written in their exact form, read back, and never run."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpbench import catalog
from dpbench.errors import UsageError

N = 6


def batch(labels: str, classes: int, seed: int) -> dict[str, Any]:
    """A batch as the official files hold it: rows of 3,072 bytes, the red channel first."""
    rng = np.random.default_rng(seed)
    return {
        "data": rng.integers(0, 256, (N, 3072), np.uint8),
        labels: [i % classes for i in range(N)],
        "filenames": [f"{i}.png" for i in range(N)],
        "batch_label": "a batch",
    }


def write(file: Path, content: dict[str, Any]) -> None:
    """As Python 2 wrote it: its strings are bytes in Python 3."""
    file.parent.mkdir(parents=True, exist_ok=True)
    encoded = {key.encode(): value for key, value in content.items()}
    file.write_bytes(pickle.dumps(encoded, protocol=2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        write(tmp_path / "cifar-10-batches-py" / name, batch("labels", 3, number))
    for number, name in enumerate(["train", "test"]):
        write(tmp_path / "cifar-100-python" / name, batch("fine_labels", 2, number))
    return tmp_path


def test_pixels_and_classes_come_back_in_the_files_order(folder: Path) -> None:
    train, test = catalog.load_dataset("cifar10[checked=false]").read(folder)
    assert (train.images.shape, test.images.shape) == ((5 * N, 3, 32, 32), (N, 3, 32, 32))
    third = batch("labels", 3, 2)["data"]
    assert np.array_equal(train.images[2 * N : 3 * N].numpy(), third.reshape(N, 3, 32, 32))
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2] * 5
    assert catalog.load_dataset("cifar100[checked=false]").load(folder).classes == 2


def refused(folder: Path, text: str = "cifar10[checked=false]") -> str:
    with pytest.raises(UsageError) as caught:
        catalog.load_dataset(text).read(folder)
    return str(caught.value)


def test_a_file_of_another_checksum_is_refused(folder: Path) -> None:
    assert "data_batch_1: its checksum is " in refused(folder, "cifar10")
    assert "not c99cafc152244af753f735de768cd75f" in refused(folder, "cifar10")


class Evil:
    ran = False

    def __reduce__(self) -> Any:
        return (setattr, (Evil, "ran", True))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({b"data": Evil()}), "it would run builtins.setattr"),
        (b"junk", "not a python batch of CIFAR"),
        (b"", "not a python batch of CIFAR"),
        (pickle.dumps({b"data": [1, 2]}), "not a python batch of CIFAR"),
    ],
)
def test_a_pickle_is_never_run_and_a_bad_one_is_named(folder: Path, content: bytes, said: str) -> None:
    file = folder / "cifar-10-batches-py" / "data_batch_2"
    file.write_bytes(content)
    line = refused(folder)
    assert said in line
    assert str(file) in line
    assert not Evil.ran


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    assert "No such file or directory; get the files by torchvision.datasets and --data-root" in refused(tmp_path)
