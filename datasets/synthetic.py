"""Gaussian classes in d dimensions, seeded: for tests and benchmarks."""

from pathlib import Path

import torch

from dpbench.data import Dataset, UsageError, param
from dpbench.images import Images
from dpbench.rng import generator


class Synthetic(Dataset):
    """n training and n_test test samples of `classes` Gaussian clusters with unit variance around random means.

    `spread` is the standard deviation of the means. Samples are images of 1 x sqrt(d) x sqrt(d) where d is a
    square, else 1 x 1 x d, quantised to uint8.
    """

    n: int = param(1000, low=2)
    n_test: int = param(200, low=1)
    d: int = param(64, low=1)
    classes: int = param(10, low=2)
    spread: float = param(1.0, low=0.0)
    data_seed: int = param(0, low=0)

    def read(self, root: Path | None) -> tuple[Images, Images]:
        if self.classes > self.n:
            raise UsageError(f"synthetic: classes = {self.classes} is more than n = {self.n}")
        rng = generator(self.data_seed, "synthetic")
        total = self.n + self.n_test
        labels = torch.arange(total) % self.classes
        labels = labels[torch.randperm(total, generator=rng)]
        means = torch.randn(self.classes, self.d, generator=rng) * self.spread
        points = means[labels] + torch.randn(total, self.d, generator=rng)
        side = int(self.d**0.5)
        shape = (1, side, side) if side * side == self.d else (1, 1, self.d)
        images = (points * 25 + 128).clamp(0, 255).to(torch.uint8).view(total, *shape)
        return Images(images[: self.n], labels[: self.n]), Images(images[self.n :], labels[self.n :])
