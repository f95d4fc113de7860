"""Run jobs in worker processes that die with their parent; a job that ends or blocks its process takes no other along.

Each worker leads a process group of its own, which is killed when the worker ends, so that what a job started (threads,
children, their children) never outlives it.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias, TypeVar

from dpbench import places
from dpbench.errors import RunFailed
from dpbench.processes import ending

J = TypeVar("J")
Executor: TypeAlias = Callable[..., Iterator[tuple[Any, Any]]]  # of `run_all`'s parameters and answers
AT_ONCE = 64  # jobs that wait or run on a cluster, unless --jobs says otherwise
_CONTEXT = get_context("spawn")
_POLL_S = 1.0  # a child that a job has forked holds the worker's pipes open: its end must be asked for


def run_all(
    work: Callable[[J], Any],
    jobs: Iterable[J],
    workers: int,
    threads: int = 1,
    timeout_s: float | None = None,
    start: Callable[..., Worker] | None = None,
) -> Iterator[tuple[J, Any]]:
    """Yield each job, as soon as it ends, with its result or with the exception it raised.

    A job that has not ended after `timeout_s` is killed and has failed, and so has one whose process dies; one that was
    killed from outside beside others, perhaps for the memory that they took, is first tried again alone. Leaving the
    iterator early stops the workers at once. `start` makes a worker, where one is more than a process.
    """
    queue, exhausted = iter(jobs), False
    slots = list(range(workers))
    start = start or _worker
    idle: list[Worker] = []
    busy: dict[Worker, J] = {}
    again: list[J] = []
    try:
        while True:
            while len(busy) < workers and not exhausted:
                try:
                    job = next(queue)
                except StopIteration:
                    exhausted = True
                    break
                while idle and not idle[-1].alive():
                    idle[-1].end()
                    slots.append(idle.pop().slot)
                worker = idle.pop() if idle else start(work, threads, slots.pop(0))
                busy[worker] = job
                worker.start(job, timeout_s)
            if not busy:
                break
            for worker in _ended(list(busy)):
                job, outcome = busy.pop(worker), worker.outcome
                if worker.alive():
                    idle.append(worker)
                else:
                    worker.end()
                    slots.append(worker.slot)
                if worker.killed and workers > 1:
                    again.append(job)
                else:
                    yield job, outcome
    finally:
        for worker in [*busy, *idle]:
            worker.end()
    if again:
        yield from run_all(work, again, 1, threads, timeout_s, start)


def _worker(work: Callable[[Any], Any], threads: int, slot: int) -> Worker:
    """A process that does one job after another; where there are several GPUs, it sees one of them."""
    gpus = _gpus()
    return Worker(work, threads, slot, {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})


def _gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them, where there are several."""
    torch = sys.modules.get("torch")  # who has not imported it has no work for a GPU
    count = torch.cuda.device_count() if torch else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [] if count < 2 else visible if len(visible) == count else [str(i) for i in range(count)]


def _ended(busy: list[Worker]) -> list[Worker]:
    """Wait until some of the workers have an outcome; return these."""
    while not (ended := [worker for worker in busy if worker.over()]):
        wait([connection for worker in busy for connection in worker.connections()], _POLL_S)
    return ended


class Worker:
    """A process that does one job after another, with `variables` in its environment."""

    def __init__(
        self, work: Callable[[Any], Any], threads: int, slot: int, variables: dict[str, str] | None = None
    ) -> None:
        self.slot = slot
        self.connection, theirs = _CONTEXT.Pipe()
        leash, self.held = _CONTEXT.Pipe(duplex=False)
        arguments = (places.FILES, pickle.dumps(work), threads, variables or {}, theirs, leash)
        self.process = _CONTEXT.Process(target=_serve, args=arguments)
        self.process.start()
        theirs.close()
        leash.close()
        self.ended = self.ready = False

    def start(self, job: Any, timeout_s: float | None) -> None:
        """Hand a job over; how it went is in `outcome` when `over` says so."""
        self.outcome: Any = None
        self.killed = self.died = False
        self.timeout_s, self.began = timeout_s, time.monotonic()
        with suppress(OSError):  # it has died, as `over` will find
            self.connection.send(job)

    def connections(self) -> list[Connection]:
        """By what it tells that something has happened."""
        return [self.connection]

    def over(self) -> bool:
        """Whether the job has ended, in whatever way."""
        if self.connection.poll():
            try:
                message = self.connection.recv()
                if message is None:  # the process has started: its first job's time runs from now
                    self.ready, self.began = True, time.monotonic()
                    return False
                self.outcome, spent = message
            except (EOFError, ConnectionResetError):
                self.process.join(_POLL_S)
                self._died()
            except Exception as error:  # an exception that cannot be made again from its pickle, say
                self.outcome = RunFailed(f"its result cannot be read: {type(error).__name__}: {error}")
            else:
                self.ended = spent
        elif self.process.exitcode is not None:
            self._died()
        elif self.ready and self.timeout_s is not None and time.monotonic() - self.began > self.timeout_s:
            self.outcome = RunFailed(f"did not end within {self.timeout_s:g} s (--cell-timeout); it was killed")
            self.ended = self.died = True
        else:
            return False
        return True

    def _died(self) -> None:
        """Say why, as the process's end tells it."""
        code = self.process.exitcode
        if code is None:
            reason = "it closed its connection"
        elif code >= 0:
            reason = f"it ended itself {ending(code)}"
        else:
            reason = f"it was killed {ending(code)}"
            self.killed = code == -signal.SIGKILL
            reason += ", perhaps for want of memory" if self.killed else ""
        self.outcome = RunFailed(f"the worker process died: {reason}")
        self.ended = self.died = True

    def alive(self) -> bool:
        """Whether it can do another job."""
        return not self.ended and self.process.exitcode is None

    def end(self) -> None:
        """Kill the process and all that its jobs have left behind."""
        self.ended = True
        self.process.kill()
        assert self.process.pid is not None
        with suppress(ProcessLookupError, PermissionError):  # the group is empty; macOS says: of zombies only
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.connection.close()
        self.held.close()


def _serve(
    files: dict[str, str],
    work: bytes,
    threads: int,
    variables: dict[str, str],
    connection: Connection,
    leash: Connection,
) -> None:
    """Be a worker: do the jobs that come, each in the process state that the first found, until the parent kills it.

    `files` are the single files that the parent knows as plug-ins; the work and the jobs may be made of their classes.
    """
    places.FILES.update(files)
    os.environ.update(variables)  # before CUDA is asked for anything
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    def watch() -> None:
        leash.poll(None)  # nothing is ever sent: it returns when the parent closes its end, or is gone
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    import torch

    from dpbench import isolation

    torch.set_num_threads(threads)
    do, own, process = pickle.loads(work), threading.active_count(), os.getpid()
    connection.send(None)
    while True:
        outcome: Any
        try:
            job = connection.recv()
            with isolation.restored():
                outcome = do(job)
        except BaseException as error:
            outcome = error
        if os.getpid() != process:  # a child that the job has forked and that came back from it
            os._exit(1)
        _flush()
        spent = threading.active_count() > own or _has_children()
        try:
            connection.send((outcome, spent))
        except Exception as error:  # it cannot be pickled
            connection.send((error, spent))


def _flush() -> None:
    """Write what the job has printed; the process ends without doing it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _has_children() -> bool:
    """Whether there is a child process, running or not waited for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, AttributeError):  # no child; macOS has no waitid before Python 3.13
        return False
    return True
