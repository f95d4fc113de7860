"""Tune the hyper-parameters that a method declares, by Optuna: equal trials, validation accuracy, seeds of its own.

A study's number of trials is that of those that ended, complete or failed. Pruned ones come on top, at most TRIES - 1
for each.

A study's folder, $DPBENCH_HOME/tune/STUDY/, holds its journal, its figures and the grid of its best configuration. The
cells of a trial are runs like any other: a trial that was cut off is repeated, and its finished runs are read again.
"""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import filelock
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial, TrialState

from dpbench import store
from dpbench.errors import RunFailed, UsageError
from dpbench.experiments.executors import Executor, run_all
from dpbench.experiments.ladder import dearest, first_trials, is_dear, mean
from dpbench.experiments.plan import KEEP, SEED, Plan, of_recipe, rounded
from dpbench.experiments.trials import AT_DEFAULT, counted, fail_orphans, journal, mend, open_study
from dpbench.rng import derive
from dpbench.spec import RunSpec
from dpbench.training import derived, runner
from dpbench.training.results import EpochRecord, RunResult, is_done

TRIES = 3  # the last of them is not pruned, so that every place of the budget ends with a complete trial


class _Stop(BaseException):
    """Ends a run early. No Exception, because the runner records those as failures."""


# A trial


@dataclass(frozen=True)
class Job:
    """One place of the budget, carried out in a worker. `slot` counts the places and seeds the sampler."""

    plan: Plan
    slot: int

    @property
    def title(self) -> str:
        """A short name for people."""
        return f"{self.plan.name} trial {self.slot}"

    @property
    def key(self) -> str:
        """What names the study, by all that its values depend on."""
        return self.plan.name

    @property
    def devices(self) -> int:
        """How many processes do it together."""
        return 1

    def done(self) -> bool:
        """Whether the trial is known to have ended: the study counts trials, not places."""
        return False

    def found(self) -> None:
        """Nothing: the trial is in the study."""

    def __call__(self) -> None:
        study = open_study(self.plan, derive(SEED, "sampler", self.slot) % 2**32)
        fail_orphans(study, nameless=False)
        tries = itertools.count(1)
        study.optimize(
            lambda trial: objective(trial, self.plan, prune=next(tries) < TRIES),
            n_trials=TRIES,
            catch=(RunFailed,),
            callbacks=[lambda study, trial: study.stop() if trial.state != TrialState.PRUNED else None],
        )


def do(job: Job) -> None:
    """Call a job; a module-level function, as worker processes need."""
    job()


def objective(trial: Trial, plan: Plan, prune: bool = True) -> float | tuple[float, float]:
    """Mean validation accuracy over the trial's seeds, and mean cost if there are two objectives."""
    trial.set_user_attr("worker", [platform.node(), os.getpid()])
    _check_budget(trial, plan)
    given = trial.user_attrs.get(AT_DEFAULT)
    keep = _suggest(trial, "keep", KEEP, given) if plan.two_objectives else plan.keep
    space = {name: where for name, where in plan.space(keep).items() if given is None or name in given}
    params = {name: _suggest(trial, name, where, given) for name, where in space.items()}
    prune = prune and given is None
    for name, value in (("method", plan.text(params)), ("recipe", of_recipe(params)), ("keep", keep)):
        trial.set_user_attr(name, value)
    results: list[RunResult] = []
    spent = 0
    reported = 0

    def watch(record: EpochRecord) -> None:
        nonlocal spent, reported
        spent += int(record["samples_backward"])
        if not plan.two_objectives:  # Optuna prunes by one objective only
            trial.report(record["accuracy_validation"], reported)
            reported += 1
            if prune and trial.should_prune():
                raise _Stop

    try:
        for seed in range(SEED, SEED + plan.seeds):
            results.append(_run(plan.spec(params, keep, seed), plan, watch))
    except _Stop:
        raise optuna.TrialPruned from None
    except RunFailed as error:
        trial.set_user_attr("reason", str(error))
        raise
    finally:
        trial.set_user_attr("samples_backward", spent)
    # A training that diverged only by its test accuracy has a validation accuracy too, and nothing else may count here.
    if wrong := next((result["reason"] for result in results if "metrics" not in result), None):
        trial.set_user_attr("reason", wrong)
        return (0.0, 1.0) if plan.two_objectives else 0.0  # the worst there is: no accuracy at the cost of all data
    costs = [derived.cost_with_proxy(result) for result in results]
    for name, values in (
        ("prune_ratio", [result["metrics"]["prune_ratio"] for result in results]),
        ("accuracy_validation", [result["metrics"].get("accuracy_validation") for result in results]),
        ("cost", costs),
    ):
        trial.set_user_attr(name, values)
    accuracy = mean(result["metrics"].get("accuracy_validation") for result in results)
    if not plan.two_objectives and is_dear(trial.user_attrs, most := dearest(trial.study)):  # by those that have ended
        trial.set_user_attr("reason", f"it costs {mean(costs):.2f} of full training, more than {most:.2f}")
        return 0.0
    return (accuracy, mean(costs)) if plan.two_objectives else accuracy


