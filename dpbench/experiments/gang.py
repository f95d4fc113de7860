"""Workers that do each job together, one on each of several devices of this machine: the ranks of a run."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, TypeVar

from dpbench.errors import RunFailed, UsageError
from dpbench.experiments import launched
from dpbench.experiments.executors import Worker, run_all
from dpbench.processes import cores, rank_and_size

if TYPE_CHECKING:
    import torch

J = TypeVar("J")
GRACE_S = 30.0  # in which the others end after one has failed


def run_together(
    devices: int,
    work: Callable[[J], Any],
    jobs: Iterable[J],
    workers: int,
    threads: int = 1,
    timeout_s: float | None = None,
) -> Iterator[tuple[J, Any]]:
    """`run_all` of workers that are each a gang of `devices` processes; the outcome of a job is that of the first."""
    return run_all(work, jobs, workers, threads, timeout_s, partial(Gang, devices=devices))


def of(devices: int, device: torch.device, jobs: int | None, threads: int) -> tuple[int, Callable[..., Any]]:
    """How many runs of `devices` devices are carried out at once, and by which executor.

    UsageError where this machine has less than that takes.
    """
    if rank_and_size()[1] > 1:
        return 1, launched.lead
    cuda = device.type == "cuda"
    there, what = room(device)
    if cuda and devices > there:
        raise UsageError(f"--devices {devices}: this machine has {there} {what}")
    takes = devices * (1 if cuda else threads)
    if jobs is not None and jobs > 1 and jobs * takes > there:
        each = f"{devices} devices" + ("" if cuda or threads == 1 else f" of {threads} threads")
        raise UsageError(f"--jobs {jobs} of {each} each are more than the {there} {what} of this machine")
    return jobs or max(1, there // takes), partial(run_together, devices)


def room(device: torch.device) -> tuple[int, str]:
    """How many processes find a place of their own on this machine, and what place that is."""
    import torch

    return (torch.cuda.device_count(), "GPUs") if device.type == "cuda" else (cores(), "cores")


class Gang(Worker):
    """The processes of one run after another. The death of one ends all; what one raises, the others hear of."""

    def __init__(self, work: Callable[[Any], Any], threads: int, slot: int, devices: int) -> None:
        from dpbench.training.meeting import LOOPBACK, STORE

        self.slot = slot
        self.folder = tempfile.mkdtemp(prefix="dpbench-ranks-")
        shared = {"WORLD_SIZE": str(devices), STORE: os.path.join(self.folder, "store")}
        shared |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), LOOPBACK)
        self.members: list[Worker] = []
        self.ended = False
        for rank in range(devices):
            own = {"RANK": str(rank), "LOCAL_RANK": str(slot * devices + rank)}
            self.members.append(Worker(work, threads, slot, shared | own))

    def start(self, job: Any, timeout_s: float | None) -> None:
        """Hand a job over to all."""
        self.outcome: Any = None
        self.killed = False
        self.running = list(enumerate(self.members))
        self.failed_at: float | None = None
        for member in self.members:
            member.start(job, timeout_s)

    def connections(self) -> list[Connection]:
        """By what those tell that have not ended the job."""
        return [member.connection for _, member in self.running]

    def over(self) -> bool:
        """Whether the job has ended: by all, or by one that died, or that failed and waits in vain for the others."""
        over = [(rank, member) for rank, member in self.running if member.over()]
        self.running = [item for item in self.running if item not in over]
        for rank, member in over:
            if member.died:
                self.killed = member.killed
                return self._ends(rank, member)
            if isinstance(member.outcome, BaseException) and self.failed_at is None:
                self.failed_at, self.first_failed = time.monotonic(), (rank, member)
        if not self.running:
            self.outcome = self.members[0].outcome
            failed = any(isinstance(member.outcome, BaseException) for member in self.members)  # they parted for good
            self.ended = failed or not all(member.alive() for member in self.members)
            return True
        if self.failed_at is not None and time.monotonic() - self.failed_at > GRACE_S:
            return self._ends(*self.first_failed)
        return False

    def _ends(self, rank: int, member: Worker) -> bool:
        self.outcome = RunFailed(f"rank {rank} of {len(self.members)}: {member.outcome}")
        self.ended = True
        return True

    def alive(self) -> bool:
        """Whether all can do another job."""
        return not self.ended and all(member.alive() for member in self.members)

    def end(self) -> None:
        """Kill them all."""
        self.ended = True
        for member in self.members:
            member.end()
        with suppress(OSError):
            shutil.rmtree(self.folder)
