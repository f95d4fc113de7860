"""Images on disk as their classes' folders have them, or as packs that were made of such folders."""

from __future__ import annotations

from pathlib import Path

import torch

from dpbench import pack
from dpbench.data import split_by_class
from dpbench.errors import UsageError
from dpbench.image_files import Files, FolderFiles, ImageFiles

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
TESTS = ("val", "test", "validation")  # what the images to test with are called


def parts(folder: Path) -> tuple[Path, Path] | None:
    """Where the training and the test images of a folder are, if they are apart: train and val, or packs of them."""
    found = [next(filter(Path.exists, _places(folder, names)), None) for names in (("train",), TESTS)]
    return (found[0], found[1]) if found[0] and found[1] else None


def _places(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [folder / (name + suffix) for name in names for suffix in ("", ".pack")]


def pair(train: Path, test: Path, side: int) -> tuple[ImageFiles, ImageFiles, list[str]]:
    """The training and the test images, and the names of the classes, which are the training images'."""
    files, labels, classes = _images(train)
    held_out, tested, known = _images(test)
    other = sorted(set(known) - set(classes))
    if other:
        raise UsageError(f"{test}: {other[0]} is a class that the training pictures do not have")
    where = torch.tensor([classes.index(name) for name in known])
    return ImageFiles(files, labels, side), ImageFiles(held_out, where[tested], side), classes


def halves(place: Path, side: int, test: float) -> tuple[ImageFiles, ImageFiles]:
    """The images of a folder or pack, the share `test` of each class apart."""
    files, labels, _ = _images(place)
    found = ImageFiles(files, labels, side)
    if found.labels.bincount().min() < 2:
        raise UsageError(f"{place} has a class with one picture; two are needed, one to test with")
    train, held_out = split_by_class(found.labels.numpy(), test)
    return found.at(torch.from_numpy(train)), found.at(torch.from_numpy(held_out))


def _images(place: Path) -> tuple[Files, torch.Tensor, list[str]]:
    """The images, their labels and the names of their classes."""
    return pack.read(place) if place.is_file() else listed(place)


def listed(folder: Path) -> tuple[FolderFiles, torch.Tensor, list[str]]:
    """The images in the folder of each class, in the order of their names; UsageError for a class without one."""
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise UsageError(f"{folder} has {len(classes)} folders; it needs one for each class, two at least")
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = (path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        found = sorted(str(path.relative_to(folder)) for path in inside)
        if not found:
            raise UsageError(f"{folder / name} has no pictures; every class needs some")
        names += found
        labels += [label] * len(found)
    return FolderFiles(folder, names), torch.tensor(labels), classes