def _check_budget(trial: Trial, plan: Plan) -> None:
    """Stop a trial that is one too many, because another machine has taken the last place."""
    taken = [t.number for t in counted(trial.study)]
    taken += [t.number for t in trial.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])]
    if sum(number < trial.number for number in taken) >= plan.trials:
        raise RunFailed("the budget of trials is spent")


def _suggest(trial: Trial, name: str, where: BaseDistribution, given: list[str] | None) -> Any:
    """A value where it is searched, with few digits unless it is among the `given` ones of the trial."""
    if isinstance(where, CategoricalDistribution):
        return trial.suggest_categorical(name, where.choices)
    if isinstance(where, IntDistribution):
        return trial.suggest_int(name, where.low, where.high, log=where.log)
    assert isinstance(where, FloatDistribution)
    value = trial.suggest_float(name, where.low, where.high, log=where.log)
    return value if given is not None else min(max(rounded(value), where.low), where.high)


def _run(spec: RunSpec, plan: Plan, watch: runner.OnEpoch) -> RunResult:
    """Carry out a run, or read it again and show `watch` its epochs."""
    done = is_done(spec.hash)
    result = runner.run(spec, torch.device(plan.device) if plan.device else None, plan.data_root, on_epoch=watch)
    if result["status"] == "FAILED":
        raise RunFailed(result["reason"])
    if done:
        for record in result["epochs"]:
            watch(record)
    return result


# The whole


def tune(plans: Sequence[Plan], jobs: int, executor: Executor | None = None) -> Iterator[tuple[Plan, optuna.Study]]:
    """Carry the studies to their numbers of trials, one after the other; yield each first and after each trial."""
    with ExitStack() as held:
        begun = {plan.name: (plan, _begin(plan, held)) for plan in plans}
        yield from begun.values()
        work = [Job(plan, slot) for plan, study in begun.values() for slot in range(len(counted(study)), plan.trials)]
        for job, outcome in (executor or run_all)(do, work, min(jobs, max(1, len(work)))):
            if isinstance(outcome, Exception) and not isinstance(outcome, RunFailed):
                raise outcome  # no trial's fault; a worker that died is RunFailed, and the others go on
            yield begun[job.plan.name]
        for plan, study in begun.values():
            fail_orphans(study, journal(plan) is not None, everywhere=plan.storage is None)


def _begin(plan: Plan, held: ExitStack) -> optuna.Study:
    """Open the study and hold it, with its first trials in line."""
    try:
        held.enter_context(store.locked(plan.folder / "lock", timeout=0))
    except filelock.Timeout:
        raise UsageError(f"the study {plan.name} is being tuned on this machine; --jobs adds workers") from None
    path = journal(plan)
    held.enter_context(store.told(path or plan.folder))
    if path is not None:
        mend(path)
    study = open_study(plan)
    fail_orphans(study, path is not None, everywhere=plan.storage is None)  # its own journal, which is held
    whole = [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.FAIL or "reason" in t.user_attrs]
    known = [t.system_attrs.get("fixed_params") for t in whole]
    for params in first_trials(plan):
        if params not in known:
            study.enqueue_trial(params, {AT_DEFAULT: list(params)})
    study.set_user_attr("method", plan.method)
    return study
