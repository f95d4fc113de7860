"""Splits, label noise, augmentation against a reference of one sample at a time, and the datasets' files."""

import gzip
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dpbench import catalog
from dpbench.data import Data, Dataset
from dpbench.errors import UsageError
from dpbench.images import ImageLoader, Images

CPU = torch.device("cpu")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


class Numbered(Dataset):
    """Images whose two pixels tell the sample's number."""

    n: int = 500

    def read(self, root: Path | None) -> tuple[Images, Images]:
        numbers = torch.arange(self.n)
        pixels = torch.stack([numbers // 256, numbers % 256], 1).to(torch.uint8).view(self.n, 1, 1, 2)
        split = Images(pixels, numbers % 5)
        return split, Images(pixels[:50], split.labels[:50])


def numbers(split: Images) -> list[int]:
    return [256 * high + low for high, low in split.images.view(-1, 2).tolist()]


# splits


@pytest.mark.parametrize(("n", "held_out"), [(500, 50), (14, 1), (3, 1)])
def test_split_is_exact_disjoint_and_whole(n: int, held_out: int) -> None:
    data = Numbered(n=n).load()
    train, validation = numbers(data.train), numbers(data.validation)
    assert len(validation) == held_out
    assert sorted(train + validation) == list(range(n))
    assert numbers(data.test) == list(range(min(n, 50)))
    assert data.classes == min(n, 5)
    assert data.shape == (1, 1, 2)
    for split in (data.train, data.validation):
        assert split.labels.tolist() == [number % 5 for number in numbers(split)]


def test_split_is_the_same_every_time_and_not_the_first_samples() -> None:
    one, two = Numbered().load(), Numbered().load()
    assert numbers(one.validation) == numbers(two.validation)
    assert numbers(one.train) == numbers(two.train)
    assert max(numbers(one.validation)) > 250 > min(numbers(one.validation))


@pytest.mark.parametrize("share", [0.1, 0.37])
def test_label_noise_is_exact_and_in_the_training_labels_only(share: float) -> None:
    clean, noisy = Numbered().load(), Numbered(label_noise=share).load()
    assert clean.noisy is None
    assert noisy.noisy is not None
    assert int(noisy.noisy.count_nonzero()) == round(share * 450)
    assert torch.equal(noisy.noisy, clean.train.labels != noisy.train.labels)
    assert torch.equal(clean.train.images, noisy.train.images)
    assert torch.equal(clean.validation.labels, noisy.validation.labels)
    assert torch.equal(clean.test.labels, noisy.test.labels)
    assert noisy.train.labels[noisy.noisy].unique().tolist() == [0, 1, 2, 3, 4]
    again = Numbered(label_noise=share).load()
    assert torch.equal(again.train.labels, noisy.train.labels)


# the loader


@pytest.fixture
def images() -> Tensor:
    return torch.randint(256, (40, 3, 6, 5), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def loader(images: Tensor, **options: object) -> ImageLoader:
    return ImageLoader(Images(images, torch.arange(len(images))), images, CPU, **options)  # type: ignore[arg-type]


def normalised(images: Tensor, like: Tensor) -> Tensor:
    axes = (0, 2, 3)
    mean, std = like.float().mean(axes), like.float().std(axes, correction=0)
    return (images.float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def test_images_are_normalised_by_channel(images: Tensor) -> None:
    found, labels = loader(images).batch(torch.arange(40))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, normalised(images, images))
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3), correction=0), torch.ones(3))
    assert labels.tolist() == list(range(40))
    some = ImageLoader(Images(images[:4], torch.arange(4)), images, CPU).batch(torch.tensor([3, 1]))
    torch.testing.assert_close(some[0], found[[3, 1]])


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    found, _ = loader(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8)).batch(torch.arange(4))
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("augment", ["crop", "crop_flip"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_augmentation_equals_that_of_one_sample_at_a_time(images: Tensor, augment: str, channels_last: bool) -> None:
    pad, rows = 2, torch.tensor([7, 0, 39, 12])
    batches = loader(images, augment=augment, pad=pad, channels_last=channels_last)
    batches.start_epoch(torch.Generator().manual_seed(5))
    found, _ = batches.batch(rows)
    padded = F.pad(normalised(images, images), (pad,) * 4, mode="reflect")
    for image, row in zip(found, rows.tolist(), strict=True):
        y, x = int(batches.dy[row]), int(batches.dx[row])
        expected = padded[row, :, y : y + 6, x : x + 5]
        if augment == "crop_flip" and batches.flip[row]:
            expected = expected.flip(2)
        torch.testing.assert_close(image, expected)
    assert found.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_every_shift_and_both_directions_occur_equally_often() -> None:
    batches = loader(torch.zeros(5000, 1, 6, 5, dtype=torch.uint8), augment="crop_flip", pad=2)
    batches.start_epoch(torch.Generator().manual_seed(0))
    for shift in (batches.dy, batches.dx):
        assert (torch.bincount(shift, minlength=5).float() / 5000 - 0.2).abs().max() < 4 * (0.16 / 5000) ** 0.5
    assert abs(float(batches.flip.float().mean()) - 0.5) < 4 * (0.25 / 5000) ** 0.5
    assert not torch.equal(batches.dy, batches.dx)


def test_a_samples_augmentation_depends_on_the_epoch_only(images: Tensor) -> None:
    batches = loader(images, augment="crop_flip", pad=2)
    batches.start_epoch(torch.Generator().manual_seed(3))
    whole, _ = batches.batch(torch.arange(40))
    part, _ = batches.batch(torch.tensor([30, 2]))
    assert torch.equal(part, whole[[30, 2]])
    batches.start_epoch(torch.Generator().manual_seed(4))
    assert not torch.equal(batches.batch(torch.arange(40))[0], whole)


def test_without_augmentation_the_images_come_as_they_are(images: Tensor) -> None:
    batches = loader(images, augment="crop_flip", pad=2)
    batches.start_epoch(torch.Generator().manual_seed(3))
    found, _ = batches.batch(torch.arange(40), augment=False)
    torch.testing.assert_close(found, normalised(images, images))


# the fingerprint


def made(**changes: Any) -> Data:
    """A small dataset, with some of its parts exchanged."""
    splits = {}
    for i, name in enumerate(("train", "validation", "test")):
        images, labels = torch.arange(8 * 4).to(torch.uint8).view(8, 1, 2, 2) + i, torch.arange(8) % 2
        splits[name] = Images(changes.get(f"{name}_images", images), changes.get(f"{name}_labels", labels))
    positions, noisy, trusted = changes.get("positions", torch.arange(8)), changes.get("noisy"), changes.get("trusted")
    return Data(**splits, classes=2, positions=positions, total=8, noisy=noisy, trusted=trusted)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_pixel_or_label_of_any_split_makes_another_fingerprint(split: str) -> None:
    before = made().fingerprint
    assert re.fullmatch("[0-9a-f]{16}", before)
    assert made().fingerprint == before
    for part, place in (("images", (7, 0, 1, 1)), ("labels", (7,)), ("images", (0, 0, 0, 0)), ("labels", (0,))):
        values = getattr(getattr(made(), split), part).clone()
        values[place] ^= 1
        assert made(**{f"{split}_{part}": values}).fingerprint != before


def test_shapes_kinds_positions_and_noise_are_in_the_fingerprint() -> None:
    whole = made()
    others = [
        made(train_images=whole.train.images.view(8, 1, 1, 4)),
        made(train_images=whole.train.images.view(8, 2, 2, 1)),
        made(train_labels=whole.train.labels.double()),
        made(positions=torch.arange(8) + 1),
        made(noisy=torch.zeros(8, dtype=torch.bool)),
        made(noisy=torch.ones(8, dtype=torch.bool)),
        made(trusted=whole.train),
        replace(whole, classes=3),
        replace(whole, train=whole.validation, validation=whole.train),
    ]
    assert len({data.fingerprint for data in [whole, *others]}) == 1 + len(others)


def test_the_layout_in_memory_is_not_in_the_fingerprint() -> None:
    images = made().train.images
    assert made(train_images=images.transpose(2, 3).contiguous().transpose(2, 3)).fingerprint == made().fingerprint


# what a dataset of one's own may get wrong

IMAGES, LABELS = torch.zeros(20, 1, 2, 2, dtype=torch.uint8), torch.arange(20) % 2
RIGHT = Images(IMAGES, LABELS)


@pytest.mark.parametrize(
    ("found", "faults"),
    [
        (None, ["Own.read returned NoneType; two sources of one kind are needed, the training and the test samples"]),
        ((RIGHT,),
         ["Own.read returned ['Images']; two sources of one kind are needed, the training and the test samples"]),
        ((Images(IMAGES.float(), LABELS), RIGHT), ["Own: training images are torch.float32; torch.uint8 is needed"]),
        ((Images(IMAGES[:, 0], LABELS), RIGHT),
         ["Own: training images are of shape (20, 2, 2); (n, c, h, w) is needed"]),
        ((RIGHT, Images(IMAGES, LABELS.int())), ["Own: test labels are torch.int32; torch.int64 is needed"]),
        ((RIGHT, Images(IMAGES, LABELS[:, None])), ["Own: test labels are of shape (20, 1); (n,) is needed"]),
        ((RIGHT, Images(IMAGES.numpy(), LABELS)), ["Own: test images are ndarray; a tensor is needed"]),
        ((Images(IMAGES, LABELS[:19]), RIGHT), ["Own: 20 training images have 19 labels"]),
        ((Images(IMAGES, LABELS - 1), RIGHT), ["Own: training labels reach down to -1; they begin at 0"]),
        ((Images(IMAGES, LABELS + 1), RIGHT.at(LABELS.nonzero()[:, 0])),
         ["Own: labels reach 2, but no sample has 0; label C classes 0..C-1"]),
        ((Images(IMAGES, 9 * LABELS), RIGHT), ["Own: labels reach 9, but no sample has 2; label C classes 0..C-1"]),
        ((Images(IMAGES, 0 * LABELS), Images(IMAGES, 0 * LABELS)),
         ["Own: all labels are 0; at least two classes are needed"]),
        ((RIGHT, Images(IMAGES[:0], LABELS[:0])),
         ["Own: test images are empty, of shape (0, 1, 2, 2)", "Own: test labels are empty, of shape (0,)"]),
        ((RIGHT, Images(IMAGES.view(20, 1, 1, 4), LABELS)),
         ["Own: training samples are of shape (1, 2, 2), test samples of shape (1, 1, 4)"]),
        ((RIGHT.at(torch.tensor([1])), RIGHT),
         ["Own: 1 of 1 training samples are held out for validation (validation = 0.1); none is left to train on"]),
        ((Images(IMAGES.float(), LABELS[:, None]), Images(IMAGES, LABELS.float())),
         ["Own: training images are torch.float32; torch.uint8 is needed",
          "Own: training labels are of shape (20, 1); (n,) is needed",
          "Own: test labels are torch.float32; torch.int64 is needed"]),
    ],
)  # fmt: skip
def test_each_fault_of_a_dataset_has_its_line(found: Any, faults: list[str]) -> None:
    class Own(Dataset):
        def read(self, root: Path | None) -> Any:
            return found

    with pytest.raises(UsageError) as caught:
        Own().load()
    assert str(caught.value).splitlines() == faults


def test_what_reading_raises_is_told_in_one_line() -> None:
    class Own(Dataset):
        def read(self, root: Path | None) -> Any:
            raise KeyError("images")

    with pytest.raises(UsageError, match=r"^Own\.read raised KeyError: 'images'$"):
        Own().load()


# the built-in datasets


def test_digits() -> None:
    data = catalog.load_dataset("digits").load()
    assert [len(split) for split in (data.train, data.validation, data.test)] == [1212, 135, 450]
    assert (data.classes, data.shape, data.train.images.dtype) == (10, (1, 8, 8), torch.uint8)
    assert int(data.train.images.max()) == 255
    assert torch.bincount(data.test.labels).min() >= 43, "the test part is stratified"


def synthetic(**params: object) -> Data:
    return catalog.load_dataset(catalog.label("synthetic", params)).load()


def test_synthetic_is_of_the_size_asked_for_and_seeded() -> None:
    data = synthetic(n=200, n_test=30, d=9, classes=3)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [180, 20, 30]
    assert (data.classes, data.shape) == (3, (1, 3, 3))
    assert synthetic(d=7).shape == (1, 1, 7)
    assert torch.equal(data.train.images, synthetic(n=200, n_test=30, d=9, classes=3).train.images)
    assert not torch.equal(data.train.images, synthetic(n=200, n_test=30, d=9, classes=3, data_seed=1).train.images)
    counts = torch.bincount(torch.cat([data.train.labels, data.validation.labels, data.test.labels]))
    assert int(counts.max() - counts.min()) <= 1
    with pytest.raises(UsageError, match="classes = 10 is more than n = 5"):
        synthetic(n=5)


# Fashion-MNIST's files


def idx(array: np.ndarray) -> bytes:
    """The IDX format, written from its description: zero, zero, 8 for unsigned bytes, axes, sizes, data."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for part, n in (("train", 24), ("t10k", 6)):
        found[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28))
        found[f"{part}-labels-idx1-ubyte"] = np.arange(n) % 3
    return found


def write(folder: Path, arrays: dict[str, np.ndarray], compressed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
def test_fashion_mnist_reads_idx_files(
    tmp_path: Path, arrays: dict[str, np.ndarray], compressed: bool, layout: str
) -> None:
    write(tmp_path / layout, arrays, compressed)
    dataset = catalog.load_dataset("fashion_mnist")
    samples, test = dataset.read(tmp_path)
    for split, part in ((samples, "train"), (test, "t10k")):
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        np.testing.assert_array_equal(split.images[:, 0].numpy(), arrays[f"{part}-images-idx3-ubyte"])
        np.testing.assert_array_equal(split.labels.numpy(), arrays[f"{part}-labels-idx1-ubyte"])
    data = dataset.load(tmp_path)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [22, 2, 6]


@pytest.mark.parametrize("cut", [0, 3, 10, 100])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_file_cut_short_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], cut: int, compressed: bool) -> None:
    write(tmp_path, arrays, compressed)
    file = tmp_path / ("train-images-idx3-ubyte" + (".gz" if compressed else ""))
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte.* cut short"):
        catalog.load_dataset("fashion_mnist").load(tmp_path)


def test_another_kind_of_file_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    write(tmp_path, arrays, compressed=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"\x00\x00\x0d\x01\x00\x00\x00\x06" + bytes(24))
    with pytest.raises(UsageError, match=r"t10k-labels-idx1-ubyte is not an IDX file of unsigned bytes"):
        catalog.load_dataset("fashion_mnist").load(tmp_path)


def test_missing_files_come_with_instructions(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError, match=r"no train-images-idx3-ubyte.gz in .*apt install .*torchvision.*--data-root"):
        catalog.load_dataset("fashion_mnist").load(tmp_path)
    arrays.pop("t10k-labels-idx1-ubyte")
    write(tmp_path, arrays, compressed=True)
    with pytest.raises(UsageError, match=r"no t10k-labels-idx1-ubyte.gz in"):
        catalog.load_dataset("fashion_mnist").load(tmp_path)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_of_debian() -> None:
    data = catalog.load_dataset("fashion_mnist").load()
    assert [len(split) for split in (data.train, data.validation, data.test)] == [55_000, 5_000, 10_000]
    assert (data.classes, data.shape) == (10, (1, 28, 28))
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
