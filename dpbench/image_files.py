"""Images on disk: decoded by workers that read ahead, then augmented and normalised as images in memory are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dpbench.data import Source, count_faults, label_faults
from dpbench.errors import RunFailed
from dpbench.images import PixelLoader, shrunk

if TYPE_CHECKING:
    from dpbench.spec import Recipe

NORMALISED_BY = 10_000  # images at most, evenly spaced, whose distribution normalises


@dataclass(frozen=True)
class ImageFiles(Source):
    """The images `files` (n paths under `root`) in any format that Pillow reads, with labels (n,) int64.

    Each is brought to 3 x `side` x `side`: its short side is scaled to `side`, and the middle is cut out.
    """

    kind = "images"

    root: Path
    files: list[str]
    labels: Tensor
    side: int

    @property
    def shape(self) -> tuple[int, ...]:
        """One image's (c, h, w), as it is decoded."""
        return (3, self.side, self.side)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The labels; the files are too much to be hashed byte by byte."""
        return (self.labels,)

    @property
    def fingerprint(self) -> str:
        """The hash of the labels and of the files' names, sizes and times."""
        found = hashlib.sha256(repr((super().fingerprint, self.side)).encode())
        for name in self.files:
            stat = (self.root / name).stat()
            found.update(repr((name, stat.st_size, stat.st_mtime_ns)).encode())
        return found.hexdigest()

    def at(self, rows: Tensor) -> ImageFiles:
        """The samples at `rows`."""
        return ImageFiles(self.root, [self.files[row] for row in rows.tolist()], self.labels[rows], self.side)

    def picture(self, row: int) -> Tensor:
        """The image of a sample, as the model sees it."""
        return decode(self.root / self.files[row], self.side)

    def features(self) -> Tensor:
        """The pixels of the images, shrunk; each file is decoded once."""
        return torch.cat([shrunk(self.picture(row)[None]) for row in range(len(self))])

    def faults(self, part: str) -> list[str]:
        """What is wrong with the labels and the list of files."""
        found = label_faults(part, self.labels)
        return found or count_faults(part, "images", len(self.files), self.labels)

    @cached_property
    def sampled(self) -> Tensor:
        """The images (m, 3, side, side), all of them or NORMALISED_BY evenly spaced ones, that normalise."""
        rows = torch.linspace(0, len(self) - 1, min(len(self), NORMALISED_BY)).round().long()
        return torch.stack([self.picture(row) for row in rows.tolist()])

    def loader(self, like: Source, recipe: Recipe, device: torch.device, augment: bool) -> FileLoader:
        """Batches as the recipe wants them, decoded ahead by as many workers as this process has threads to spare."""
        assert isinstance(like, ImageFiles)
        threads = torch.get_num_threads()
        how = recipe.augment if augment else "none"
        return FileLoader(
            self, like.sampled, device, how, recipe.pad, recipe.channels_last, threads if threads > 1 else 0
        )


class FileLoader(PixelLoader):
    """Images that are decoded when a batch asks for them."""

    def __init__(
        self,
        source: ImageFiles,
        like: Tensor,
        device: torch.device,
        augment: str = "none",
        pad: int = 0,
        channels_last: bool = False,
        workers: int = 0,
    ) -> None:
        super().__init__(source.labels, like, device, augment, pad, channels_last)
        self.files, self.workers = _Decoded(source), workers

    def batch(self, rows: Tensor, augment: bool = True) -> tuple[Tensor, Tensor]:
        """Return the images (b, 3, h, w) in float32 and the labels (b,) of `rows`."""
        return next((inputs, labels) for _, inputs, labels in self._batches([rows], augment, workers=0))

    def batches(self, parts: Iterable[Tensor], augment: bool = True) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The rows of each of `parts` with their images and labels, in that order, read ahead."""
        parts = list(parts)
        return self._batches(parts, augment, min(self.workers, len(parts)))

    def _batches(self, parts: list[Tensor], augment: bool, workers: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        lists = [rows.tolist() for rows in parts]
        draws = torch.Generator()  # the reader draws a seed, which is not to come from the training's generator
        reader = DataLoader(
            self.files, batch_sampler=lists, num_workers=workers, collate_fn=torch.stack, generator=draws
        )
        for rows, pixels in zip(parts, reader, strict=True):
            images = self.padded(pixels.to(self.labels.device))
            at = torch.arange(len(rows), device=self.labels.device)
            yield rows, self.cut(images, at, rows, augment), self.labels[rows]


class _Decoded(Dataset[Tensor]):
    """Row to pixels, for the workers."""

    def __init__(self, source: ImageFiles) -> None:
        self.source = source

    def __getitem__(self, row: int) -> Tensor:
        return self.source.picture(row)


def decode(file: Path, side: int) -> Tensor:
    """The image of a file as (3, side, side) uint8; RunFailed for one that cannot be decoded.

    A JPEG is decoded at the smallest scale that is large enough, which is several times as fast.
    """
    try:
        with Image.open(file) as opened:
            opened.draft("RGB", (side, side))
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0][:200]
        raise RunFailed(f"{file}: not an image that can be read: {reason}") from None
    if image.size != (side, side):
        image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
