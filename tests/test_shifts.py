"""Corrupted tests: closed forms, seeds, growing strength, CIFAR-C's files, and what a run records of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpbench import shifts
from dpbench.errors import UsageError
from dpbench.grid_file import read_grid
from dpbench.images import ImageLoader, Images
from dpbench.rng import generator
from dpbench.spec import RunSpec
from dpbench.training import loading
from dpbench.training.measures import MEASURES
from dpbench.training.ranks import Ranks
from dpbench.training.train import evaluate, evaluate_shifted

CPU = torch.device("cpu")
GRID = """
datasets: [DATASET]
models: [mlp]
methods: [full]
keep: [0.5]
seeds: 1
shifts: true
recipe: {epochs: 1, batch_size: 16, lr: 0.1}
"""


def pictures(n: int, c: int, side: int) -> Tensor:
    """Smooth images with some detail, away from black and white."""
    y, x = torch.meshgrid(torch.linspace(0, 6, side), torch.linspace(0, 6, side), indexing="ij")
    phase = torch.arange(n * c).view(n, c, 1, 1)
    return (128 + 60 * torch.sin(x + phase) * torch.cos(2 * y - phase)).round().to(torch.uint8)


def corrupted(images: Tensor, kind: str, strength: int) -> Tensor:
    return shifts.corrupted(images, kind, strength, generator(0, "test"))


@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("kind", shifts.STRENGTHS)
def test_strength_grows_the_distance_from_nothing(kind: str, channels: int, side: int) -> None:
    images = pictures(20, channels, side)
    found = [corrupted(images, kind, strength) for strength in range(4)]
    assert {(one.shape, one.dtype) for one in found} == {(images.shape, torch.uint8)}
    distances = [float((one.float() - images.float()).square().mean()) for one in found]
    assert distances[0] == 0
    assert distances == sorted(set(distances))


def test_noise_has_its_standard_deviation_and_no_bias() -> None:
    grey = torch.full((50, 1, 32, 32), 128, dtype=torch.uint8)
    for strength, share in enumerate(shifts.STRENGTHS["noise"], 1):
        change = corrupted(grey, "noise", strength).double() - 128
        clipped = 255 * share * (1 if share < 0.2 else 0.9857)  # N(0, 1) clipped at 2.5 has this std
        assert float(change.std()) == pytest.approx(clipped, rel=0.01)
        assert abs(float(change.mean())) < 1


def test_contrast_scales_the_deviations_from_each_images_mean() -> None:
    images = pictures(6, 3, 16)
    changed = corrupted(images, "contrast", 2).double()
    mean = images.double().mean((2, 3), keepdim=True)
    assert float((changed - (mean + (images - mean) / 2)).abs().max()) <= 0.5 + 1e-3


def test_a_blur_keeps_constants_and_spreads_a_point_over_a_gaussian() -> None:
    constant = torch.full((2, 3, 8, 8), 77, dtype=torch.uint8)
    assert torch.equal(corrupted(constant, "blur", 3), constant)
    point = torch.zeros(1, 1, 33, 33)
    point[0, 0, 16, 16] = 1.0
    spread = shifts._blurred(point, 2.0)[0, 0]
    places = torch.arange(33.0) - 16
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(spread.sum(0) @ places.square()) == pytest.approx(2.0**2 + 1 / 12, rel=0.02)


def test_jpeg_keeps_each_channel_that_is_no_colour_apart() -> None:
    images = pictures(3, 2, 16)
    each = [corrupted(images[:, c : c + 1], "jpeg", 2) for c in range(2)]
    assert torch.equal(corrupted(images, "jpeg", 2), torch.cat(each, 1))


def loader(images: Tensor, labels: Tensor) -> ImageLoader:
    return ImageLoader(Images(images, labels), images, CPU)


def test_every_run_on_a_dataset_sees_the_same_images_and_another_dataset_others() -> None:
    clean = loader(torch.full((30, 1, 8, 8), 100, dtype=torch.uint8), torch.arange(30) % 2)

    def images(dataset: str) -> Tensor:
        [first, *_] = shifts.tests(dataset, clean, None)["accuracy_shifted_noise"]
        found = [torch.cat([inputs for _, inputs, _ in first.batches(torch.arange(30).split(10))]) for _ in "ab"]
        assert torch.equal(*found)
        return found[0]

    assert torch.equal(images("digits"), images("digits[label_noise=0.2]"))
    assert not torch.equal(images("digits"), images("fashion_mnist"))


def test_strength_0_has_the_accuracy_and_loss_of_the_clean_test(spec: Any, trained: Callable[[RunSpec], Any]) -> None:
    inner = trained(spec("full", keep=1.0, epochs=2))
    rng = generator(0, "unused")
    unchanged = shifts.ShiftedLoader(inner.test, lambda: lambda rows, images: shifts.corrupted(images, "noise", 0, rng))
    assert evaluate(inner.learner, unchanged) == evaluate(inner.learner, inner.test)


def test_a_run_records_the_means_and_is_the_same_otherwise(
    spec: Any, run: Any, trained: Callable[[RunSpec], Any]
) -> None:
    asked = spec("uniform", shifts=True)
    plain, shifted = run(spec("uniform")), run(asked)
    kinds = [f"accuracy_shifted_{kind}" for kind in shifts.STRENGTHS]
    metrics = shifted["metrics"]
    assert set(metrics) - set(plain["metrics"]) == {"accuracy_shifted", *kinds}
    assert set(kinds) < {one.name for one in MEASURES}
    assert metrics["accuracy_shifted"] == pytest.approx(np.mean([metrics[kind] for kind in kinds]))
    assert min(metrics[kind] for kind in kinds) < metrics["accuracy"] == plain["metrics"]["accuracy"]
    assert [one["loss_train"] for one in shifted["epochs"]] == [one["loss_train"] for one in plain["epochs"]]
    inner = trained(asked)
    by_hand = [evaluate(inner.learner, one)[0] for one in inner.shifted["accuracy_shifted_blur"]]
    assert metrics["accuracy_shifted_blur"] == pytest.approx(np.mean(by_hand))


def test_each_rank_sees_the_corrupted_images_of_one_process(spec: Any, trained: Callable[[RunSpec], Any]) -> None:
    inner = trained(spec("uniform", shifts=True))
    noisy = {"accuracy_shifted_noise": inner.shifted["accuracy_shifted_noise"]}
    alone = evaluate_shifted(inner.learner, noisy)

    class Second(Ranks):
        rank, size = 1, 2

        def batches(self, loader: Any, parts: Any, augment: bool = True) -> Any:
            return loader.batches([rows[len(rows) // 2 :] for rows in parts], augment)

    inner.learner.ranks = Second()
    assert evaluate_shifted(inner.learner, noisy) == alone


def test_runs_without_shifts_keep_the_hash_from_before_there_were_any(spec: Any) -> None:
    without = spec("orderdp")
    assert "shifts" not in without.identity["spec"]
    assert without.model_copy(update={"shifts": True}).hash != without.hash
    assert RunSpec.model_validate(without.model_copy(update={"shifts": True}).model_dump()).shifts


def test_a_grid_asks_for_it_and_is_refused_for_what_is_no_images() -> None:
    [cell, *_] = read_grid(GRID.replace("DATASET", "digits"), "g.yaml", "g").runs()
    assert cell.shifts
    with pytest.raises(UsageError, match="with full: shifts is for images, not for tables"):
        read_grid(GRID.replace("DATASET", "'table[path=x.csv]'"), "g.yaml", "g").runs()
    with pytest.raises(UsageError, match="letters has no images"):
        shifts.tests("letters", object(), None)  # type: ignore[arg-type]


@pytest.fixture
def cifar_c(tmp_path: Path) -> Path:
    """A data root with a CIFAR-10-C of 4 test images, whose pixels tell corruption, strength and image."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(np.arange(4), 5))
    for kind, name in enumerate(shifts.CIFAR_C_NAMES):
        values = (10 * kind + np.arange(20)).astype(np.uint8)
        np.save(folder / f"{name}.npy", np.broadcast_to(values[:, None, None, None], (20, 32, 32, 3)))
    return tmp_path


