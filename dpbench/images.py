"""Images in memory: uint8 pixels, augmented and normalised on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dpbench.augment import Augment
from dpbench.data import Loader, Source, count_faults, label_faults, tensor_faults
from dpbench.errors import UsageError

if TYPE_CHECKING:
    from dpbench.spec import Recipe

COARSE = 16  # pixels along a side of an image as features
MakeAugment = Callable[[list[float]], Augment]


@dataclass(frozen=True)
class Images(Source):
    """Images (n, c, h, w) uint8 with labels (n,) int64."""

    kind = "images"

    images: Tensor
    labels: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """One image's (c, h, w)."""
        return tuple(self.images.shape[1:])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Images and labels."""
        return self.images, self.labels

    def at(self, rows: Tensor) -> Images:
        """The samples at `rows`."""
        return Images(self.images[rows], self.labels[rows])

    def picture(self, row: int) -> Tensor:
        """The image of a sample."""
        return self.images[row]

    def features(self) -> Tensor:
        """The pixels of the images, shrunk."""
        return shrunk(self.images)

    def faults(self, part: str) -> list[str]:
        """What is wrong with the images and labels of the split `part`."""
        found = tensor_faults(f"{part} images", self.images, torch.uint8, 4, "(n, c, h, w)")
        found += label_faults(part, self.labels)
        return found or count_faults(part, "images", len(self.images), self.labels)

    def loader(self, like: Source, recipe: Recipe, device: torch.device, augment: bool) -> PixelLoader:
        """Batches as the recipe wants them, normalised by the images `like`."""
        assert isinstance(like, Images)
        if recipe.train_size or recipe.test_size:
            raise UsageError("train_size and test_size are for images on disk; these lie in memory, all of one size")
        how = recipe.augment if augment else "none"
        own = augmentation(recipe, self.shape[1:]) if augment else None
        return ImageLoader(self, like.images, device, how, recipe.pad, recipe.channels_last, own)


class PixelLoader(Loader):
    """What all loaders of images share: crops, flips, and the normalisation by mean and standard deviation.

    `augment`: "none", "crop" (a random window of the image padded by `pad` pixels of reflection) or "crop_flip" (and
    a horizontal flip half of the time), all of a batch at once; what `own` makes of the mean colour takes their place,
    image by image. `like` are the images (n, c, h, w) whose distribution normalises.
    """

    def __init__(
        self,
        labels: Tensor,
        like: Tensor,
        device: torch.device,
        augment: str,
        pad: int,
        channels_last: bool,
        own: MakeAugment | None = None,
    ) -> None:
        self.labels = labels.to(device)
        self.size = tuple(like.shape[2:])
        std, mean = _std_mean(like)
        self.own = None if own is None else own(mean.tolist())
        self.augment = augment if own is None else "none"
        self.pad = pad if self.augment != "none" else 0
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.scale = (1 / std).view(-1, 1, 1).to(device)
        self.shift = (-mean / std).view(-1, 1, 1).to(device)

    def start_epoch(self, rng: torch.Generator) -> None:
        """Draw every sample's crop and flip of the epoch at once, so that a sample's do not depend on the method."""
        n, device = len(self), self.labels.device
        if self.own is not None:
            self.seeds = torch.randint(2**62, (n,), generator=rng)
        if self.augment != "none":
            self.dy, self.dx = torch.randint(2 * self.pad + 1, (2, n), generator=rng).to(device)
        if self.augment == "crop_flip":
            self.flip = (torch.rand(n, generator=rng) < 0.5).to(device)

    def padded(self, images: Tensor) -> Tensor:
        """The images with their margin of reflection, as F.pad makes it of floats, in a quarter of the time."""
        p, (n, c, h, w) = self.pad, images.shape
        if p == 0:
            return images
        if p >= min(h, w):
            raise UsageError(f"pad = {p} pixels are too many for images of {h} x {w}")
        found = images.new_empty(n, c, h + 2 * p, w + 2 * p)
        inner = found[:, :, p : p + h]
        inner[..., p : p + w] = images
        inner[..., :p] = images[..., 1 : p + 1].flip(3)
        inner[..., p + w :] = images[..., w - 1 - p : w - 1].flip(3)
        found[:, :, :p] = inner[:, :, 1 : p + 1].flip(2)
        found[:, :, p + h :] = inner[:, :, h - 1 - p : h - 1].flip(2)
        return found

    def cut(self, images: Tensor, at: Tensor, rows: Tensor, augment: bool) -> Tensor:
        """Of the padded `images`, those `at` (b,), which are the samples `rows`, cropped, flipped and normalised."""
        h, w = self.size
        if self.augment == "none":
            images = images[at]
        elif augment:
            windows = images.unfold(2, h, 1).unfold(3, w, 1)
            images = windows[at, :, self.dy[rows], self.dx[rows]]
        else:
            images = images[at, :, self.pad : self.pad + h, self.pad : self.pad + w]
        if augment and self.augment == "crop_flip":  # of bytes, which are a quarter of the floats
            both, chosen = torch.cat([images, images.flip(3)]), len(rows) * self.flip[rows]
            images = both.index_select(0, torch.arange(len(rows), device=chosen.device) + chosen)
        return self.normalised(images)

    def normalised(self, images: Tensor) -> Tensor:
        """The images in float32."""
        images = images.float().mul_(self.scale).add_(self.shift)
        return images.contiguous(memory_format=self.format)


class ImageLoader(PixelLoader):
    """Images that lie on the device; those that are augmented one by one are so on the CPU."""

    def __init__(
        self,
        source: Images,
        like: Tensor,
        device: torch.device,
        augment: str = "none",
        pad: int = 0,
        channels_last: bool = False,
        own: MakeAugment | None = None,
    ) -> None:
        super().__init__(source.labels, like, device, augment, pad, channels_last, own)
        self.source = source
        self.images = self.padded(source.images).to(device)

    def batch(self, rows: Tensor, augment: bool = True) -> tuple[Tensor, Tensor]:
        """Return the images (b, c, h, w) in float32 and the labels (b,) of `rows`."""
        if augment and self.own is not None:
            seeds = self.seeds[rows.cpu()].tolist()
            images = [self.own(self.source.images[row], seed) for row, seed in zip(rows.tolist(), seeds, strict=True)]
            return self.normalised(torch.stack(images).to(self.labels.device)), self.labels[rows]
        return self.cut(self.images, rows, rows, augment), self.labels[rows]


def shrunk(images: Tensor) -> Tensor:
    """The pixels (n, d) float32 of images that are averaged down to COARSE x COARSE where they are larger."""
    h, w = images.shape[2:]
    parts = images.split(1024)
    size = (min(h, COARSE), min(w, COARSE))
    return torch.cat([F.adaptive_avg_pool2d(part.float(), size).flatten(1) for part in parts])


def augmentation(recipe: Recipe, size: tuple[int, ...]) -> MakeAugment | None:
    """What the recipe does image by image, to a `size` (h, w), if it does; it is made of the mean colour."""
    return partial(Augment, recipe, size) if recipe.by_image else None


def _std_mean(images: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of each channel, from its histogram, so that no float copy is made."""
    counts = torch.stack(
        [torch.bincount(images[:, c].flatten(), minlength=256) for c in range(images.shape[1])]
    ).double()
    counts /= counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64)
    mean = counts @ values
    variance = (counts @ values.square() - mean.square()).clamp(min=0)
    return variance.sqrt().clamp(min=1.0).float(), mean.float()
