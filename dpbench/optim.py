"""The optimizer of a recipe, and its learning rate and momentum as functions of the progress of the training."""

from __future__ import annotations

from math import cos, pi
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from dpbench.spec import Recipe


class Step(NamedTuple):
    """What the schedule sets for one optimizer step."""

    learning_rate: float
    momentum: float


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD as the recipe says; its learning rate and momentum are set at every step."""
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum[1],
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def schedule(recipe: Recipe, progress: float, scale: float = 1.0) -> Step:
    """Learning rate, times `scale`, and momentum at `progress` in [0, 1], the share of the training that is done.

    "cosine": the rate falls from lr to 0 at a constant momentum. "onecycle" (Smith and Topin 2019): the rate rises
    from lr / 25 to lr in the first 30 % and falls to lr / 250,000, while the momentum falls from the high end of its
    range to the low one and rises again, all as half a cosine. That is torch's OneCycleLR with its defaults, but that
    torch turns one step before 30 %.
    """
    low, high = recipe.momentum
    if recipe.schedule == "cosine":
        return Step(scale * _anneal(recipe.lr, 0.0, progress), high)
    if progress < 0.3:
        return Step(scale * _anneal(recipe.lr / 25, recipe.lr, progress / 0.3), _anneal(high, low, progress / 0.3))
    falling = (progress - 0.3) / 0.7
    return Step(scale * _anneal(recipe.lr, recipe.lr / 25 / 1e4, falling), _anneal(low, high, falling))


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + cos(pi * min(share, 1.0))) / 2
