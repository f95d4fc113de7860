"""Run jobs in worker processes that die with their parent; a worker that dies takes only its own job with it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from dpbench.errors import RunFailed

J = TypeVar("J")
_CONTEXT = get_context("spawn")
_DIED = RunFailed("the worker process died: it was killed, perhaps for want of memory")


def run_all(work: Callable[[J], Any], jobs: Iterable[J], workers: int, threads: int = 1) -> Iterator[tuple[J, Any]]:
    """Yield each job with its result, or with the exception it raised, as they come.

    When a worker process dies, the jobs that were running are tried again one at a time: the one that kills its process
    again has failed. Leaving the iterator early stops the workers at once.
    """
    suspects: list[J] = []
    yield from _pass(work, jobs, workers, threads, suspects)
    for job in suspects:
        lost: list[J] = []
        yield from _pass(work, [job], 1, threads, lost)
        if lost:
            yield job, _DIED


def _pass(
    work: Callable[[J], Any], jobs: Iterable[J], workers: int, threads: int, lost: list[J]
) -> Iterator[tuple[J, Any]]:
    """Run jobs in pools of `workers`, a new pool after each that broke; jobs that were running then go to `lost`."""
    queue = iter(jobs)
    exhausted = False
    while not exhausted:
        leash, held = _CONTEXT.Pipe(duplex=False)
        pool = ProcessPoolExecutor(workers, _CONTEXT, _start_worker, (threads, leash))
        running: dict[Future[Any], J] = {}
        broken = False
        try:
            while not broken:
                while len(running) < workers and not exhausted:
                    try:
                        job = next(queue)
                    except StopIteration:
                        exhausted = True
                        break
                    try:
                        running[pool.submit(work, job)] = job
                    except BrokenProcessPool:  # a worker died since the last wait
                        lost.append(job)
                        broken = True
                        break
                if broken or not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    job, error = running.pop(future), future.exception()
                    if isinstance(error, BrokenProcessPool):
                        lost.append(job)
                        broken = True
                    else:
                        yield job, error if error is not None else future.result()
        finally:
            if running and not broken:
                held.close()
            lost.extend(running.values() if broken else ())
            pool.shutdown(wait=True, cancel_futures=True)
            held.close()
            leash.close()


def _start_worker(threads: int, leash: Connection) -> None:
    """Prepare a worker: Ctrl-C is the parent's to handle, and the worker ends when the parent lets go of the leash."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        leash.poll(None)  # nothing is ever sent: it returns when the parent closes its end, or is gone
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
