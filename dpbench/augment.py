"""Augmentation of one image by torchvision's transforms, from a seed of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.transforms import v2

if TYPE_CHECKING:
    from dpbench.spec import Recipe


class Augment:
    """Crop, flip, colours, RandAugment and erasing as the recipe says, in this order.

    `size` (h, w) is that of the result; `mean` (c,), a colour of 0 to 255, fills what is erased or turned in from
    outside. A grey image has no saturation to be changed.
    """

    def __init__(self, recipe: Recipe, size: tuple[int, ...], mean: list[float]) -> None:
        steps: list[torch.nn.Module] = []
        if recipe.augment == "resized_crop_flip":
            steps.append(v2.RandomResizedCrop(size, recipe.scale, recipe.ratio))
        elif recipe.augment != "none":
            steps.append(v2.RandomCrop(size, padding=recipe.pad, padding_mode="reflect"))
        if recipe.augment in ("crop_flip", "resized_crop_flip"):
            steps.append(v2.RandomHorizontalFlip())
        if recipe.color_jitter:
            steps.append(v2.ColorJitter(*[recipe.color_jitter] * 3))
        if recipe.randaugment:
            steps.append(
                v2.RandAugment(
                    recipe.randaugment, recipe.magnitude, interpolation=v2.InterpolationMode.BILINEAR, fill=mean
                )
            )
        if recipe.erasing:
            steps.append(v2.RandomErasing(recipe.erasing, value=mean))
        self.steps = v2.Compose(steps)
        self.whole = recipe.augment == "resized_crop_flip"  # whether it begins with the image in all its size

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """The image (c, h, w) uint8, augmented; torch's generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.steps(image)
