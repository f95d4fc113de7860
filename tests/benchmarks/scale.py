"""Dynamic selections of up to 1e8 samples, in one process and on 4 ranks: against one argpartition, and in memory."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from typing import Any

import numpy as np
import torch
from static import cpu_seconds, in_fresh_process
from torch import Tensor

from dpbench import catalog
from dpbench.method import Signals, Task
from dpbench.training import ledger
from dpbench.training.sharded import SELECTS, ShardedSelection

Row = tuple[str, float, str, float]  # what, measured, unit, and the target: at most, or at least where negative

KEEP, CLASSES, EPOCHS, RANKS = 0.3, 10, 200, 4
AT_ONCE = 2**22  # samples that are observed together
TIME, MEMORY = 3.0, 160.0  # targets: times an argpartition; bytes a sample, so that 1e8 samples fit 16 GB


def setup(name: str, n: int) -> Any:
    """The method in one process, which has observed all n samples."""
    method = catalog.load_method(name)
    labels = torch.arange(n) % CLASSES if name == "rcap" else None
    method.setup(Task(n, EPOCHS, 128, KEEP, labels), torch.Generator().manual_seed(0))
    for rows in (torch.arange(start, min(start + AT_ONCE, n)) for start in range(0, n, AT_ONCE)):
        method.observe(Signals(rows, measured(rows), 0))
    return method


def measured(rows: Tensor) -> dict[str, Tensor]:
    """Signals as in the middle of a training."""
    loss = torch.empty(len(rows)).exponential_()
    return {"loss": loss, "correct": (loss < 0.7).float(), "prob_y": (-loss).exp()}


def state_bytes(method: Any) -> int:
    """Of the tensors that it keeps, an alias once."""
    return sum(
        {value.data_ptr(): value.nbytes for value in vars(method).values() if isinstance(value, Tensor)}.values()
    )


def argpartition_seconds(name: str, n: int) -> float:
    """Of what the method ranks: its candidates, else all samples."""
    scores = np.random.default_rng(0).random(round(0.8 * n) if name == "orderdp" else n, dtype=np.float32)
    return cpu_seconds(lambda: np.argpartition(scores, len(scores) - round(KEEP * n)))


def repeats(n: int) -> int:
    return 3 if n > 10**6 else 5


def alone(n: int) -> list[Row]:
    """Each method in one process: processor time over that of one argpartition, and memory with the state."""
    torch.set_num_threads(1)
    return [row for name in SELECTS for row in select_alone(name, n)]


def select_alone(name: str, n: int) -> list[Row]:
    before = memory_now()
    method = setup(name, n)
    ledger.reset_peak_memory()
    taken = median([cpu_seconds(lambda: method.select(1)) for _ in range(repeats(n))])
    peak = (ledger.peak_memory_mb() - before) * 2**20 / n
    state = state_bytes(method) / n
    limit = median([argpartition_seconds(name, n) for _ in range(repeats(n))])
    what = f"{name}, n = {n:.0e}"
    return [
        (f"{what}: select ({taken:.2g} s) / argpartition, processor time", taken / limit, "x", TIME),
        (f"{what}: memory in a select, state {state:.3g}", peak, "bytes a sample", MEMORY),
    ]


def memory_now() -> float:
    """MiB that this process holds."""
    ledger.reset_peak_memory()
    return ledger.peak_memory_mb()


def on_one() -> list[Row]:
    """Each method with 1e6 and 1e7 samples."""
    return [row for n in (10**6, 10**7) for row in in_fresh_process(alone, n)]


def on_one_large() -> list[Row]:
    """Each method with 1e8 samples."""
    return in_fresh_process(alone, 10**8)  # type: ignore[no-any-return]


def on_ranks() -> list[Row]:
    """Each method on 4 gloo processes of this machine with 1e8 samples in all."""
    n, rows = 10**8, []
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with ProcessPoolExecutor(RANKS, mp_context=get_context("spawn")) as pool:
        ranks = list(pool.map(rank_of, range(RANKS), [port] * RANKS, [n // RANKS] * RANKS))
    for name in SELECTS:
        cpu, wall, peaks, sent, calls, state = zip(*(found[name] for found in ranks), strict=True)
        limit = argpartition_seconds(name, n)
        what = f"{name}, n = {n:.0e} on {RANKS} ranks"
        said = f"{max(cpu):.2g} s of each, {max(wall):.2g} s by the clock, {calls[0]} sums of {sent[0] / 2**20:.2g} MiB"
        rows += [
            (f"{what}: select ({said}) / argpartition, processor time of all", sum(cpu) / limit, "x", TIME),
            (f"{what}: memory in a select, state {sum(state) / n:.3g}", sum(peaks) / n, "bytes a sample", MEMORY),
        ]
    return rows


Measured = tuple[float, float, float, int, int, int]


def rank_of(rank: int, port: int, n: int) -> dict[str, Measured]:
    """One rank, for each method: seconds of processor and clock, peak bytes, bytes and number of sums, of the state."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=RANKS)
    found = {name: select_on_rank(name, n) for name in SELECTS}
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return found


def select_on_rank(name: str, n: int) -> Measured:
    before = memory_now()
    labels = (torch.arange(n) % CLASSES).to(torch.uint8) if name == "rcap" else None
    own = ShardedSelection(name, n=n, epochs=EPOCHS, keep=KEEP, labels=labels)
    for rows in (torch.arange(start, min(start + AT_ONCE, n)) for start in range(0, n, AT_ONCE)):
        own.observe(rows, **measured(rows))
    sent: list[int] = []
    add_up = own.shards.sum

    def counted(values: Tensor) -> Tensor:
        sent.append(values.nbytes)
        return add_up(values)

    own.shards.sum = counted  # type: ignore[method-assign]
    ledger.reset_peak_memory()
    torch.distributed.barrier()
    start, on_cpu = time.perf_counter(), time.process_time()
    own.select(1)
    cpu, wall = time.process_time() - on_cpu, time.perf_counter() - start
    peak = (ledger.peak_memory_mb() - before) * 2**20
    state = state_bytes(own.method) + (0 if labels is None else labels.nbytes)
    return cpu, wall, peak, sum(sent), len(sent), state
