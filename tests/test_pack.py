"""Packs against the folder that they were made of, and what a file must not be."""

import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpbench import catalog, folders, pack
from dpbench.errors import RunFailed, UsageError
from dpbench.image_files import FileLoader, ImageFiles

CPU = torch.device("cpu")
CLASSES = ("n00000001", "n00000002", "n00000003")
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """JPEGs and a PNG of several sizes, in the folders train and val of one folder."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 7), ("val", 2)):
        for name in CLASSES:
            (tmp_path / "i" / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (6, 8 + i, 3), np.uint8)
                picture = Image.fromarray(pixels).resize((60 + i, 40))
                picture.save(tmp_path / "i" / part / name / (f"{i}.png" if i == 3 else f"{i}.JPEG"))
    return tmp_path / "i"


@pytest.fixture
def packed(images: Path) -> Path:
    pack.write(images / "train.pack", *folders.listed(images / "train"))
    return images / "train.pack"


def test_a_pack_gives_the_pixels_of_its_folder_bit_for_bit(images: Path, packed: Path) -> None:
    files, labels, classes = folders.listed(images / "train")
    found, known, names = pack.read(packed)
    assert names == classes == list(CLASSES)
    assert torch.equal(known, labels)
    assert [found.read(row) for row in range(len(found))] == [files.read(row) for row in range(len(files))]
    sources = [ImageFiles(each, labels, 16) for each in (files, found)]
    parts = torch.randperm(21, generator=torch.Generator().manual_seed(0)).split(8)
    batches = []
    for source in sources:
        loader = FileLoader(source, source.sampled, CPU, "crop_flip", 2, workers=2)
        loader.start_epoch(torch.Generator().manual_seed(1))
        batches.append(list(loader.batches(parts)))
    for mine, theirs in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_rows_of_a_pack_stay_what_they_are(packed: Path) -> None:
    found, _, _ = pack.read(packed)
    some = found.at(torch.tensor([20, 3])).at(torch.tensor([1]))
    assert some.read(0) == found.read(3)
    assert some.name(0) == f"{packed}: row 3 (n00000001/3.png)"
    assert found.identity() != found.at(torch.arange(21).flip(0)).identity()


def test_the_same_images_have_the_same_fingerprint_anywhere(images: Path, packed: Path) -> None:
    pack.write(images / "again.pack", *folders.listed(images / "train"))
    sources = [ImageFiles(*pack.read(path)[:2], 16) for path in (packed, images / "again.pack")]
    assert sources[0].fingerprint == sources[1].fingerprint
    file = images / "train" / CLASSES[0] / "0.JPEG"
    Image.new("RGB", (60, 40)).save(file)
    pack.write(images / "again.pack", *folders.listed(images / "train"))
    assert ImageFiles(*pack.read(images / "again.pack")[:2], 16).fingerprint != sources[0].fingerprint


def test_images_are_shrunk_to_a_short_side(images: Path) -> None:
    pack.write(images / "small.pack", *folders.listed(images / "train"), side=20)
    found, _, _ = pack.read(images / "small.pack")
    files, _, _ = folders.listed(images / "train")
    sizes = []
    for row in range(len(found)):
        (images / "one").write_bytes(found.read(row))
        with Image.open(images / "one") as picture:
            sizes.append(picture.size)
            assert picture.format == "JPEG"
    assert sizes[:7] == [(round((60 + i) / 2), 20) for i in range(7)]
    mine, theirs = (ImageFiles(each, torch.zeros(21).long(), 16).picture(0) for each in (found, files))
    assert (mine.float() - theirs.float()).abs().mean() < 12, "the same picture"
    pack.write(images / "same.pack", *folders.listed(images / "train"), side=40)
    assert pack.read(images / "same.pack")[0].read(5) == files.read(5), "no larger: its own bytes"


def changed(content: bytes, at: int, to: bytes) -> bytes:
    return content[:at] + to + content[at + len(to) :]


def with_index(content: bytes, index: bytes) -> bytes:
    """The pack with another index that has its right checksum and length."""
    magic, version, _, n, at, _ = pack.HEAD.unpack(content[: pack.HEAD.size])
    return pack.HEAD.pack(magic, version, zlib.crc32(index), n, at, len(index)) + content[pack.HEAD.size : at] + index


def index_of(content: bytes) -> bytes:
    return content[pack.HEAD.unpack(content[: pack.HEAD.size])[4] :]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda c: b"", "it does not begin as one"),
        (lambda c: b"\x89PNG" + c, "it does not begin as one"),
        (lambda c: changed(c, 8, struct.pack("<I", 2)), "it has version 2; this dpbench reads version 1"),
        (lambda c: c[:-1], "it is cut short"),
        (lambda c: c[: len(c) // 2], "it is cut short"),
        (lambda c: c[: pack.HEAD.size + 3], "it is cut short"),
        (lambda c: changed(c, 16, struct.pack("<Q", 2**60)), "it is cut short"),
        (lambda c: changed(c, len(c) - 9, b"x"), "its index is damaged"),
        (lambda c: with_index(c, index_of(c)[:-1] + b"]"), "not a pack of dpbench"),
        (lambda c: with_index(c, changed(index_of(c), 8 * 22, b"\x09")), "its index does not fit its images"),
        (lambda c: with_index(c, changed(index_of(c), 8, b"\xff\xff\xff")), "its images do not follow each other"),
    ],
)  # fmt: skip
def test_what_is_no_whole_pack_is_refused_in_one_line(spoil: Any, said: str, packed: Path) -> None:
    packed.write_bytes(spoil(packed.read_bytes()))
    with pytest.raises(UsageError) as caught:
        pack.read(packed)
    line = str(caught.value)
    assert line.startswith(f"{packed}: not a pack of dpbench: ")
    assert said in line
    assert "\n" not in line


def test_a_damaged_image_is_named_with_its_row(packed: Path) -> None:
    found, labels, _ = pack.read(packed)
    content = packed.read_bytes()
    packed.write_bytes(changed(content, int(found.starts[5]) + 30, b"damaged"))
    found, _, _ = pack.read(packed)
    line = f"{packed}: row 5 (n00000001/5.JPEG): not the bytes that were packed; the file is damaged"
    assert list(ImageFiles(found, labels, 16).broken()) == [(5, line)]


def test_a_pack_or_picture_that_is_gone_is_named(images: Path, packed: Path) -> None:
    found, labels, _ = pack.read(packed)
    files, *_ = folders.listed(images / "val")
    packed.unlink()
    (line,) = {why.partition(": ")[2] for _, why in ImageFiles(found.at(torch.tensor([5])), labels[5:6], 16).broken()}
    assert line == "row 5 (n00000001/5.JPEG): No such file or directory"
    Path(files.name(0)).unlink()
    with pytest.raises(RunFailed, match=r"\.JPEG: No such file or directory; it was there a moment ago"):
        files.identity()


# as datasets


def test_folders_and_packs_are_one_dataset(images: Path, packed: Path) -> None:
    pack.write(images / "val.pack", *folders.listed(images / "val"))
    folder = catalog.load_dataset("folder[path=i,side=16]").load(images.parent)
    official = catalog.load_dataset("imagenet[side=16]").load(images)
    assert torch.equal(official.test.images, folder.test.images)
    for part in ("train", "val"):
        (images / part).rename(images / f"no {part}")
    again = catalog.load_dataset("imagenet[side=16]").load(images)
    assert again.fingerprint == official.fingerprint, "what comes into memory is the pixels, wherever they came from"
    alone = catalog.load_dataset("folder[path=i/train.pack,side=16,test=0.3]").load(images.parent)
    assert (len(alone.train) + len(alone.validation), len(alone.test)) == (14, 7)


def test_classes_of_a_pack_are_told_by_name(images: Path, packed: Path) -> None:
    for file in (images / "val" / CLASSES[0]).iterdir():
        file.unlink()
    (images / "val" / CLASSES[0]).rmdir()
    pack.write(images / "val.pack", *folders.listed(images / "val"))
    (images / "val").rename(images / "no val")
    _, test, _ = folders.pair(packed, images / "val.pack", 16)
    assert test.labels.tolist() == [1, 1, 2, 2]
    _, labels, _ = pack.read(images / "val.pack")
    files, _, _ = folders.listed(images / "no val")
    pack.write(images / "val.pack", files, labels, ["n00000002", "n99999999"])
    with pytest.raises(UsageError, match=r"val\.pack: n99999999 is a class that the training pictures do not have"):
        folders.pair(packed, images / "val.pack", 16)


def test_imagenet_says_how_to_get_it_and_what_is_no_imagenet(tmp_path: Path, images: Path) -> None:
    with pytest.raises(UsageError, match=r"imagenet: there are no train and val.*image-net\.org.*--data-root"):
        catalog.load_dataset("imagenet").load(tmp_path)
    for part in ("train", "val"):
        (images / part / CLASSES[1]).rename(images / part / "cat")
    with pytest.raises(UsageError, match="the class cat is no WordNet id"):
        catalog.load_dataset("imagenet").load(images)


# the commands


def test_pack_and_check(images: Path, command: Command, tmp_path: Path) -> None:
    home = tmp_path / "home"
    whole = command("data", "pack", images, tmp_path / "x.pack", home=home)
    assert whole.returncode == 2
    assert "has train and val, which are packed one by one" in whole.stderr
    done = command("data", "pack", images / "train", tmp_path / "x.pack", home=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'x.pack'}: 21 images of 3 classes, ")
    right = command("data", "check", f"folder:{tmp_path / 'x.pack'}", "--workers", "1", home=home)
    assert (right.returncode, right.stdout) == (
        0, f"folder:{tmp_path / 'x.pack'}: 16 training samples, 5 test samples, all can be read\n"
    )  # fmt: skip
    for name in ("0.JPEG", "3.png"):
        file = images / "train" / CLASSES[1] / name
        file.write_bytes(file.read_bytes()[:80])
    wrong = command("data", "check", f"folder:{images}", home=home)
    assert wrong.returncode == 1
    first, second = wrong.stdout.splitlines()
    assert first.startswith(f"training sample 7: {images}/train/{CLASSES[1]}/0.JPEG: not an image that can be read: ")
    assert f"{CLASSES[1]}/3.png: not an image" in second
    assert wrong.stderr == f"dpbench: folder:{images}: 2 of 27 samples cannot be read\n"


def test_check_tells_what_reading_refuses(command: Command, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    done = command("data", "check", f"table:{tmp_path / 't.csv'}", home=tmp_path / "home")
    assert done.returncode == 1
    assert "has no column 'label'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pack_that_shrinks_names_what_it_cannot_read(images: Path) -> None:
    file = images / "train" / CLASSES[0] / "1.JPEG"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunFailed, match=r"1\.JPEG: not an image that can be read"):
        pack.write(images / "x.pack", *folders.listed(images / "train"), side=20)
    assert not (images / "x.pack").exists()
