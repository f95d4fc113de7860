"""A grid under torchrun: the first rank goes through it, and the others carry out each run with it."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dpbench.errors import RunFailed
from dpbench.processes import rank_and_size
from dpbench.spec import RunSpec

if TYPE_CHECKING:
    import torch

J = TypeVar("J")
_told = itertools.count()  # runs that were told, or heard of


@contextmanager
def leading() -> Iterator[None]:
    """Let the other ranks, if there are any, go at the end of the block."""
    try:
        yield
    finally:
        if rank_and_size()[1] > 1:
            _tell("")


def lead(
    do: Callable[[J], Any], jobs: Iterable[J], workers: int, threads: int = 1, timeout_s: float | None = None
) -> Iterator[tuple[J, Any]]:
    """Do the jobs in this process, runs together with the other ranks; yield each with its result or exception."""
    _begin(threads)
    for job in jobs:
        if isinstance(work := getattr(job, "work", None), RunSpec):
            _tell(work.model_dump_json())
        yield job, _outcome(do, job)
        _go_on()


def follow(device: torch.device, threads: int, data_root: Path | None) -> None:
    """Carry out the runs that the first rank tells of, until it has no more."""
    from dpbench.training import meeting, runner

    _begin(threads)
    for number in _told:
        text = meeting.heard(meeting.place(), f"told {number}")
        if not text:
            return
        spec = RunSpec.model_validate_json(text)
        spec.identity  # noqa: B018  a rank that lacks a source leaves at once, which ends all; the others would wait
        _outcome(lambda spec: runner.run(spec, device, data_root), spec)
        _go_on()


def _tell(text: str) -> None:
    from dpbench.training import meeting

    meeting.place().set(f"told {next(_told)}", text)


def _begin(threads: int) -> None:
    import torch

    from dpbench.training import meeting

    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, lambda *_: meeting.over.set())  # as torchrun sends it when a rank has died


def _outcome(do: Callable[[J], Any], job: J) -> Any:
    from dpbench import isolation

    try:
        with isolation.restored():
            return do(job)
    except Exception as error:
        return error


def _go_on() -> None:
    from dpbench.training import meeting

    if meeting.over.is_set():
        raise RunFailed("a rank is gone; what is finished is kept, the same command continues")
