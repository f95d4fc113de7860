"""The ledger: exact counts and times, per epoch and in total; and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor


@dataclass
class Epoch:
    """What an epoch did: exact counts, the samples sent backward, and the losses of its batches."""

    forward: int = 0
    backward: int = 0
    steps: int = 0
    trained: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def add(self, rows: Tensor, loss: Tensor) -> None:
        """Count a batch with the mean `loss`, whose `rows` were sent forward and backward."""
        self.forward += len(rows)
        self.backward += len(rows)
        self.trained.append(rows)
        self.losses.append(loss.detach())

    @property
    def loss(self) -> float:
        """Mean of the batches' training losses; NaN when no step was made."""
        return float(torch.stack(self.losses).mean()) if self.losses else float("nan")


@dataclass
class Ledger:
    """Samples forwarded and sent backward, optimizer steps, the proxy's samples, and seconds by phase."""

    forward: int = 0
    backward: int = 0
    steps: int = 0
    proxy_forward: int = 0
    proxy_backward: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    on_cpu: float = 0.0  # seconds of them for which the thread had a CPU; NaN where a proxy's are not known

    def add(self, done: Epoch) -> None:
        """Count what an epoch did."""
        self.forward += done.forward
        self.backward += done.backward
        self.steps += done.steps

    @contextmanager
    def time(self, phase: str, device: torch.device | None = None) -> Iterator[None]:
        """Add the seconds of a block to `phase`; waits for a CUDA device, so blocks are epochs, not steps."""
        start, on_cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            if device is not None and device.type == "cuda":
                torch.cuda.synchronize(device)
            self.seconds[phase] += time.perf_counter() - start
            self.on_cpu += time.thread_time() - on_cpu

    def state_dict(self) -> dict[str, object]:
        """Plain values."""
        return vars(self) | {"seconds": dict(self.seconds)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from `state`."""
        vars(self).update(state)
        self.seconds = defaultdict(float, self.seconds)


def saving(used: int, n: int, epochs: int) -> float:
    """1 - used / (n epochs): the share saved against full training, negative where more was spent."""
    return 1 - used / (n * epochs)


def reset_peak_memory() -> None:
    """Start a new peak of this process, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """Peak host memory of this process since the last reset, in MiB (elsewhere than on Linux since its start)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
