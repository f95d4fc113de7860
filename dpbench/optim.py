"""The optimizer of a recipe, and its learning rate and momentum as functions of the progress of the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from dpbench.errors import UsageError

if TYPE_CHECKING:  # a recipe is read without torch, which takes seconds to import
    from torch.nn import Module, Parameter
    from torch.optim import Optimizer

    from dpbench.recipe import Recipe

Groups = list[dict[str, Any]]  # of parameters with the same weight decay and share of the learning rate


class Step(NamedTuple):
    """What the schedule sets for one optimizer step."""

    learning_rate: float
    momentum: float


def _sgd(groups: Groups, recipe: Recipe) -> Optimizer:
    from torch.optim import SGD

    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum[1], nesterov=recipe.nesterov)


def _adamw(groups: Groups, recipe: Recipe) -> Optimizer:
    from torch.optim import AdamW

    return AdamW(groups, lr=recipe.lr, betas=(recipe.momentum[1], recipe.beta2))


def _lars_infobatch(groups: Groups, recipe: Recipe) -> Optimizer:
    from dpbench.lars import LARS

    return LARS(groups, lr=recipe.lr, momentum=recipe.momentum[1])


def _timm(name: str, **options: Any) -> Callable[[Groups, Recipe], Optimizer]:
    """The optimizer of that name in timm, which reads the recipe's momentum as `momentum` or first beta."""

    def made(groups: Groups, recipe: Recipe) -> Optimizer:
        try:
            from timm.optim import get_optimizer_class
        except ImportError:
            raise UsageError(f"the optimizer {name} is timm's: pip install 'dpbench[timm]'") from None
        momentum = recipe.momentum[1]
        given = {"betas": (momentum, recipe.beta2)} if name == "lamb" else {"momentum": momentum}
        build: Any = get_optimizer_class(name)
        return build(groups, lr=recipe.lr, **given, **options)

    return made


OPTIMIZERS: dict[str, Callable[[Groups, Recipe], Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "lars": _timm("lars"),
    "lars_infobatch": _lars_infobatch,
    "lamb": _timm("lamb"),
    "muon": _timm("muon"),
}


def known(name: str) -> str:
    """Return the name of an optimizer; ValueError for an unknown one."""
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    return name


def optimizer(model: Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer; its learning rate and momentum are set at every step."""
    return OPTIMIZERS[recipe.optimizer](_groups(model, recipe), recipe)


def _groups(model: Module, recipe: Recipe) -> Groups:
    if recipe.layer_decay is not None:
        return _layers(model, recipe.weight_decay, recipe.layer_decay)
    decayed: list[Parameter] = []
    others: list[Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (others if parameter.dim() < 2 and not recipe.decay_norms else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _layers(model: Module, weight_decay: float, layer_decay: float) -> Groups:
    """Timm's groups, each with the `lr_scale` of its layer; UsageError for a model that does not name its layers."""
    if not hasattr(model, "group_matcher"):
        raise UsageError(f"layer_decay is for models of timm, which name their layers, not for {type(model).__name__}")
    from timm.optim import param_groups_layer_decay

    undecayed: Any = getattr(model, "no_weight_decay", set)
    return param_groups_layer_decay(model, weight_decay, undecayed(), layer_decay=layer_decay)


def learning_rate(optimizer: Optimizer) -> float:
    """The learning rate of the last step, as the schedule gave it."""
    group = optimizer.param_groups[0]
    return group["lr"] / group.get("lr_scale", 1.0)


def set_step(optimizer: Optimizer, at: Step) -> None:
    """Give the optimizer the learning rate and the momentum, or first beta, of its next step."""
    for group in optimizer.param_groups:
        group["lr"] = at.learning_rate * group.get("lr_scale", 1.0)
        if "betas" in group:
            group["betas"] = (at.momentum, group["betas"][1])
        if "momentum" in group:
            group["momentum"] = at.momentum


def schedule(recipe: Recipe, progress: float, scale: float = 1.0) -> Step:
    """Learning rate, times `scale`, and momentum at `progress` in [0, 1], the share of the training that is done.

    "onecycle" (Smith and Topin 2019) is torch's OneCycleLR, but that torch turns one step before `pct_start`: the
    momentum falls while the rate rises, and rises again, all as half a cosine. The others have a constant momentum.
    """
    rate, momentum = SCHEDULES[recipe.schedule](recipe, progress)
    return Step(scale * rate, momentum)


def _onecycle(recipe: Recipe, progress: float) -> Step:
    low, high = recipe.momentum
    start, turn = recipe.lr / recipe.div, recipe.pct_start
    if progress < turn:
        return Step(_anneal(start, recipe.lr, progress / turn), _anneal(high, low, progress / turn))
    falling = (progress - turn) / (1 - turn)
    return Step(_anneal(recipe.lr, start / recipe.final_div, falling), _anneal(low, high, falling))


def _cosine(recipe: Recipe, progress: float) -> Step:
    return _warmed(recipe, progress, lambda share: _anneal(recipe.lr, recipe.lr_min, share))


def _linear(recipe: Recipe, progress: float) -> Step:
    return _warmed(recipe, progress, lambda share: recipe.lr + (recipe.lr_min - recipe.lr) * min(share, 1.0))


def _step(recipe: Recipe, progress: float) -> Step:
    passed = sum(progress >= share for share in recipe.steps)
    return _warmed(recipe, progress, lambda _: recipe.lr * recipe.gamma**passed)


def _warmed(recipe: Recipe, progress: float, rate: Callable[[float], float]) -> Step:
    """The rate at the share of what is left after the warm-up, in which it rises from 0."""
    high = recipe.momentum[1]
    if progress < recipe.warmup:
        return Step(recipe.lr * progress / recipe.warmup, high)
    return Step(rate((progress - recipe.warmup) / (1 - recipe.warmup)), high)


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


SCHEDULES: dict[str, Callable[[Recipe, float], Step]] = {
    "onecycle": _onecycle,
    "cosine": _cosine,
    "linear": _linear,
    "step": _step,
}
