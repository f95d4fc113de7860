"""Tune the hyper-parameters that a method declares, by Optuna: equal trials, validation accuracy, seeds of its own.

A study's number of trials is that of those that ended, complete or failed. Pruned ones come on top, at most TRIES - 1
for each.

A study's folder, $DPBENCH_HOME/tune/STUDY/, holds its journal, its figures and the grid of its best configuration. The
cells of a trial are runs like any other: a trial that was cut off is repeated, and its finished runs are read again.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from dpbench import catalog, store
from dpbench.errors import RunFailed, UsageError, check_keep, redact
from dpbench.experiments.controls import DECOMPOSED
from dpbench.experiments.executors import run_all
from dpbench.rng import derive
from dpbench.spec import Grid, RunSpec, canonical, identity_hash
from dpbench.training import account, derived, runner
from dpbench.training.results import EpochRecord, RunResult, is_done

SEED = 1000  # the first seed of tuning; a grid's seeds start at 0, so that final figures come from fresh seeds
KEEP = FloatDistribution(0.05, 1.0)  # where two objectives search it
MOST = 10_000  # trials of a study, seeds of a trial
TRIES = 3  # the last of them is not pruned, so that every place of the budget ends with a complete trial
DIGITS = 4  # of a real parameter: enough for any effect, and readable
HEARTBEAT_S = 30  # of a trial in a database; one silent for four times as long has died

Space = dict[str, BaseDistribution]

optuna.logging.set_verbosity(optuna.logging.WARNING)


class _Stop(BaseException):
    """Ends a run early. No Exception, because the runner records those as failures."""


@dataclass(frozen=True)
class Plan:
    """What one study does. `method` may fix parameters in brackets; `grid` gives recipe, budget and final seeds."""

    method: str
    dataset: str
    model: str
    keep: float
    trials: int
    seeds: int
    grid: Grid
    params: tuple[str, ...] = ()  # the parameters to search; none given: those that `space` finds
    two_objectives: bool = False
    storage: str | None = None  # a database's URL or a journal's path
    data_root: Path | None = None
    device: str = "cpu"
    data: str = dataclasses.field(init=False)  # the fingerprint of the samples: workers, which may load others, keep it

    def __post_init__(self) -> None:
        for value, option in ((self.trials, "--trials"), (self.seeds, "--seeds")):
            if not 1 <= value <= MOST:
                raise UsageError(f"{option} {value}: a number from 1 to {MOST:,}")
        check_keep(self.keep, f"--keep {self.keep:g}")
        catalog.load_dataset(self.dataset)
        catalog.check_model(self.model)
        method = catalog.load_method(self.method)
        if method.requires().fixed_keep is not None:
            raise UsageError(f"{self.method} keeps a fixed share of the samples; there is nothing to tune")
        space = self.space(self.keep)
        for name in self.params:
            if name not in space:
                raise UsageError(f"{self.method}: {name!r} cannot be searched; {_searchable(self.method)}")
        if not space:
            raise UsageError(f"{self.method} has no parameters to tune; {_searchable(self.method)}")
        found = runner.fingerprints([self.dataset], self.data_root)
        object.__setattr__(self, "data", found[self.dataset])

    @property
    def name(self) -> str:
        """The study's name: what is tuned, and a digest of all that its values depend on."""
        content = {
            "identity": self.spec({}, self.keep, SEED).identity,  # of the first run, which has all that all share
            **{key: getattr(self, key) for key in ("seeds", "params", "two_objectives")},
        }
        words = [self.short, self.dataset, self.model]
        return f"{slug('-'.join(words))}-keep{self.keep:g}-{identity_hash(content)[:8]}"

    @property
    def short(self) -> str:
        """The method's name without parameters."""
        return catalog.parse(catalog.resolve(self.method))[0]

    @property
    def folder(self) -> Path:
        """Where the study's files are."""
        return store.home() / "tune" / self.name

    @property
    def fixed(self) -> dict[str, Any]:
        """The parameters that the method's text fixes."""
        return catalog.parse(self.method)[1]

    def space(self, keep: float) -> Space:
        """What is searched at this share kept: every declared range, but for what is fixed."""
        found = declared(self.short)
        chosen = self.params
        if self.short in DECOMPOSED:  # it is searched alone, in [keep, 1]
            at = DECOMPOSED[self.short]
            found[at] = FloatDistribution(max(keep, found[at].low), 1.0)  # type: ignore[attr-defined]
            chosen = chosen or (at,)
        return {
            name: where for name, where in found.items() if name not in self.fixed and (not chosen or name in chosen)
        }

    def text(self, params: dict[str, Any]) -> str:
        """The method with these parameters, readable in another process too: a plug-in's file by its full path."""
        path, fixed = catalog.parse(self.method)
        file, dot, rest = path.partition(".py")
        where = f"{Path(file).expanduser().resolve()}{dot}{rest}" if dot else path
        return catalog.label(where, fixed | params)

    def spec(self, params: dict[str, Any], keep: float, seed: int) -> RunSpec:
        """One run of a trial; gradients are not probed."""
        return RunSpec(
            dataset=self.dataset,
            model=self.model,
            method=canonical(self.text(params)),
            keep=keep,
            seed=seed,
            recipe=self.grid.recipe,
            budget=self.grid.budget,
            probe={"every": 0},
            data=self.data,
        )


