"""Datasets: labelled samples of any kind, a fixed split of them, and their batches on a device."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpbench import corruption
from dpbench.draws import sample
from dpbench.errors import UsageError, one_line
from dpbench.method import param
from dpbench.rng import generator

if TYPE_CHECKING:
    from dpbench.spec import Recipe

__all__ = ["Data", "Dataset", "Loader", "Source", "UsageError", "param"]

SPLIT_SEED = 0  # the split is one for all seeds, so that index i is the same sample in every run

ROOM = 2**30  # bytes of images on disk that are decoded into memory at once; more are decoded as they are needed


class Source(ABC):
    """Labelled samples of one kind, of one split; a sample is its row."""

    kind: ClassVar[str] = ""  # that of its dataset, or empty
    labels: Tensor  # (n,) int64, the classes of the samples

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def shape(self) -> tuple[Any, ...]:
        """The shape of one sample, as a model takes it."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """All that the samples are, for the fingerprint."""

    @abstractmethod
    def at(self, rows: Tensor) -> Self:
        """The samples at `rows`."""

    @abstractmethod
    def faults(self, part: str) -> list[str]:
        """What is wrong with the samples of the split `part`, one line each."""

    @abstractmethod
    def loader(self, like: Self, recipe: Recipe, device: torch.device, augment: bool) -> Loader:
        """Batches of the samples as the recipe wants them, normalised as the samples `like` are distributed."""

    def picture(self, row: int) -> Tensor | None:
        """The sample as an image (c, h, w) uint8, None for a kind that has none."""
        return None

    @property
    def room(self) -> int:
        """The bytes that the samples take in memory, where they are not there yet."""
        return 0

    def decoded(self) -> Source:
        """The same samples in memory."""
        return self

    def broken(self, workers: int = 0) -> Iterator[tuple[int, str]]:
        """Read every sample that is not in memory; the rows of those that cannot be read, with what is wrong."""
        return iter(())

    def features(self) -> Tensor | None:
        """The samples as vectors (n, d) of numbers, NaN where one is missing; None for a kind that has none."""
        return None

    def relabelled(self, labels: Tensor) -> Self:
        """The same samples with other labels; a source is a dataclass."""
        return replace(self, labels=labels)  # type: ignore[type-var]

    @property
    def fingerprint(self) -> str:
        """The hash of all samples and labels."""
        return _fingerprint(*self.tensors)


class Loader(ABC):
    """The samples of a source on a device: row batches in, device tensors out."""

    labels: Tensor  # (n,) on the device

    def __len__(self) -> int:
        return len(self.labels)

    def start_epoch(self, rng: torch.Generator) -> None:  # noqa: B027 - most kinds are not augmented
        """Draw the epoch's augmentation of every sample at once, so that a sample's does not depend on the method."""

    @abstractmethod
    def batch(self, rows: Tensor, augment: bool = True) -> tuple[Tensor, Tensor]:
        """Return the inputs (b, ...) and the labels (b,) of `rows` (b,), on the device."""

    def batches(self, parts: Iterable[Tensor], augment: bool = True) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The rows of each of `parts` with their inputs and labels, in that order; a disk loader reads ahead."""
        for rows in parts:
            yield rows, *self.batch(rows, augment)


