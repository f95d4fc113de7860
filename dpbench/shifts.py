"""Corrupted tests of a trained model: noise, blur, contrast and JPEG on the test images, and CIFAR-C where it lies.

In the spirit of Hendrycks & Dietterich (ICLR 2019), with four corruptions at three strengths that fit small images.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dpbench import catalog
from dpbench.data import Loader
from dpbench.errors import UsageError, one_line
from dpbench.images import PixelLoader
from dpbench.rng import generator

SEED = 0  # the corrupted images are the same in every run
# Of strengths 1 to 3: the noise's std as a share of the range, the blur's as a share of the shorter side, the factor
# of deviations from an image's mean, and JPEG's quality.
STRENGTHS = {"noise": (0.05, 0.1, 0.2), "blur": (0.03, 0.05, 0.08), "contrast": (0.75, 0.5, 0.25), "jpeg": (60, 30, 10)}
CIFAR_C = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
CIFAR_C_NAMES = (  # the benchmark's, without its four extra ones
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
CIFAR_C_STRENGTHS = 5

Corrupt = Callable[[Tensor, Tensor], Tensor]  # of rows (b,) and their images (b, c, h, w) uint8, on the CPU


class ShiftedLoader(Loader):
    """The images of a test as the corruption that `begin` gives makes them, batch by batch."""

    def __init__(self, clean: PixelLoader, begin: Callable[[], Corrupt]) -> None:
        self.clean, self.begin, self.labels = clean, begin, clean.labels

    def batch(self, rows: Tensor, augment: bool = True) -> tuple[Tensor, Tensor]:
        """The images (b, c, h, w) and labels (b,) of `rows`, corrupted as the first of a test are."""
        return next((inputs, labels) for _, inputs, labels in self.batches([rows]))

    def batches(self, parts: Iterable[Tensor], augment: bool = True) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The rows of each of `parts` with their corrupted images and their labels."""
        corrupt = self.begin()
        for rows, inputs, labels in self.clean.batches(parts, augment=False):
            pixels = ((inputs - self.clean.shift) / self.clean.scale).round().clamp(0, 255).to(torch.uint8)
            changed = corrupt(rows.cpu(), pixels.cpu().contiguous())
            yield rows, self.clean.normalised(changed.to(inputs.device)), labels


def tests(dataset: str, test: Loader, root: Path | None) -> dict[str, list[Loader]]:
    """The corrupted tests by the name of their measure; UsageError for what is no images, or damaged files of CIFAR-C.

    `test` has the clean test samples of the dataset, whose files lie in `root`, else in the folder data.
    """
    if not isinstance(test, PixelLoader):
        raise UsageError(f"shifts: {dataset} has no images, which are what is corrupted")
    name = catalog.parse(dataset)[0]
    found: dict[str, list[Loader]] = {
        f"accuracy_shifted_{kind}": [
            ShiftedLoader(test, partial(_seeded, kind, strength, name)) for strength in range(1, len(strengths) + 1)
        ]
        for kind, strengths in STRENGTHS.items()
    }
    folder = (root or Path("data")) / CIFAR_C[name] if name in CIFAR_C else None
    if folder is not None and folder.is_dir():
        found["accuracy_cifar_c"] = [
            ShiftedLoader(test, partial(_given, one)) for one in cifar_c(folder, test.labels.cpu())
        ]
    return found


def _seeded(kind: str, strength: int, dataset: str) -> Corrupt:
    """The corruption, with the draws that all runs on the dataset share; those of its strengths are the same."""
    rng = generator(SEED, f"shift {kind} {dataset}")
    return lambda rows, images: corrupted(images, kind, strength, rng)


def _given(corrupt: Corrupt) -> Corrupt:
    """The corruption itself, which draws nothing."""
    return corrupt


def corrupted(images: Tensor, kind: str, strength: int, rng: torch.Generator) -> Tensor:
    """The images (n, c, h, w) uint8 corrupted at a strength of 0, which is none, to 3."""
    if strength == 0:
        return images
    amount = STRENGTHS[kind][strength - 1]
    if kind == "jpeg":
        return _jpeg(images, int(amount))
    values = images.float()
    if kind == "noise":
        values = values + 255 * amount * torch.randn(images.shape, generator=rng)
    elif kind == "blur":
        values = _blurred(values, amount * min(images.shape[2:]))
    else:
        mean = values.mean((2, 3), keepdim=True)
        values = mean + amount * (values - mean)
    return values.round().clamp(0, 255).to(torch.uint8)


def _blurred(values: Tensor, std: float) -> Tensor:
    """Blurred by a Gaussian of `std` pixels, integrated over each pixel so that a small one counts as well."""
    c, radius = values.shape[1], ceil(3 * std)
    edges = torch.arange(-radius, radius + 2) - 0.5
    kernel = torch.special.erf(edges / (std * sqrt(2))).diff()
    kernel = (kernel / kernel.sum()).expand(c, 1, 1, -1)
    padded = F.pad(values, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=c), kernel.transpose(2, 3), groups=c)


def _jpeg(images: Tensor, quality: int) -> Tensor:
    """Each image compressed and read again; channels that are no colours are compressed one by one, as grey."""
    n, c, h, w = images.shape
    plain = images.permute(0, 2, 3, 1) if c == 3 else images.reshape(n * c, h, w)
    found = np.empty(plain.shape, np.uint8)
    for i, image in enumerate(plain.numpy()):
        with io.BytesIO() as file:
            Image.fromarray(np.ascontiguousarray(image)).save(file, "JPEG", quality=quality)
            found[i] = np.asarray(Image.open(file))
    read = torch.from_numpy(found)
    return read.permute(0, 3, 1, 2).contiguous() if c == 3 else read.view(n, c, h, w)


def cifar_c(folder: Path, labels: Tensor) -> list[Corrupt]:
    """Each corruption of CIFAR-C at each strength, read as it is needed; UsageError for files of other images.

    A file has the n test images (h, w, 3) at strength 1, then those at strength 2, and so on; `labels` are (n,).
    """
    n = len(labels)

    def opened(name: str, shape: tuple[int, ...]) -> np.ndarray:
        try:
            found = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"{folder / name}.npy: {one_line(error, 200)}") from None
        if found.shape != shape or found.dtype.kind not in "iu":
            raise UsageError(f"{folder / name}.npy: {found.dtype} of shape {found.shape}, where {shape} is needed")
        return found

    if not np.array_equal(opened("labels", (CIFAR_C_STRENGTHS * n,)), np.tile(labels.numpy(), CIFAR_C_STRENGTHS)):
        raise UsageError(f"{folder / 'labels.npy'}: not the labels of the test images")

    def read(file: np.ndarray, start: int, rows: Tensor, images: Tensor) -> Tensor:
        return torch.from_numpy(file[start + rows.numpy()]).permute(0, 3, 1, 2).to(torch.uint8)

    files = [opened(name, (CIFAR_C_STRENGTHS * n, 32, 32, 3)) for name in CIFAR_C_NAMES]
    return [partial(read, file, strength * n) for file in files for strength in range(CIFAR_C_STRENGTHS)]
