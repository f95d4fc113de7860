"""Images per second of a loader of images on disk against torchvision's ImageFolder on Pillow, on one core."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from dpbench import folders, pack
from dpbench.image_files import FileLoader, ImageFiles

N, SIDE, PAD, BATCH, REPEATS = 192, 160, 8, 64, 5
SIZE = (500, 375)  # about the mean of ImageNet's


def against_image_folder() -> list[tuple[str, float, str, float]]:
    """Decoding, scaling to a side, a random crop of the padded image, a flip and normalisation, in batches."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        _made(folder)
        files, labels, classes = folders.listed(folder)
        pack.write(Path(name) / "small.pack", files, labels, classes, side=256)
        packed, _, _ = pack.read(Path(name) / "small.pack")
        augmented = transforms.Compose(
            [
                transforms.Resize(SIDE),
                transforms.CenterCrop(SIDE),
                transforms.RandomCrop(SIDE, PAD, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.25,) * 3),
            ]
        )
        theirs = DataLoader(datasets.ImageFolder(str(folder), augmented), BATCH, shuffle=True)
        ours = {
            "folder": ImageFiles(files, labels, SIDE),
            "pack of short side 256": ImageFiles(packed, labels, SIDE),
        }
        rows = []
        for title, source in ours.items():
            loader = FileLoader(source, source.at(torch.arange(16)).sampled, torch.device("cpu"), "crop_flip", PAD)
            ratios = [_seconds(theirs) / _seconds(_epoch(loader)) for _ in range(REPEATS)]
            what = f"images of {SIZE[0]} x {SIZE[1]} on disk, {title} / ImageFolder on Pillow, images per second"
            rows.append((what, median(ratios), "x", -2.0))
    return rows


def _epoch(loader: FileLoader):
    loader.start_epoch(torch.Generator().manual_seed(0))
    yield from loader.batches(torch.randperm(N).split(BATCH))


def _seconds(batches) -> float:
    begin = time.process_time()
    for _ in batches:
        pass
    return time.process_time() - begin


def _made(folder: Path) -> None:
    """JPEGs of about 60 kB, blurred noise, in two classes."""
    rng = np.random.default_rng(0)
    for i in range(N):
        inside = folder / f"class {i % 2}"
        inside.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (SIZE[1] // 4, SIZE[0] // 4, 3), np.uint8)).resize(SIZE)
        coarse.filter(ImageFilter.GaussianBlur(2)).save(inside / f"{i}.jpg", quality=90)
