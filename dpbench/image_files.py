"""Images on disk: decoded by workers that read ahead, then augmented and normalised as images in memory are."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dpbench.augment import Augment
from dpbench.data import Source, count_faults, label_faults
from dpbench.errors import RunFailed
from dpbench.images import Images, MakeAugment, PixelLoader, augmentation, shrunk

if TYPE_CHECKING:
    from dpbench.spec import Recipe

READ_AHEAD = 64  # images that a worker decodes at once when all are checked
UNKNOWN = "its format is not known"
NORMALISED_BY = 10_000  # images at most, evenly spaced, whose distribution normalises


class Files(Protocol):
    """Encoded images, of which each is read by itself: a folder's, or those of a pack."""

    def __len__(self) -> int: ...

    def at(self, rows: Tensor) -> Self:
        """The images at `rows`."""

    def name(self, row: int) -> str:
        """How messages call the image of a row."""

    def read(self, row: int) -> bytes:
        """The bytes of an image; RunFailed if they cannot be read."""

    def identity(self) -> bytes:
        """What a fingerprint is made of."""


@dataclass(frozen=True)
class FolderFiles:
    """The files `names` (n paths) under `root`."""

    root: Path
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def at(self, rows: Tensor) -> FolderFiles:
        """The files at `rows`."""
        return FolderFiles(self.root, [self.names[row] for row in rows.tolist()])

    def name(self, row: int) -> str:
        """The path of a file."""
        return str(self.root / self.names[row])

    def read(self, row: int) -> bytes:
        """The content of a file."""
        try:
            with open(self.name(row), "rb") as stream:
                return stream.read()
        except OSError as error:
            raise RunFailed(f"{self.name(row)}: not an image that can be read: {error.strerror}") from None

    def identity(self) -> bytes:
        """Names, sizes and times; the contents are too much to be hashed."""
        found = []
        for row, name in enumerate(self.names):
            try:
                stat = (self.root / name).stat()
            except OSError as error:
                raise RunFailed(f"{self.name(row)}: {error.strerror}; it was there a moment ago") from None
            found.append((name, stat.st_size, stat.st_mtime_ns))
        return repr(found).encode()


@dataclass(frozen=True)
class ImageFiles(Source):
    """The images `files` (n) in any format that Pillow reads, with labels (n,) int64.

    Each is brought to 3 x `side` x `side`: its short side is scaled to `side`, and the middle is cut out.
    """

    kind = "images"

    files: Files
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
        """The hash of the labels and of what identifies the files."""
        found = hashlib.sha256(repr((super().fingerprint, self.side)).encode())
        found.update(self.files.identity())
        return found.hexdigest()

    def at(self, rows: Tensor) -> ImageFiles:
        """The samples at `rows`."""
        return ImageFiles(self.files.at(rows), self.labels[rows], self.side)

    def picture(self, row: int) -> Tensor:
        """The image of a sample, as the model sees it."""
        return self.scaled(row, self.side)

    def scaled(self, row: int, side: int | None) -> Tensor:
        """The image of a sample as (3, side, side), or the whole of it."""
        return decode(self.files.read(row), self.files.name(row), side)

    @property
    def room(self) -> int:
        """The bytes of the decoded images."""
        return 3 * self.side**2 * len(self)

    def decoded(self) -> DecodedFiles:
        """The images in memory."""
        return DecodedFiles(torch.stack([self.picture(row) for row in range(len(self))]), self.labels, self)

    def broken(self, workers: int = 0) -> Iterator[tuple[int, str]]:
        """Decode every image; the rows of those that cannot be read, with what is wrong."""
        parts = [rows.tolist() for rows in torch.arange(len(self)).split(READ_AHEAD)]
        for rows, found in zip(parts, _reader(self.picture, parts, workers, list), strict=True):
            yield from ((row, str(item)) for row, item in zip(rows, found, strict=True) if isinstance(item, RunFailed))

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
        sizes = Sizes.of(recipe, self.side)
        own = augmentation(recipe, (sizes.train, sizes.train)) if augment else None
        workers = threads if threads > 1 else 0
        return FileLoader(self, like.sampled, device, how, recipe.pad, recipe.channels_last, workers, own, sizes)


@dataclass(frozen=True)
class DecodedFiles(Images):
    """Images on disk that lie in memory as well, at one size; at others, or whole, they are read from their `files`."""

    files: ImageFiles

    def at(self, rows: Tensor) -> DecodedFiles:
        """The samples at `rows`."""
        return DecodedFiles(self.images[rows], self.labels[rows], self.files.at(rows))

    def loader(self, like: Source, recipe: Recipe, device: torch.device, augment: bool) -> PixelLoader:
        """Batches as the recipe wants them, from the files where it has sizes of its own or crops whole images."""
        assert isinstance(like, DecodedFiles)
        if recipe.train_size or recipe.test_size or recipe.augment == "resized_crop_flip":
            return self.files.relabelled(self.labels).loader(like.files, recipe, device, augment)
        return super().loader(like, recipe, device, augment)


