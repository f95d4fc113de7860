"""A grid's jobs on other machines: engines start them there, and how each went is read from the folder of results.

An engine (slurm.py, ray_tasks.py) only starts errands, tells which are over, and cancels. An errand does one job as the
pool of one machine does, in a process of its own, with the time that a job may take.
"""

from __future__ import annotations

import os
import pickle
import secrets
import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count, islice
from pathlib import Path
from typing import Any

from dpbench import __version__, places, store
from dpbench.errors import RunFailed, UsageError
from dpbench.experiments.executors import Executor, run_all
from dpbench.experiments.gang import run_together
from dpbench.processes import single_threaded

MODULES = {"slurm": "dpbench.experiments.slurm", "ray": "dpbench.experiments.ray_tasks"}
NAMES = ("local", *MODULES)
APART_S = 60.0  # between a node's clock and that of the shared folder
TRIES = 3  # of a job whose node is lost
LAG_S = 10.0  # in which what an errand has written must be seen here, when the engine says that it is over


@dataclass(frozen=True)
class Errand:
    """One job for another machine, and what that machine must have in common with this one."""

    work: bytes  # the pickled function and job: they may be of plug-ins, which are told first
    title: str
    folder: str  # of all errands of a command, in the home that is shared
    name: str
    threads: int
    timeout_s: float | None
    files: dict[str, str]
    cwd: str  # of the command, to which relative paths belong
    cores: int  # that it uses
    key: str  # of the job, by which a machine with other code is known
    version: str = __version__

    def __call__(self) -> None:
        """Do the job, and write that it is over, or what went wrong, where the command looks for it."""
        try:
            self._check()
            places.FILES.update(self.files)
            single_threaded(self.threads)
            with suppress(OSError):
                os.chdir(self.cwd)
            os.environ["DPBENCH_HOME"] = str(Path(self.folder).parents[1])
            work, job = pickle.loads(self.work)
            if job.key != self.key:
                code = "its methods, datasets, models or dpbench differ from those of the machine that started the grid"
                raise RunFailed(f"{socket.gethostname()} has other code: {code}")
            carry_out = partial(run_together, job.devices) if job.devices > 1 else run_all
            [(_, outcome)] = carry_out(work, [job], 1, self.threads, self.timeout_s)
            if isinstance(outcome, BaseException):  # SystemExit, say
                raise outcome if isinstance(outcome, Exception) else RunFailed(repr(outcome))
            (Path(self.folder) / f"{self.name}.over").touch()
        except Exception as error:
            from dpbench.training import account  # torch takes seconds to import, and the command may do without

            said = account.reason(error)
            with suppress(OSError):
                (Path(self.folder) / f"{self.name}.error").write_text(said)
            raise RunFailed(said) from None

    def _check(self) -> None:
        """Refuse a node that would make something else of the job; RunFailed."""
        node = socket.gethostname()
        if not Path(self.folder).is_dir():
            home = Path(self.folder).parents[1]
            raise RunFailed(f"{node} does not see {home}; DPBENCH_HOME must be a folder that all machines share")
        if self.version != __version__:
            raise RunFailed(f"{node} has dpbench {__version__}, and this command is of {self.version}")
        apart = time.time() - store.clock(Path(self.folder))
        if abs(apart) > APART_S:
            raise RunFailed(f"the clock of {node} is {apart:+.0f} s from that of the shared folder; synchronise it")

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """Go on from the run's own checkpoint when Slurm starts the errand again; submitit calls this."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Engine(ABC):
    """What starts errands on other machines."""

    poll_s, lag_s = 2.0, LAG_S

    @abstractmethod
    def start(self, errands: list[Errand], folder: Path) -> list[Any]:
        """Start them; return a handle of each. UsageError where the engine is not there or refuses."""

    @abstractmethod
    def over(self, handles: list[Any]) -> dict[Any, str]:
        """Those of the handles that neither wait nor run any more, each with what the engine knows of its end."""

    @abstractmethod
    def cancel(self, handles: list[Any]) -> None:
        """End them now."""


def executor(name: str, options: dict[str, Any]) -> Executor | None:
    """The executor of that name, None for this machine's own.

    UsageError for an unknown one, a wrong option, or an engine that is not there.
    """
    if name not in NAMES:
        raise UsageError(f"there is no executor {name!r}; known: {', '.join(NAMES)}")
    if name == "local":
        if options:
            raise UsageError(f"the executor local has no option {next(iter(options))!r}; it has --jobs and --threads")
        return None
    engine: Engine = import_module(MODULES[name]).engine(options)
    return partial(send_all, engine)


def send_all(
    engine: Engine,
    work: Callable[[Any], Any],
    jobs: Iterable[Any],
    workers: int,
    threads: int = 1,
    timeout_s: float | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Yield each job, as soon as it is over, with what it `found` in the folder of results, or why there is nothing.

    At most `workers` errands wait or run at a time. Leaving the iterator early cancels them. On a shared folder what a
    node has written may be seen late: an errand that is over counts as lost only after `lag_s` without a trace.
    """
    folder = store.home() / "cluster" / secrets.token_hex(4)
    with store.told(folder):
        folder.mkdir(parents=True)
    numbers, queue, failed = count(1), iter(jobs), False
    again: list[tuple[Any, int]] = []
    flying: dict[Any, tuple[Errand, Any, int]] = {}
    over: dict[Any, tuple[str, float]] = {}  # those of them that have ended: how, and when that was heard

    def errand(job: Any) -> Errand:
        parts = (job.title, str(folder), f"{next(numbers):05d}", threads, timeout_s, dict(places.FILES))
        return Errand(pickle.dumps((work, job)), *parts, str(Path.cwd()), threads * job.devices, job.key)

    try:
        while True:
            room = workers - len(flying)
            new, again = again[:room], again[room:]
            new += [(job, 1) for job in islice(queue, room - len(new))]
            errands = [errand(job) for job, _ in new]
            handles = engine.start(errands, folder) if errands else []
            flying |= {handle: (sent, *part) for handle, sent, part in zip(handles, errands, new, strict=True)}
            if not flying:
                break
            before = len(flying)
            if asked := [handle for handle in flying if handle not in over]:
                over |= {handle: (how, time.monotonic()) for handle, how in engine.over(asked).items()}
            store.look_again(folder)
            for handle, (reason, heard) in list(over.items()):
                sent, job, tries = flying[handle]
                said = store.read(folder / f"{sent.name}.error", Path.read_text)
                ended = (folder / f"{sent.name}.over").is_file() or job.done()
                if said is None and not ended and time.monotonic() - heard < engine.lag_s:
                    continue
                del flying[handle], over[handle]
                if said is None and ended:
                    yield job, job.found()
                elif said is None and tries < TRIES:
                    again.append((job, tries + 1))  # its node is lost, or what ran on it
                else:
                    failed = True
                    yield job, RunFailed(said or f"{reason}; tried {TRIES} times, logs in {folder}")
            if len(flying) == before:
                time.sleep(engine.poll_s)
    finally:
        engine.cancel(list(flying))
    if not failed:
        shutil.rmtree(folder, ignore_errors=True)
