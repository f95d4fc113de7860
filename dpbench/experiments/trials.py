"""Where a study's trials are kept: a journal in its folder, or a database that several machines share."""

from __future__ import annotations

import os
import platform
import warnings
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from dpbench import store
from dpbench.errors import UsageError, redact
from dpbench.experiments.plan import SEED, Plan
from dpbench.training import account

AT_DEFAULT = "at default"  # of a trial that stands in line from the beginning: the names of what alone it is asked
HEARTBEAT_S = 30  # of a trial in a database; one silent for four times as long has died

optuna.logging.set_verbosity(optuna.logging.WARNING)


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
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=5, n_warmup_steps=plan.spec({}, plan.keep, SEED).recipe.epochs // 3
            ),
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


def spent(study: optuna.Study) -> int:
    """The samples that its trials sent backward, the pruned and the failed ones included."""
    return sum(t.user_attrs.get("samples_backward", 0) for t in ended(study))


def mend(path: Path) -> None:
    """Cut off the line that a killed process left half written."""
    with _lock(path):
        content = path.read_bytes() if path.is_file() else b""
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


def fail_orphans(study: optuna.Study, nameless: bool, everywhere: bool = False) -> None:
    """Fail the running trials whose process on this machine is gone, and put their parameters in line again.

    `nameless` includes trials that had no time to say where they run, `everywhere` all, where nobody else can be at it.
    """
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        where = trial.user_attrs.get("worker")
        if (
            everywhere
            or (where is None and nameless)
            or (where and where[0] == platform.node() and not _alive(where[1]))
        ):
            study.tell(trial.number, state=TrialState.FAIL)
            first = {AT_DEFAULT: trial.user_attrs[AT_DEFAULT]} if AT_DEFAULT in trial.user_attrs else {}
            params = trial.system_attrs.get("fixed_params", {}) | trial.params  # fixed: it stood in line before
            if params or first:
                study.enqueue_trial(params, first)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