class Sizes(NamedTuple):
    """In pixels: of an image in training, and of the middle of an image that is `scaled` for a test."""

    train: int
    scaled: int
    test: int

    @classmethod
    def of(cls, recipe: Recipe, side: int) -> Sizes:
        """The recipe's, or where it has none those of the dataset's images, of which nothing is cut off in a test."""
        if recipe.test_size is None:
            return cls(recipe.train_size or side, side, side)
        return cls(recipe.train_size or side, round(recipe.test_size / recipe.crop_ratio), recipe.test_size)


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
        own: MakeAugment | None = None,
        sizes: Sizes | None = None,
    ) -> None:
        super().__init__(source.labels, like, device, augment, pad, channels_last, own)
        sizes = sizes or Sizes(source.side, source.side, source.side)
        self.size = (sizes.train, sizes.train)
        self.training, self.test = _Training(source, sizes.train, self.own), _Test(source, sizes)
        self.workers = workers

    def batch(self, rows: Tensor, augment: bool = True) -> tuple[Tensor, Tensor]:
        """Return the images (b, 3, h, w) in float32 and the labels (b,) of `rows`."""
        return next((inputs, labels) for _, inputs, labels in self._batches([rows], augment, workers=0))

    def batches(self, parts: Iterable[Tensor], augment: bool = True) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The rows of each of `parts` with their images and labels, in that order, read ahead."""
        parts = list(parts)
        return self._batches(parts, augment, min(self.workers, len(parts)))

    def _batches(self, parts: list[Tensor], augment: bool, workers: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        view: Callable[[Any], Tensor] = self.training if augment else self.test
        lists: list[list[Any]] = [rows.tolist() for rows in parts]
        if augment and self.own is not None:
            lists = [list(zip(rows, self.seeds[rows].tolist(), strict=True)) for rows in lists]
        for rows, pixels in zip(parts, _reader(view, lists, workers, _stacked), strict=True):
            if isinstance(pixels, RunFailed):
                raise pixels
            images = pixels.to(self.labels.device)
            if augment:
                at = torch.arange(len(rows), device=self.labels.device)
                inputs = self.cut(self.padded(images), at, rows, augment)
            else:
                inputs = self.normalised(images)
            yield rows, inputs, self.labels[rows]


class _Training:
    """Row, or row and seed, to pixels, for the workers; a random share is cut out of the whole image."""

    def __init__(self, source: ImageFiles, side: int, own: Augment | None) -> None:
        self.source, self.own = source, own
        self.side = None if own is not None and own.whole else side

    def __call__(self, item: Any) -> Tensor:
        if self.own is None:
            return self.source.scaled(item, self.side)
        row, seed = item
        return self.own(self.source.scaled(row, self.side), seed)


class _Test:
    """Row to pixels, the middle of the scaled image, for the workers."""

    def __init__(self, source: ImageFiles, sizes: Sizes) -> None:
        self.source, self.sizes = source, sizes

    def __call__(self, row: int) -> Tensor:
        _, scaled, test = self.sizes
        begin = (scaled - test) // 2
        return self.source.scaled(row, scaled)[:, begin : begin + test, begin : begin + test]


class _Decoded(Dataset[Tensor | RunFailed]):
    """Rows as a view shows them, for the workers; an error is handed on, which raised in a worker would be wrapped."""

    def __init__(self, view: Callable[[Any], Tensor]) -> None:
        self.view = view

    def __getitem__(self, item: Any) -> Tensor | RunFailed:
        try:
            return self.view(item)
        except RunFailed as error:
            return error


def _reader(
    view: Callable[[Any], Tensor],
    lists: list[list[Any]],
    workers: int,
    collate: Callable[[list[Tensor | RunFailed]], Any],
) -> DataLoader[Any]:
    """What `collate` makes of the decoded images of each list of rows, read ahead by workers."""
    draws = torch.Generator()  # the reader draws a seed, which is not to come from the training's generator
    return DataLoader(_Decoded(view), batch_sampler=lists, num_workers=workers, collate_fn=collate, generator=draws)


def _stacked(found: list[Tensor | RunFailed]) -> Tensor | RunFailed:
    """The images of a batch, or the first error."""
    failed = next((item for item in found if isinstance(item, RunFailed)), None)
    return failed or torch.stack(found)  # type: ignore[arg-type]


@contextmanager
def opened(content: bytes, name: str) -> Iterator[Image.Image]:
    """The image that `content` is; RunFailed, here or in the block, if it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0][:200] if not isinstance(error, UnidentifiedImageError) else UNKNOWN
        raise RunFailed(f"{name}: not an image that can be read: {reason}") from None


def decode(content: bytes, name: str, side: int | None) -> Tensor:
    """The image called `name` as (3, side, side) uint8, or whole; RunFailed for one that cannot be decoded.

    A JPEG is decoded at the smallest scale that is large enough, which is several times as fast.
    """
    with opened(content, name) as found:
        if side is not None:
            found.draft("RGB", (side, side))
        found.load()
        image = found if found.mode == "RGB" else found.convert("RGB")  # convert copies
    if side is not None and image.size != (side, side):
        image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))
