"""Mixup and cutmix: each sample of a batch mixed with the one before it, and its label with that one's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp

from dpbench.recipe import Recipe

Mixer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def mixer(recipe: Recipe, classes: int) -> Mixer:
    """What mixes inputs (b, c, h, w) and labels (b,) as the recipe says; labels become shares (b, classes).

    One lam and one of the two kinds are drawn for a batch, from torch's generator, which each epoch seeds. A batch of
    one sample, and what `mix_prob` leaves out, stays as it is.
    """
    kinds: list[Mixer] = []
    if recipe.mixup:
        kinds.append(MixUp(alpha=recipe.mixup, num_classes=classes))
    if recipe.cutmix:
        kinds.append(CutMix(alpha=recipe.cutmix, num_classes=classes))

    def mix(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not kinds or len(inputs) == 1 or float(torch.rand(())) >= recipe.mix_prob:
            return inputs, labels
        return kinds[int(torch.randint(len(kinds), ()))](inputs, labels)

    return mix
