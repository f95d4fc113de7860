"""The first trials of a study: the same learning rates for every method, at its default parameters.

None of them is pruned, so that they show to the end over what range of rates a method works, and at what cost. Of all
trials the best is chosen by what they show.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from dpbench.experiments.plan import KEEP, RATE, Plan, inside, rounded
from dpbench.experiments.trials import AT_DEFAULT, counted

RUNGS = (1.0, 0.3, 3.0, 0.1, 10.0)  # of the recipe's rate, which is the first
WITHIN = 0.01  # of the best rung's accuracy lie those of the rates that work
DEARER = 0.02  # of full training's cost is the most that a trial may cost above those


def first_trials(plan: Plan) -> list[dict[str, Any]]:
    """The configurations to begin with: the default one, or a ladder of them where the rate is searched.

    A default outside of its range, or that the method works out itself, is in none: it is left as it is.
    """
    space = plan.space(plan.keep) | ({"keep": KEEP} if plan.two_objectives else {})
    default = {name: value for name, value in plan.default.items() if name in space and inside(value, space[name])}
    if RATE not in space:
        return [default]
    low, rate = space[RATE].low, plan.default[RATE]  # type: ignore[attr-defined]
    rates = dict.fromkeys(rate if rung == 1 else max(rounded(rate * rung), low) for rung in RUNGS)
    return [default | {RATE: one} for one in list(rates)[: plan.trials]]


def working(study: optuna.Study) -> list[FrozenTrial]:
    """The ladder's trials at the rates that work: those around its best one, up to the first that is a point worse.

    Empty where there is no ladder, or where all of it diverged.
    """
    ladder = _rungs(study)
    values = [trial.values[0] for trial in ladder]
    if not any(values):
        return []
    low = high = values.index(max(values))
    while low > 0 and values[low - 1] >= max(values) - WITHIN:
        low -= 1
    while high + 1 < len(values) and values[high + 1] >= max(values) - WITHIN:
        high += 1
    return ladder[low : high + 1]


def _rungs(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials of the ladder, by their rates."""
    done = (t for t in counted(study) if t.state == TrialState.COMPLETE)
    return sorted((t for t in done if RATE in t.user_attrs.get(AT_DEFAULT, ())), key=lambda t: t.params[RATE])


def rates_that_work(study: optuna.Study) -> tuple[float, float] | None:
    """The lowest and the highest of them, if there are any."""
    found = [trial.params[RATE] for trial in working(study)]
    return (found[0], found[-1]) if found else None


def dearest(study: optuna.Study) -> float:
    """The cost above which a trial counts as the worst: its parameters would buy accuracy by pruning less.

    Infinity without a ladder, and while none of it has ended well.
    """
    costs = [cost for trial in working(study) for cost in trial.user_attrs.get("cost", []) if cost is not None]
    return max(costs) + DEARER if costs else math.inf


def best(study: optuna.Study, plan: Plan) -> list[FrozenTrial]:
    """The best trial, of equal ones that of the middle rate, which is far from those that are worse.

    A rate at the edge, as high as the highest rung below one that diverged or higher, and above the recipe's own, is
    only taken where no other trial is within a point of it: with other seeds it may diverge, too. It is judged when
    asked, by all of the first trials, whichever of them had ended when a trial told Optuna its value.
    With two objectives it is the Pareto front, most accurate first. Empty if no trial is complete.
    """
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if not done:
        return []
    if len(study.directions) > 1:
        return sorted(study.best_trials, key=lambda t: (-t.values[0], t.number))
    dear = dearest(study)
    values = [0.0 if is_dear(t.user_attrs, dear) else accuracy(t) for t in done]
    judged = list(zip(done, values, strict=True))
    own, first, near = plan.default.get(RATE, 0), edge(study), max(values) - WITHIN
    judged = [(t, value) for t, value in judged if value >= near and (_rate(t) <= own or _rate(t) < first)] or judged
    most = max(value for _, value in judged)
    equal = sorted((t for t, value in judged if value == most), key=lambda t: (_rate(t), -t.number))
    return [equal[(len(equal) - 1) // 2]]


def edge(study: optuna.Study) -> float:
    """The highest rate of the ladder below the lowest that diverged; infinity where none did, or there is no ladder."""
    ladder = _rungs(study)
    below = list(takewhile(lambda t: t.values[0] > 0, ladder))
    return below[-1].params[RATE] if 0 < len(below) < len(ladder) else math.inf


def _rate(trial: FrozenTrial) -> float:
    return float(trial.user_attrs["recipe"].get("lr", 0))


def is_dear(attributes: Mapping[str, Any], most: float) -> bool:
    """Whether a trial with these attributes costs more than it may; the first ones set what that is."""
    costs = attributes.get("cost")  # which a trial that diverged has not
    return AT_DEFAULT not in attributes and costs is not None and mean(costs) > most


def accuracy(trial: FrozenTrial) -> float:
    """The mean validation accuracy of a complete trial, whatever it costs; 0 where it diverged."""
    found = trial.user_attrs.get("accuracy_validation")
    return trial.values[0] if found is None else mean(found)


def mean(values: Iterable[float | None]) -> float:
    """The mean of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
