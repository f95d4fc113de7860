"""The optimizer of a recipe and its learning rate as a function of the progress of the training."""

from __future__ import annotations

from math import cos, pi
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from dpbench.spec import Recipe


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD as the recipe says; its learning rate is set at every step."""
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The learning rate at `progress` in [0, 1], the share of the training that is done.

    "cosine" falls from lr to 0. "onecycle" (Smith and Topin 2019) rises from lr / 25 to lr in the first 30 % and
    falls to lr / 250,000, both as half a cosine: torch's OneCycleLR with its defaults.
    """
    if recipe.schedule == "cosine":
        return _anneal(recipe.lr, 0.0, progress)
    if progress < 0.3:
        return _anneal(recipe.lr / 25, recipe.lr, progress / 0.3)
    return _anneal(recipe.lr, recipe.lr / 25 / 1e4, (progress - 0.3) / 0.7)


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + cos(pi * min(share, 1.0))) / 2
