"""Files in the place of a dataset's own: read by the dataset itself, with its classes and shape."""

from pathlib import Path
from typing import Any

import pytest

from dpbench import catalog
from dpbench.experiments.standins import PICTURES, STAND_INS, scale, stand_in

IMAGES: dict[str, Any] = {
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "fashion_mnist": (1, 28, 28),
    "imagenet": (3, 224, 224),
}
CLASSES = {
    "cifar10": 10,
    "cifar100": 100,
    "fashion_mnist": 10,
    "imagenet": 8,
    "newsgroups": 20,
    "reuters_r8": 8,
    "reuters_r52": 52,
    "wordnet": 45,
    "shuttle": 7,
    "letters": 26,
    "diamonds": 5,
}


@pytest.mark.parametrize("name", STAND_INS)
def test_a_dataset_reads_its_stand_in(name: str, tmp_path: Path) -> None:
    text = stand_in(name, tmp_path, 600)
    data = catalog.load_dataset(text).load(tmp_path)
    assert data.classes == CLASSES[name]
    assert (100 if name == "imagenet" else 400) <= len(data.train) <= 600
    assert len(data.test) >= data.classes
    if name in IMAGES:
        assert data.shape == IMAGES[name]
    made = PICTURES if name == "imagenet" else 600
    assert round(scale(name, 600) * made) == STAND_INS[name].train


def test_parameters_of_the_dataset_stay(tmp_path: Path) -> None:
    assert stand_in("cifar10[label_noise=0.2]", tmp_path, 100) == "cifar10[label_noise=0.2,checked=false]"
