"""How a process ended; its cores and its rank; and whether importing what others wrote would end this one."""

from __future__ import annotations

import os
import select
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import parent_process
from typing import Any, NoReturn

from dpbench.errors import UsageError

_IMPORT_S = 60.0


def single_threaded(threads: int) -> None:
    """Workers inherit this: numerical libraries that spin on shared cores slow each other down many times."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)


def ending(code: int) -> str:
    """How a process ended, by its exit code as Python gives it."""
    if code >= 0:
        return f"with exit status {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank_and_size() -> tuple[int, int]:
    """The rank and the number of the processes that torchrun has started; 0 and 1 without it."""
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < max(1, int(size))):
        raise UsageError(f"RANK={rank!r}, WORLD_SIZE={size!r} in the environment are no rank and number of ranks")
    return int(rank), max(1, int(size))


def check_alone(command: str) -> None:
    """Refuse a command that torchrun has started several times; UsageError."""
    if (size := rank_and_size()[1]) > 1:
        raise UsageError(f"{command} needs one process, and torchrun has started {size}; it is for dpbench run alone")


def ends_process(load: Callable[[], Any]) -> str | None:
    """Import what others wrote in a forked child first; say how that ended the child, None where it did not.

    What takes longer than a minute there is no longer waited for. A worker need not ask: its parent tells its end.
    """
    if parent_process() is not None or not hasattr(os, "fork"):
        return None
    read, write = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # of forks beside threads: the child does not use what they lock
        child = os.fork()
    if not child:
        _try_in_child(load, write)
    os.close(write)
    answered = bool(select.select([read], [], [], _IMPORT_S)[0])
    survived = not answered or os.read(read, 1) == b"1"
    os.close(read)
    if survived:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if survived else ending(code)


def _try_in_child(load: Callable[[], Any], write: int) -> NoReturn:
    """Import silently and tell the parent that this process is still there."""
    try:
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silence, stream)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # a fork has none of its parent's threads
        with suppress(BaseException):  # the import in the parent tells what it raises
            load()
        os.write(write, b"1")
    finally:
        os._exit(0)
