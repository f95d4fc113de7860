"""Datasets in memory: uint8 images, a fixed split, and batches augmented and normalised on the device."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, dataclass_transform

import torch
import torch.nn.functional as F
from torch import Tensor

from dpbench.errors import UsageError
from dpbench.method import param, sample
from dpbench.rng import generator

__all__ = ["Data", "Dataset", "Loader", "Split", "UsageError", "param"]

SPLIT_SEED = 0  # the split is one for all seeds, so that index i is the same sample in every run


@dataclass(frozen=True)
class Split:
    """Images (n, c, h, w) uint8 with labels (n,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """The hash of all images and labels."""
        return _fingerprint(self.images, self.labels)

    def at(self, indices: Tensor) -> Split:
        """The samples at `indices`."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Data:
    """A dataset, loaded: three splits, the number of classes, and which training labels were made wrong.

    `positions` tell which of the dataset's own training samples the n that are left for training are.
    """

    train: Split
    validation: Split
    test: Split
    classes: int
    positions: Tensor  # (n,) int64
    noisy: Tensor | None = None  # (n,) bool

    @property
    def shape(self) -> tuple[int, ...]:
        """One image's (c, h, w)."""
        return tuple(self.train.images.shape[1:])

    @cached_property
    def fingerprint(self) -> str:
        """The hash of all that a run sees: every byte of every split, where a sample stood, and what was made wrong.

        It is made once a process, and SHA-256 takes 2 s for a million images of 3 x 32 x 32 (1.5 GB/s).
        """
        splits = [split.fingerprint for split in (self.train, self.validation, self.test)]
        rest = _fingerprint(self.positions, *([] if self.noisy is None else [self.noisy]))
        return hashlib.sha256(repr((splits, self.classes, rest)).encode()).hexdigest()[:16]


def _fingerprint(*tensors: Tensor) -> str:
    """The hash of the tensors' kinds, shapes and bytes."""
    found = hashlib.sha256(repr([(str(values.dtype), tuple(values.shape)) for values in tensors]).encode())
    for values in tensors:
        found.update(values.contiguous().numpy().data)
    return found.hexdigest()


@dataclass_transform(field_specifiers=(param,), kw_only_default=True)
@dataclass(eq=False, kw_only=True)
class Dataset(ABC):
    """A dataset. Annotated class attributes are its parameters, as for methods.

    `label_noise` is the share of the training labels replaced by another class, drawn uniformly.
    """

    label_noise: float = param(0.0, low=0.0, high=0.9)
    validation = 0.1  # share of the training samples held out for tuning

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(eq=False, kw_only=True)(cls)

    @abstractmethod
    def read(self, root: Path | None) -> tuple[Split, Split]:
        """Return the training and the test samples; `root` is the user's --data-root, if any.

        Raise UsageError with instructions where files are missing.
        """

    def load(self, root: Path | None = None) -> Data:
        """Read the samples and check them, split off the validation samples and inject label noise into the rest."""
        samples, test = self._checked(root)
        n = len(samples)
        classes = int(torch.cat([samples.labels, test.labels]).max()) + 1
        held_out = torch.zeros(n, dtype=torch.bool)
        held_out[sample(n, self._held_out(n), generator(SPLIT_SEED, "split"))] = True
        positions = (~held_out).nonzero().squeeze(1)
        train = samples.at(positions)
        validation = samples.at(held_out.nonzero().squeeze(1))
        noisy = None
        if self.label_noise > 0:
            rng = generator(SPLIT_SEED, "label noise")
            noisy = torch.zeros(len(train), dtype=torch.bool)
            noisy[sample(len(train), round(self.label_noise * len(train)), rng)] = True
            shift = torch.randint(1, classes, (len(train),), generator=rng)
            train = replace(train, labels=torch.where(noisy, (train.labels + shift) % classes, train.labels))
        return Data(train, validation, test, classes, positions, noisy)

    def _held_out(self, n: int) -> int:
        """How many of n samples are held out for validation."""
        return max(1, round(self.validation * n))

    def _checked(self, root: Path | None) -> tuple[Split, Split]:
        """The training and test samples; UsageError with one line for each fault of theirs."""
        name = type(self).__name__
        try:
            found = self.read(root)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"{name}.read raised {type(error).__name__}: {' '.join(str(error).split())}") from error
        if not isinstance(found, tuple | list) or [type(part) for part in found] != [Split, Split]:
            got = [type(part).__name__ for part in found] if isinstance(found, tuple | list) else type(found).__name__
            raise UsageError(f"{name}.read returned {got}; two Splits are needed, the training and the test samples")
        samples, test = found
        faults = _faults("training", samples) + _faults("test", test)
        faults = faults or self._faults_of_both(samples, test)
        if faults:
            raise UsageError(*(f"{name}: {fault}" for fault in faults))
        return samples, test

    def _faults_of_both(self, samples: Split, test: Split) -> list[str]:
        """What is wrong with samples that are right each by itself."""
        faults, n = [], len(samples)
        shapes = [tuple(split.images.shape[1:]) for split in (samples, test)]
        if shapes[0] != shapes[1]:
            faults.append(f"training images are of shape {shapes[0]}, test images of shape {shapes[1]}")
        labels = torch.cat([samples.labels, test.labels]).unique()
        if len(labels) < 2:
            faults.append(f"all labels are {int(labels[0])}; at least two classes are needed")
        elif int(labels[-1]) != len(labels) - 1:
            missing = int((labels != torch.arange(len(labels))).nonzero()[0])
            faults.append(f"labels reach {int(labels[-1])}, but no sample has {missing}; label C classes 0..C-1")
        if self._held_out(n) >= n:
            kept = f"{self._held_out(n)} of {n} training samples are held out for validation"
            faults.append(f"{kept} (validation = {self.validation:g}); none is left to train on")
        return faults


