"""How the processes of a run find each other, what they compare before they begin, and how they tell who has left."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

import dpbench
from dpbench import store
from dpbench.errors import RunFailed, UsageError, one_line
from dpbench.spec import RunSpec

T = TypeVar("T")
STORE = "DPBENCH_RANKS"  # names the file in which the ranks that `dpbench run --devices` starts meet
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"  # the network of ranks on one machine
PATIENCE = timedelta(days=30)  # with ranks that still select or read: a death is noticed by a closed connection
ANSWER = timedelta(seconds=10)  # in which a rank says why it has left a run
POLL_S = 0.05
over = threading.Event()  # a rank is gone for good, or all are to stop
_runs = itertools.count()  # in which this process has met others; all ranks count alike


class Lost(RunFailed):
    """Another rank does not answer any more."""


class Meeting:
    """One rank's contact with the others of a run."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.store = dist.PrefixStore(f"run {next(_runs)}", place())

    def leading(self, act: Callable[[], T]) -> T:
        """Do what the first rank does alone, before the others can go on; they hear of it where it fails."""
        try:
            return act()
        except BaseException as error:
            self.store.set("found", f"failed: {one_line(error, 500) or type(error).__name__}")
            raise

    def decided(self, find: Callable[[], T | None]) -> T | None:
        """What the first rank finds, if it finds anything, read by each for itself."""
        if self.rank == 0:
            found = self.leading(find)
            self.store.set("found", "nothing" if found is None else "something")
            return found
        told = heard(self.store, "found")
        if told == "nothing":
            return None
        if told != "something":
            raise RunFailed(f"rank {self.rank} of {self.size}: rank 0 has {told}")
        found = find()
        if found is None:
            unseen = "it does not see what rank 0 does; is $DPBENCH_HOME shared?"
            raise RunFailed(f"rank {self.rank} of {self.size}: {unseen}")
        return found

    @contextmanager
    def joined(self, spec: RunSpec) -> Iterator[None]:
        """Be connected in the block; where a rank leaves it by an error, that ends it in all, with its reason."""
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        own = {"store": dist.PrefixStore("group", self.store), "rank": self.rank, "world_size": self.size}
        mark = store.run_folder(spec.hash) / f"rank0-{uuid.uuid4().hex}"  # a name that no home has yet
        try:
            if self.rank == 0:
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()
            self.store.set(f"here {self.rank}", mark.name)
            # in connecting, nobody would hear that they are told to stop
            marks = [self.talk(heard, self.store, f"here {rank}") for rank in range(self.size)]
            self.talk(dist.init_process_group, backend, timeout=PATIENCE, **own)
            self._compare(spec, mark.with_name(marks[0]))
            yield
            self.talk(dist.barrier)  # nobody closes a connection that another still reads from
        except Lost:
            self._leave("")
            raise RunFailed(self._who()) from None
        except Exception as error:
            self._leave(one_line(error, 500) or type(error).__name__)
            if not self._answer(0):  # it waits for this rank on a GPU, perhaps, which no closed connection ends
                over.set()
            raise
        finally:
            mark.unlink(missing_ok=True)
            if dist.is_initialized():
                dist.destroy_process_group()

    def talk(self, operation: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Do what takes all ranks; Lost if one does not take part."""
        if over.is_set():
            raise Lost("they were told to stop")
        try:
            return operation(*arguments, **named)
        except RuntimeError as error:
            raise Lost(one_line(error, 200)) from error

    def _compare(self, spec: RunSpec, mark: Path) -> None:
        """Refuse ranks of other code, or without the first rank's home, in which it has left a mark."""
        identity = spec.identity
        own: dict[str, Any] = {f"the source of {name}": digest for name, digest in identity["sources"].items()}
        own |= {"dpbench": dpbench.__version__, "protocol": identity["protocol"], "torch": torch.__version__}
        own |= {"the run": identity["spec"], f"$DPBENCH_HOME (is {mark.parent} shared?)": mark.exists()}
        everyone: list[dict[str, Any]] = [{}] * self.size
        self.talk(dist.all_gather_object, everyone, own)
        mark.unlink(missing_ok=True)
        for rank, theirs in enumerate(everyone):
            for what in everyone[0] | theirs:
                if theirs.get(what) != everyone[0].get(what):
                    raise UsageError(f"rank {rank} of {self.size} differs from rank 0 in {what}")

    def _leave(self, why: str) -> None:
        """Say so, and close the connections, by which the ranks that wait for this one hear of it."""
        self.store.set(f"left {self.rank}", why)
        if dist.is_initialized():
            dist.destroy_process_group()

    def _who(self) -> str:
        """Which ranks have left the run, and why, as far as they say."""
        for rank in range(self.size):
            if not self._answer(rank):
                over.set()
                return f"rank {rank} of {self.size} is gone, or does not answer"
        told = {rank: self.store.get(f"left {rank}").decode() for rank in range(self.size)}
        left = [f"rank {rank} of {self.size}: {why}" for rank, why in told.items() if why]
        return "; ".join(left) or f"the {self.size} ranks were stopped, or have lost touch with each other"

    def _answer(self, rank: int) -> bool:
        """Whether a rank says by now that it has left the run."""
        try:
            self.store.wait([f"left {rank}"], ANSWER)
        except (RuntimeError, ValueError):
            return False
        return True


def heard(where: dist.Store, key: str) -> str:
    """What another rank says under this key, as soon as it does; RunFailed where this one is told to stop, or alone."""
    try:
        while not where.check([key]):  # waiting in torch, this process would not take SIGTERM
            if over.is_set():
                raise Lost("a rank is gone, and this one was told to stop")
            time.sleep(POLL_S)  # in `over.wait` the handler of SIGTERM could wait for a lock that this thread holds
        return where.get(key).decode()
    except RuntimeError as error:
        raise Lost(f"the ranks have lost touch with each other: {one_line(error, 200)}") from None


@cache
def place() -> dist.Store:
    """Where the ranks find each other: a file, for those that `dpbench run --devices` starts, or torchrun's store."""
    file, size = os.environ.get(STORE), int(os.environ["WORLD_SIZE"])
    if file:
        return dist.FileStore(file, size)
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    try:
        found, _, _ = next(dist.rendezvous("env://", timeout=timedelta(minutes=5)))
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the ranks cannot meet (MASTER_ADDR, MASTER_PORT): {one_line(error, 200)}") from None
    return found