def declared(name: str) -> Space:
    """The ranges that a method's parameters declare; one without a range, or with an open end, keeps its default."""
    found: Space = {}
    for field in catalog.searched(name):
        low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
        if choices is not None:
            found[field.name] = CategoricalDistribution(choices)
        else:
            whole = isinstance(low if field.default is None else field.default, int)
            kind = IntDistribution if whole else FloatDistribution
            found[field.name] = kind(low, high, log=field.metadata["log"])
    return found


def tunable() -> list[str]:
    """The methods that have something to tune; one that cannot be imported or searched is left out."""

    def fits(name: str) -> bool:
        try:
            return bool(declared(name)) and catalog.load_method(name).requires().fixed_keep is None
        except UsageError:
            return False

    return [name for name in catalog.method_names() if fits(name)]


def _searchable(method: str) -> str:
    names = declared(catalog.parse(catalog.resolve(method))[0])
    return f"it declares {', '.join(names)}" if names else "a range is declared by param(default, low=..., high=...)"


def slug(text: str) -> str:
    """The text as part of a file's name."""
    return re.sub(r"[^\w.]+", "-", text, flags=re.ASCII)[:80].strip("-")


# The study


def journal(plan: Plan) -> Path | None:
    """The study's journal, None if it lies in a database."""
    if plan.storage is None:
        return plan.folder / "journal.log"
    if "://" in plan.storage:
        return None
    path = Path(plan.storage).resolve()
    if path.is_dir() or not path.name:
        raise UsageError(f"--storage {plan.storage} is a folder; give a database's URL or the path of a file")
    return path


def _lock(path: Path) -> filelock.BaseFileLock:
    """The journal's lock, which the system releases when its holder is killed; Optuna's own would stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(path.with_suffix(".lock"))


def open_study(plan: Plan, seed: int = 0) -> optuna.Study:
    """Open the study, made if it is new; `seed` is the sampler's."""
    path = journal(plan)
    try:
        if path is not None:
            lock: Any = _lock(path)
            backend = JournalFileBackend(str(path), lock_obj=lock)
            storage: Any = optuna.storages.JournalStorage(backend)
        else:
            with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
                storage = optuna.storages.RDBStorage(
                    plan.storage or "", heartbeat_interval=HEARTBEAT_S, grace_period=4 * HEARTBEAT_S
                )
        return optuna.create_study(
            study_name=plan.name,
            storage=storage,
            load_if_exists=True,
            directions=["maximize", "minimize"] if plan.two_objectives else ["maximize"],
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, 1 + plan.trials // 3)),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=plan.grid.recipe.epochs // 3),
        )
    except Exception as error:  # a bad address, a missing driver, a file that is no journal
        if path is not None and isinstance(error, OSError):
            with store.told(path):  # a full disk, a folder that is not to be written to
                raise
        text = f"cannot keep the study in {plan.storage or path}: {account.reason(error)}"
        raise UsageError(redact(text)) from None


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that are complete, pruned, or failed by the method; not those cut off from outside."""
    own = (TrialState.COMPLETE, TrialState.PRUNED)
    return [t for t in study.get_trials(deepcopy=False) if t.state in own or "reason" in t.user_attrs]


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of the budget: those that ended, but for the pruned ones."""
    return [t for t in ended(study) if t.state != TrialState.PRUNED]


def _mend(path: Path) -> None:
    """Cut off the line that a killed process left half written."""
    with _lock(path):
        content = path.read_bytes() if path.is_file() else b""
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