def _faults(part: str, split: Split) -> list[str]:
    """What is wrong with the images and labels of one split."""
    faults = []
    for what, values, dtype, axes, form in (
        ("images", split.images, torch.uint8, 4, "(n, c, h, w)"),
        ("labels", split.labels, torch.int64, 1, "(n,)"),
    ):
        if not isinstance(values, Tensor):
            faults.append(f"{part} {what} are {type(values).__name__}; a tensor is needed")
            continue
        if values.dtype != dtype:
            faults.append(f"{part} {what} are {values.dtype}; {dtype} is needed")
        elif what == "labels" and values.numel() and int(values.min()) < 0:
            faults.append(f"{part} labels reach down to {int(values.min())}; they begin at 0")
        if values.dim() != axes:
            faults.append(f"{part} {what} are of shape {tuple(values.shape)}; {form} is needed")
        elif 0 in values.shape:
            faults.append(f"{part} {what} are empty, of shape {tuple(values.shape)}")
    if not faults and len(split.images) != len(split.labels):
        faults.append(f"{len(split.images)} {part} images have {len(split.labels)} labels")
    return faults


class Loader:
    """The samples of one split on a device, in batches, augmented and normalised there.

    `like` are the images whose mean and standard deviation normalise. `augment`: "none", "crop" (a random window
    of the image padded by `pad` pixels of reflection) or "crop_flip" (and a horizontal flip half of the time).
    """

    def __init__(
        self,
        split: Split,
        like: Tensor,
        device: torch.device,
        augment: str = "none",
        pad: int = 0,
        channels_last: bool = False,
    ) -> None:
        self.labels = split.labels.to(device)
        self.size = tuple(split.images.shape[2:])
        self.augment = augment
        self.pad = pad if augment != "none" else 0
        images = split.images
        if self.pad:
            images = F.pad(images.float(), (self.pad,) * 4, mode="reflect").to(torch.uint8)
        self.images = images.to(device)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        std, mean = _std_mean(like)
        self.scale = (1 / std).view(-1, 1, 1).to(device)
        self.shift = (-mean / std).view(-1, 1, 1).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def start_epoch(self, rng: torch.Generator) -> None:
        """Draw every sample's crop and flip of the epoch at once, so that a sample's do not depend on the method."""
        n, device = len(self), self.labels.device
        if self.augment != "none":
            self.dy, self.dx = torch.randint(2 * self.pad + 1, (2, n), generator=rng).to(device)
        if self.augment == "crop_flip":
            self.flip = (torch.rand(n, generator=rng) < 0.5).to(device)

    def batch(self, rows: Tensor, augment: bool = True) -> tuple[Tensor, Tensor]:
        """Return the images (b, c, h, w) in float32 and the labels (b,) of `rows`."""
        h, w = self.size
        if self.augment == "none":
            images = self.images[rows]
        elif augment:
            windows = self.images.unfold(2, h, 1).unfold(3, w, 1)
            images = windows[rows, :, self.dy[rows], self.dx[rows]]
        else:
            images = self.images[rows, :, self.pad : self.pad + h, self.pad : self.pad + w]
        images = images.float().mul_(self.scale).add_(self.shift)
        if augment and self.augment == "crop_flip":
            images = torch.where(self.flip[rows].view(-1, 1, 1, 1), images.flip(3), images)
        return images.contiguous(memory_format=self.format), self.labels[rows]


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
