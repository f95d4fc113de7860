"""Augmentation image by image, and the sizes of images on disk, against torchvision's own transforms."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dpbench import images
from dpbench.augment import Augment
from dpbench.errors import UsageError
from dpbench.image_files import FolderFiles, ImageFiles
from dpbench.images import ImageLoader, Images
from dpbench.recipe import Recipe
from dpbench.tables import Table
from dpbench.training.train import Learner
from dpbench.training.workload import Classification

CPU = torch.device("cpu")
RNG = torch.Generator().manual_seed(0)
IMAGE = torch.randint(256, (3, 12, 16), generator=RNG).to(torch.uint8)
PIXELS = torch.randint(256, (9, 3, 8, 8), generator=RNG).to(torch.uint8)
LABELS = torch.arange(9) % 3
MEAN = [100.0, 110.0, 120.0]
ALL: dict[str, Any] = {"augment": "resized_crop_flip", "randaugment": 2, "color_jitter": 0.4, "erasing": 0.9}


def recipe(**changes: Any) -> Recipe:
    return Recipe(**({"epochs": 1, "batch_size": 4, "lr": 0.1} | changes))


@pytest.fixture
def source(tmp_path: Path) -> ImageFiles:
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    return ImageFiles(FolderFiles(tmp_path, [f"{i}.png" for i in range(9)]), LABELS, 8)


def seeded(transform: Any, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(IMAGE)


@pytest.mark.parametrize(
    ("changes", "transform"),
    [
        (
            {"augment": "resized_crop_flip", "scale": [0.3, 0.6], "ratio": [1.0, 2.0]},
            v2.Compose([v2.RandomResizedCrop((8, 8), (0.3, 0.6), (1.0, 2.0)), v2.RandomHorizontalFlip()]),
        ),
        (
            {"randaugment": 3, "magnitude": 20},
            v2.RandAugment(3, 20, interpolation=F.InterpolationMode.BILINEAR, fill=MEAN),
        ),
        ({"color_jitter": 0.4}, v2.ColorJitter(0.4, 0.4, 0.4)),
        ({"erasing": 0.7}, v2.RandomErasing(0.7, value=MEAN)),
        (
            {"augment": "crop_flip", "pad": 2, "color_jitter": 0.1},
            v2.Compose(
                [
                    v2.RandomCrop((8, 8), padding=2, padding_mode="reflect"),
                    v2.RandomHorizontalFlip(),
                    v2.ColorJitter(0.1, 0.1, 0.1),
                ]
            ),
        ),
    ],
)  # fmt: skip
def test_each_is_torchvisions(changes: dict[str, Any], transform: Any) -> None:
    own = Augment(recipe(**changes), (8, 8), MEAN)
    state, found = torch.get_rng_state(), [own(IMAGE, seed) for seed in range(8)]
    assert torch.equal(state, torch.get_rng_state()), "nothing is drawn from the training's generator"
    for seed, image in enumerate(found):
        assert image.dtype == torch.uint8
        assert torch.equal(image, seeded(transform, seed))
    assert any(not torch.equal(image, found[0]) for image in found)


def test_what_is_erased_has_the_mean_colour() -> None:
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    erased = Augment(recipe(erasing=1.0), (20, 20), MEAN)(image, 0)
    hole = erased[0] != 0
    assert 0.02 * 400 * 0.5 < int(hole.sum()) < 0.33 * 400 * 1.2
    assert erased[:, hole].unique(dim=1).flatten().tolist() == [100, 110, 120]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_in_memory_and_on_disk_are_augmented_alike(source: ImageFiles, workers: int) -> None:
    made = recipe(**ALL)
    memory = Images(PIXELS, LABELS).loader(Images(PIXELS, LABELS), made, CPU, augment=True)
    disk = source.loader(source, made, CPU, augment=True)
    disk.workers = workers
    parts = torch.randperm(9, generator=RNG).split(4)
    for loader in (memory, disk):
        loader.start_epoch(torch.Generator().manual_seed(3))
    for augment in (True, False):
        for mine, theirs in zip(memory.batches(parts, augment), disk.batches(parts, augment), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    plain = ImageLoader(Images(PIXELS, LABELS), PIXELS, CPU)
    assert torch.equal(memory.batch(parts[0], augment=False)[0], plain.batch(parts[0])[0])


def test_a_samples_augmentation_depends_on_the_epoch_and_not_on_its_batch() -> None:
    loader = Images(PIXELS, LABELS).loader(Images(PIXELS, LABELS), recipe(**ALL), CPU, augment=True)
    loader.start_epoch(torch.Generator().manual_seed(3))
    whole, some = loader.batch(torch.arange(9))[0], loader.batch(torch.tensor([7, 2]))[0]
    assert torch.equal(some, whole[[7, 2]])
    loader.start_epoch(torch.Generator().manual_seed(4))
    assert not torch.equal(loader.batch(torch.arange(9))[0], whole)


def test_grey_images_can_be_augmented() -> None:
    grey = Images(PIXELS[:, :1], LABELS)
    loader = grey.loader(grey, recipe(**ALL), CPU, augment=True)
    loader.start_epoch(torch.Generator().manual_seed(0))
    assert loader.batch(torch.arange(9))[0].shape == (9, 1, 8, 8)


def smooth(width: int, height: int) -> Image.Image:
    x, y = torch.arange(width).view(1, -1), torch.arange(height).view(-1, 1)
    pixels = torch.stack([(x * 2 + y).clamp(max=255), (x + y * 2).clamp(max=255), (x + y) // 2], 2)
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def test_images_on_disk_are_trained_and_tested_at_their_sizes(tmp_path: Path) -> None:
    smooth(96, 64).save(tmp_path / "a.png")
    files = ImageFiles(FolderFiles(tmp_path, ["a.png"] * 3), torch.tensor([0, 1, 0]), 32)
    made = recipe(train_size=24, test_size=28, crop_ratio=0.7)
    train, test = (files.loader(files, made, CPU, augment) for augment in (True, False))
    rows = torch.arange(3)
    assert train.batch(rows)[0].shape == (3, 3, 24, 24)
    assert test.batch(rows, augment=False)[0].shape == (3, 3, 28, 28)
    assert train.batch(rows, augment=False)[0].shape == (3, 3, 28, 28)
    whole = files.scaled(0, None)
    assert whole.shape == (3, 64, 96)
    reference = F.center_crop(F.resize(whole, [40], antialias=True), [28, 28])  # 40 = 28 / 0.7
    found = test.batch(rows, augment=False)[0][0]
    expected = test.normalised(reference[None])[0]
    assert float((found - expected).abs().max() * (1 / test.scale).max()) <= 2, "two greys of 256"
    cropped = files.loader(files, recipe(**ALL, train_size=24), CPU, augment=True)
    cropped.start_epoch(torch.Generator().manual_seed(0))
    assert cropped.batch(rows)[0].shape == (3, 3, 24, 24)
    own = cropped.own
    assert own is not None
    assert torch.equal(cropped.batch(rows)[0][1], cropped.normalised(own(whole, int(cropped.seeds[1]))[None])[0])


def test_images_on_disk_that_are_decoded_into_memory_have_their_sizes_too(tmp_path: Path) -> None:
    for name in "abc":
        smooth(96, 64 + ord(name)).save(tmp_path / f"{name}.png")
    files = ImageFiles(FolderFiles(tmp_path, ["a.png", "b.png", "c.png"]), torch.tensor([0, 1, 0]), 32)
    rows, labels = torch.tensor([2, 0]), torch.tensor([1, 1])
    memory, disk = (source.at(rows).relabelled(labels) for source in (files.decoded(), files))
    assert memory.fingerprint != disk.fingerprint, "of pixels, and of files"
    for made in (recipe(train_size=24), recipe(train_size=24, test_size=28), recipe(), recipe(**ALL)):
        for augment in (True, False):
            loaders = [source.loader(source, made, CPU, augment) for source in (memory, disk)]
            for loader in loaders:
                loader.start_epoch(torch.Generator().manual_seed(0))
            found, expected = (loader.batch(torch.arange(2), augment) for loader in loaders)
            assert torch.equal(found[0], expected[0])
            assert found[1].tolist() == expected[1].tolist() == [1, 1]


def test_the_distribution_is_found_once_for_a_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    plain = images._std_mean
    monkeypatch.setattr(images, "_std_mean", lambda like: found.append(len(like)) or plain(like))
    Images(PIXELS, LABELS).loader(Images(PIXELS, LABELS), recipe(**ALL), CPU, augment=True)
    assert found == [9]


def test_a_model_is_made_for_the_training_size() -> None:
    made = recipe(train_size=6, test_size=6)
    assert made.shape((3, 8, 8)) == (3, 6, 6)
    of = Learner("mlp[width=2,depth=1]", made, Classification(2, made), (3, 8, 8), 0, CPU)
    assert of.forward(torch.zeros(2, 3, 6, 6)).shape == (2, 2)


def test_a_model_that_does_not_take_the_size_of_a_test_is_refused_before_it_is_trained() -> None:
    for made, size in ((recipe(train_size=6), 6), (recipe(test_size=6), 8)):
        with pytest.raises(UsageError, match=rf"mlp.*, made for {size} pixels.*; say test_size: {size} \("):
            Learner("mlp[width=2,depth=1]", made, Classification(2, made), (3, 8, 8), 0, CPU)
    made = recipe(train_size=9)
    of = Learner("cnn[width=2]", made, Classification(2, made), (3, 8, 8), 0, CPU)
    assert of.network.training


def test_fields_of_images_on_disk_and_of_images_are_refused_elsewhere() -> None:
    images = Images(PIXELS, LABELS)
    with pytest.raises(UsageError, match="train_size and test_size are for images on disk"):
        images.loader(images, recipe(test_size=8), CPU, augment=False)
    from dpbench import catalog

    full = catalog.load_method("full")
    for field, value in {**ALL, "train_size": 8}.items():
        assert recipe(**{field: value}).unfit(Table.kind, full) == f"{field} is for images, not for tables"
        assert recipe(**{field: value}).unfit(Images.kind, full) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": "resized_crop_flip", "pad": 4}, "pad is for the augment crop or crop_flip, not for resized_crop"),
        ({"augment": "none", "pad": 4}, "pad is for the augment crop or crop_flip, not for none"),
        ({"augment": "crop"}, "augment and pad go together"),
        ({"scale": [0.5, 1.0]}, "scale is for the augment resized_crop_flip, not for none"),
        ({"augment": "resized_crop_flip", "scale": [0.5, 0.2]}, r"scale and ratio are ranges \[low, high\]"),
        ({"magnitude": 5}, "magnitude is of randaugment, which has no operations"),
        ({"crop_ratio": 0.9}, "crop_ratio goes with test_size"),
    ],
)
def test_an_impossible_mixture_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**changes)
