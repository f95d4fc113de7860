"""The optimizers, and their learning rate and momentum as functions of the progress of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import cos, pi
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # a recipe is read without torch, which takes seconds to import
    from torch.nn import Parameter
    from torch.optim import Optimizer

    from dpbench.spec import Recipe


class Step(NamedTuple):
    """What the schedule sets for one optimizer step."""

    learning_rate: float
    momentum: float


def sgd(parameters: Iterator[Parameter], recipe: Recipe) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    from torch.optim import SGD

    decay = recipe.weight_decay
    return SGD(parameters, recipe.lr, recipe.momentum[1], nesterov=recipe.nesterov, weight_decay=decay)


def adamw(parameters: Iterator[Parameter], recipe: Recipe) -> Optimizer:
    """AdamW; the schedule's momentum is its first beta, as in torch's OneCycleLR, and the second is 0.999."""
    from torch.optim import AdamW

    return AdamW(parameters, recipe.lr, (recipe.momentum[1], 0.999), weight_decay=recipe.weight_decay)


OPTIMIZERS: dict[str, Callable[[Iterator[Parameter], Recipe], Optimizer]] = {"sgd": sgd, "adamw": adamw}


def known(name: str) -> str:
    """Return the name of an optimizer; ValueError for one that there is not."""
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    return name


def set_step(optimizer: Optimizer, at: Step) -> None:
    """Set what the schedule says for the next step; momentum is the first beta where an optimizer has betas."""
    for group in optimizer.param_groups:
        group["lr"] = at.learning_rate
        if "betas" in group:
            group["betas"] = (at.momentum, group["betas"][1])
        else:
            group["momentum"] = at.momentum


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