@dataclass(frozen=True)
class Data:
    """A dataset, loaded: three splits, the number of classes, and what was done to the training samples.

    `positions` tell which of the `total` training samples that the dataset itself has the n that are trained on are; a
    copy has its original's. `noisy` are the training labels that were made wrong, `trusted` clean samples set apart.
    """

    train: Source
    validation: Source
    test: Source
    classes: int
    positions: Tensor  # (n,) int64
    total: int
    noisy: Tensor | None = None  # (n,) bool
    trusted: Source | None = None

    @property
    def shape(self) -> tuple[Any, ...]:
        """The shape of one sample."""
        return self.train.shape

    @cached_property
    def fingerprint(self) -> str:
        """The hash of all that a run sees: every byte of every split, where a sample stood, and what was made wrong.

        It is made once a process, and SHA-256 takes 2 s for a million images of 3 x 32 x 32 (1.5 GB/s).
        """
        parts = (self.train, self.validation, self.test, self.trusted)
        splits = [split.fingerprint for split in parts if split is not None]
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

    Those that every dataset has change the training samples alone, in this order, after the validation samples are held
    out; validation and test samples stay as they are. The share `trusted` is set apart, clean, as what a proxy on
    holdout data trains on in place of the validation samples. `imbalance` below 1 leaves a long tail, with this ratio
    of the smallest class to the largest. The share `label_noise` of the labels is made wrong in the way `noise` says.
    At the end copies are appended, label and all, until the share `duplicates` are copies. See `dpbench.corruption`.
    """

    label_noise: float = param(0.0, low=0.0, high=0.9)
    noise: str = param("symmetric", choices=corruption.NOISES)
    imbalance: float = param(1.0, low=1e-4, high=1.0)
    duplicates: float = param(0.0, low=0.0, high=0.9)
    trusted: float = param(0.0, low=0.0, high=0.5)
    validation = 0.1  # share of the training samples held out for tuning
    kind = "images"  # of the samples, known before they are read: models are offered by it; or "tables", "texts", ...

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(eq=False, kw_only=True)(cls)

    def __post_init__(self) -> None:
        if self.noise != "symmetric" and self.label_noise == 0:
            raise UsageError(f"noise={self.noise} is the way of label_noise, which is 0; say label_noise=SHARE too")

    @abstractmethod
    def read(self, root: Path | None) -> tuple[Source, Source]:
        """Return the training and the test samples; `root` is the user's --data-root, if any.

        Raise UsageError with instructions where files are missing.
        """

    def load(self, root: Path | None = None) -> Data:
        """Read the samples and check them, split off the validation samples and corrupt the rest as asked for."""
        samples, test = self.sources(root)
        if samples.room + test.room <= ROOM:
            samples, test = samples.decoded(), test.decoded()
        n = len(samples)
        classes = int(torch.cat([samples.labels, test.labels]).max()) + 1
        held_out = torch.zeros(n, dtype=torch.bool)
        held_out[sample(n, self._held_out(n), generator(SPLIT_SEED, "split"))] = True
        positions, trusted = self._set_apart((~held_out).nonzero().squeeze(1))
        if self.imbalance < 1:
            labels = samples.labels[positions]
            rows = corruption.long_tail(labels, classes, self.imbalance, generator(SPLIT_SEED, "imbalance"))
            positions = positions[rows]
        train = samples.at(positions)
        noisy = None
        if self.label_noise > 0:
            rng = generator(SPLIT_SEED, "label noise")
            labels = corruption.wrong_labels(train, classes, self.noise, self.label_noise, rng)
            noisy, train = labels != train.labels, train.relabelled(labels)
        if self.duplicates > 0:
            twice = corruption.copies(len(train), self.duplicates, generator(SPLIT_SEED, "duplicates"))
            rows = torch.cat([torch.arange(len(train)), twice])
            train, positions, noisy = train.at(rows), positions[rows], None if noisy is None else noisy[rows]
        return Data(
            train=train,
            validation=samples.at(held_out.nonzero().squeeze(1)),
            test=test,
            classes=classes,
            positions=positions,
            total=n,
            noisy=noisy,
            trusted=None if trusted is None else samples.at(trusted),
        )

    def _set_apart(self, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """The positions to train on, and those of the trusted samples."""
        if self.trusted == 0:
            return positions, None
        chosen = torch.zeros(len(positions), dtype=torch.bool)
        count = max(1, round(self.trusted * len(positions)))
        chosen[sample(len(positions), count, generator(SPLIT_SEED, "trusted"))] = True
        return positions[~chosen], positions[chosen]

    def _held_out(self, n: int) -> int:
        """How many of n samples are held out for validation."""
        return max(1, round(self.validation * n))

    def sources(self, root: Path | None = None) -> tuple[Source, Source]:
        """The training and test samples; UsageError with one line for each fault of theirs."""
        name = type(self).__name__
        try:
            found = self.read(root)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"{name}.read raised {type(error).__name__}: {one_line(error)}") from error
        parts = found if isinstance(found, tuple | list) else [found]
        if len(parts) != 2 or not isinstance(parts[0], Source) or type(parts[0]) is not type(parts[1]):
            got = [type(part).__name__ for part in found] if isinstance(found, tuple | list) else type(found).__name__
            raise UsageError(
                f"{name}.read returned {got}; two sources of one kind are needed, the training and the test samples"
            )
        samples, test = parts
        if samples.kind not in ("", self.kind):
            raise UsageError(f"{name}.read returned {samples.kind}; its kind is {self.kind}")
        faults = samples.faults("training") + test.faults("test")
        faults = faults or self._faults_of_both(samples, test)
        if faults:
            raise UsageError(*(f"{name}: {fault}" for fault in faults))
        return samples, test

    def _faults_of_both(self, samples: Source, test: Source) -> list[str]:
        """What is wrong with samples that are right each by itself."""
        faults, n = [], len(samples)
        if samples.shape != test.shape:
            faults.append(f"training samples are of shape {samples.shape}, test samples of shape {test.shape}")
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


def split_by_class(labels: NDArray[np.int64], test: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows to train on and to test with, the share `test` of each class, the same every time.

    Classes are not heeded where one has a single sample, which cannot be on both sides.
    """
    from sklearn.model_selection import train_test_split

    whole = np.bincount(labels).min() > 1
    rows = np.arange(len(labels))
    train, held_out = train_test_split(rows, test_size=test, random_state=0, stratify=labels if whole else None)
    return train, held_out


def tensor_faults(
    what: str, values: Any, dtype: torch.dtype, axes: int, form: str, empty: tuple[int, ...] = ()
) -> list[str]:
    """What keeps `values` from being a tensor of `dtype` with `axes` axes, none empty but those in `empty`."""
    if not isinstance(values, Tensor):
        return [f"{what} are {type(values).__name__}; a tensor is needed"]
    faults = [] if values.dtype == dtype else [f"{what} are {values.dtype}; {dtype} is needed"]
    if values.dim() != axes:
        faults.append(f"{what} are of shape {tuple(values.shape)}; {form} is needed")
    elif any(size == 0 for axis, size in enumerate(values.shape) if axis not in empty):
        faults.append(f"{what} are empty, of shape {tuple(values.shape)}")
    return faults


def count_faults(part: str, what: str, count: int, labels: Tensor) -> list[str]:
    """What keeps `count` samples of the split `part` from having a label each."""
    return [] if count == len(labels) else [f"{count} {part} {what} have {len(labels)} labels"]


def label_faults(part: str, labels: Any) -> list[str]:
    """What keeps the labels of the split `part` from being classes (n,) int64."""
    faults = tensor_faults(f"{part} labels", labels, torch.int64, 1, "(n,)")
    if not faults and int(labels.min()) < 0:
        faults.append(f"{part} labels reach down to {int(labels.min())}; they begin at 0")
    return faults
