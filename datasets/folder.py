"""Pictures of one's own: a folder for each class, as torchvision's ImageFolder has them."""

from pathlib import Path

import torch

from dpbench.data import Dataset, UsageError, param, split_by_class
from dpbench.image_files import ImageFiles
from dpbench.images import Images

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
ROOM = 2**30  # bytes of decoded pictures that are kept in memory; more are decoded as they are needed


class Folder(Dataset):
    """The pictures of `path`/train/CLASS and `path`/val/CLASS (or test), or of `path`/CLASS.

    They are brought to `side` x `side` pixels. Without a folder of test pictures the share `test` of each class is
    held out.
    """

    path: str = param("")
    side: int = param(32, low=4, high=4096)
    test: float = param(0.2, low=0.01, high=0.9)
    kind = "images"

    def read(self, root: Path | None) -> tuple[ImageFiles | Images, ImageFiles | Images]:
        if not self.path:
            raise UsageError("folder: which? folder:PATH, a folder with one folder of pictures for each class")
        folder = (root or Path()) / self.path
        if not folder.is_dir():
            raise UsageError(f"folder: there is no folder {folder}")
        split = next((folder / name for name in ("val", "test", "validation") if (folder / name).is_dir()), None)
        if (folder / "train").is_dir() and split is not None:
            names = _classes(folder / "train")
            return self._kept(_files(folder / "train", names, self.side)), self._kept(_files(split, names, self.side))
        found = _files(folder, _classes(folder), self.side)
        if found.labels.bincount().min() < 2:
            raise UsageError(f"folder: {folder} has a class with one picture; two are needed, one to test with")
        rows = split_by_class(found.labels.numpy(), self.test)
        train, test = (found.at(torch.from_numpy(part)) for part in rows)
        return self._kept(train), self._kept(test)

    def _kept(self, found: ImageFiles) -> ImageFiles | Images:
        """The pictures decoded, where there is room for them."""
        if 3 * self.side**2 * len(found) > ROOM:
            return found
        return Images(torch.stack([found.picture(row) for row in range(len(found))]), found.labels)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(folder: Path) -> list[str]:
    names = _folders(folder)
    if len(names) < 2:
        raise UsageError(f"folder: {folder} has {len(names)} folders; it needs one for each class, two at least")
    return names


def _files(folder: Path, classes: list[str], side: int) -> ImageFiles:
    files, labels = [], []
    for label, name in enumerate(classes):
        inside = folder / name
        found = sorted(str(path.relative_to(folder)) for path in inside.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise UsageError(f"folder: {inside} has no pictures; every class needs some")
        files += found
        labels += [label] * len(found)
    if other := [name for name in _folders(folder) if name not in classes]:
        raise UsageError(f"folder: {folder / other[0]} is a class that the training pictures do not have")
    return ImageFiles(folder, files, torch.tensor(labels), side)
