"""Processes that torch.distributed joins, forked from one that has imported torch, so that they start at once."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "dpbench.training.runner", "dpbench.training.sampler", "dpbench.methods.full"])
PATIENCE_S = 100


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def on_ranks(size: int, work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `work(rank, *arguments)` returns on each of `size` processes with the environment of torchrun."""
    folder.mkdir(parents=True, exist_ok=True)
    port, context = free_port(), (size, work, str(folder), arguments)
    ranks = [FORKS.Process(target=_be_rank, args=(rank, port, *context)) for rank in range(size)]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(PATIENCE_S)
        assert [process.exitcode for process in ranks] == [0] * size
    finally:
        for process in ranks:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _be_rank(
    rank: int, port: int, size: int, work: Callable[..., Any], folder: str, arguments: tuple[Any, ...]
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    code = 0
    try:
        torch.save(work(rank, *arguments), f"{folder}/{rank}.pt")
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # no rank closes its connections while the other still uses them
            torch.distributed.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)  # torch's threads sometimes abort a process while Python shuts down


class Forking:
    """In the place of multiprocessing's context of the workers: forked as above, with the environment of now."""

    Pipe = FORKS.Pipe

    def Process(self, target: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return FORKS.Process(target=_with_environment, args=(dict(os.environ), target, args))


def _with_environment(environment: dict[str, str], target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*args)
