"""Every random stream: a generator of its own for each role, epoch and rank of a seed; none is global."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, role: str, *more: int) -> int:
    """Return a 63-bit seed for one role of a run's seed; different roles and seeds share nothing."""
    words = np.random.SeedSequence([seed, zlib.crc32(role.encode()), *more]).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def generator(seed: int, role: str, *more: int) -> torch.Generator:
    """Return a CPU generator for one role of a run's seed."""
    return torch.Generator().manual_seed(derive(seed, role, *more))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for a block, for layers that draw from them, and restore them after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