def _fail_orphans(study: optuna.Study, nameless: bool) -> None:
    """Fail the running trials whose process on this machine is gone, and put their parameters in line again.

    `nameless` includes trials that had no time to say where they run.
    """
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        where = trial.user_attrs.get("worker")
        if (where is None and nameless) or (where and where[0] == platform.node() and not _alive(where[1])):
            study.tell(trial.number, state=TrialState.FAIL)
            if params := trial.system_attrs.get("fixed_params", {}) | trial.params:  # fixed: it stood in line before
                study.enqueue_trial(params)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


# A trial


@dataclass(frozen=True)
class Job:
    """One place of the budget, carried out in a worker. `slot` counts the places and seeds the sampler."""

    plan: Plan
    slot: int

    def __call__(self) -> None:
        study = open_study(self.plan, derive(SEED, "sampler", self.slot) % 2**32)
        _fail_orphans(study, nameless=False)
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
    keep = _suggest(trial, "keep", KEEP) if plan.two_objectives else plan.keep
    params = {name: _suggest(trial, name, where) for name, where in plan.space(keep).items()}
    trial.set_user_attr("method", plan.text(params))
    trial.set_user_attr("keep", keep)
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
    return (accuracy, mean(costs)) if plan.two_objectives else accuracy


def _check_budget(trial: Trial, plan: Plan) -> None:
    """Stop a trial that is one too many, because another machine has taken the last place."""
    taken = [t.number for t in counted(trial.study)]
    taken += [t.number for t in trial.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])]
    if sum(number < trial.number for number in taken) >= plan.trials:
        raise RunFailed("the budget of trials is spent")


def _suggest(trial: Trial, name: str, where: BaseDistribution) -> Any:
    if isinstance(where, CategoricalDistribution):
        return trial.suggest_categorical(name, where.choices)
    if isinstance(where, IntDistribution):
        return trial.suggest_int(name, where.low, where.high, log=where.log)
    assert isinstance(where, FloatDistribution)
    value = trial.suggest_float(name, where.low, where.high, log=where.log)
    return min(max(float(f"{value:.{DIGITS}g}"), where.low), where.high)


def _run(spec: RunSpec, plan: Plan, watch: runner.OnEpoch) -> RunResult:
    """Carry out a run, or read it again and show `watch` its epochs."""
    done = is_done(spec.hash)
    result = runner.run(spec, torch.device(plan.device), plan.data_root, on_epoch=watch)
    if result["status"] == "FAILED":
        raise RunFailed(result["reason"])
    if done:
        for record in result["epochs"]:
            watch(record)
    return result


def mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


# The whole


def tune(plan: Plan, jobs: int) -> Iterator[optuna.Study]:
    """Carry the study to its number of trials; yield it first and after each trial."""
    with ExitStack() as held:
        try:
            held.enter_context(store.locked(plan.folder / "lock", timeout=0))
        except filelock.Timeout:
            raise UsageError(f"the study {plan.name} is being tuned on this machine; --jobs adds workers") from None
        path = journal(plan)
        held.enter_context(store.told(path or plan.folder))
        if path is not None:
            _mend(path)
        study = open_study(plan)
        _fail_orphans(study, nameless=path is not None)
        default = {name: getattr(catalog.load_method(plan.method), name) for name in plan.space(plan.keep)}
        if plan.two_objectives:
            default["keep"] = plan.keep
        if not study.get_trials(deepcopy=False) and _inside(default, plan):
            study.enqueue_trial({name: value for name, value in default.items() if value is not None})
        study.set_user_attr("method", plan.method)
        yield study
        first = len(counted(study))
        work = [Job(plan, slot) for slot in range(first, plan.trials)]
        for _, outcome in run_all(do, work, min(jobs, max(1, len(work)))):
            if isinstance(outcome, Exception) and not isinstance(outcome, RunFailed):
                raise outcome  # no trial's fault; a worker that died is RunFailed, and the others go on
            yield study
        _fail_orphans(study, nameless=path is not None)


def _inside(params: dict[str, Any], plan: Plan) -> bool:
    """Whether the configuration lies in the searched space; None is a default that the method works out itself."""
    space = plan.space(plan.keep) | {"keep": KEEP}

    def fits(value: Any, where: Any) -> bool:
        return (
            value in where.choices if isinstance(where, CategoricalDistribution) else where.low <= value <= where.high
        )

    return all(value is None or fits(value, space[name]) for name, value in params.items())