def test_cifar_c_is_read_strength_by_strength_where_it_lies(cifar_c: Path) -> None:
    clean = loader(torch.arange(4 * 3 * 32 * 32).view(4, 3, 32, 32).to(torch.uint8), torch.arange(4))
    found = shifts.tests("cifar10", clean, cifar_c)["accuracy_cifar_c"]
    assert len(found) == 15 * 5
    [(rows, inputs, labels)] = found[5 * 2 + 3].batches([torch.tensor([3, 1])])  # the third kind at strength 4
    expected = torch.tensor([20 + 3 * 4 + 3, 20 + 3 * 4 + 1], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    assert torch.equal(inputs, clean.normalised(expected))
    assert (rows.tolist(), labels.tolist()) == ([3, 1], [3, 1])
    assert "accuracy_cifar_c" not in shifts.tests("cifar100", clean, cifar_c)
    assert "accuracy_cifar_c" not in shifts.tests("digits", clean, cifar_c)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("fog", None, "fog.npy"),
        ("fog", np.zeros((19, 32, 32, 3), np.uint8), r"fog.npy: uint8 of shape \(19, 32, 32, 3\), where \(20, "),
        ("labels", np.zeros(20, int), "not the labels of the test images"),
        ("fog", np.array([{}]), "fog.npy: .*pickle|fog.npy: .*[Oo]bject"),
    ],
)
def test_other_files_of_cifar_c_are_refused_in_one_line(cifar_c: Path, name: str, array: Any, message: str) -> None:
    file = cifar_c / "CIFAR-10-C" / f"{name}.npy"
    file.unlink()
    if array is not None:
        np.save(file, array, allow_pickle=True)
    clean = loader(torch.arange(4 * 3 * 32 * 32).view(4, 3, 32, 32).to(torch.uint8), torch.arange(4))
    with pytest.raises(UsageError, match=message) as told:
        shifts.tests("cifar10", clean, cifar_c)
    assert "\n" not in str(told.value)


def test_the_digits_of_a_grid_can_be_corrupted() -> None:
    """Their 0 to 16 are 0 to 255."""
    test = loading.load_data("digits", None).test
    assert int(test.images.max()) == 255
