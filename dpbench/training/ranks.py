"""One run on several devices: what its processes, the ranks, share out and what they put together.

Every rank holds the whole run: the same draws, the same method, the same ledger. Of each batch it loads, forwards and
sends backward its share alone. The losses and signals of all shares are put together again at once, so that the loop
goes on as that of one process, with the same picks and counts, and the gradients are summed before each step.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dpbench import store
from dpbench.data import Loader
from dpbench.errors import RunFailed, UsageError
from dpbench.processes import rank_and_size
from dpbench.rng import derive, seeded
from dpbench.spec import RunSpec
from dpbench.training.meeting import Meeting
from dpbench.training.mixing import Mixer
from dpbench.training.synchronised import synchronised

T = TypeVar("T")


class Ranks:
    """A process that carries out a run alone; `Together` is one of several."""

    rank, size, first = 0, 1, True

    def device(self, asked: torch.device) -> torch.device:
        """The device of this rank."""
        return asked

    def locked(self, path: Path) -> AbstractContextManager[None]:
        """Hold the run's lock file, which the first rank does for all."""
        return store.locked(path)

    def decided(self, find: Callable[[], T | None]) -> T | None:
        """What the first rank finds, if it finds anything, read by each for itself."""
        return find()

    def joined(self, spec: RunSpec) -> AbstractContextManager[None]:
        """Work together in the block."""
        return nullcontext()

    def seeded(self, seed: int, epoch: int, device: torch.device) -> AbstractContextManager[None]:
        """Seed torch's global generators for an epoch."""
        return seeded(derive(seed, "train", epoch), device)

    def prepared(self, network: nn.Module) -> nn.Module:
        """The network, made for several ranks."""
        return network

    def mixing(self, mix: Mixer) -> Mixer:
        """The mixer, made for several ranks."""
        return mix

    def batches(
        self, loader: Loader, parts: Iterable[Tensor], augment: bool = True
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The rows of each of `parts`, with inputs and labels of this rank's share of them."""
        return loader.batches(parts, augment)

    def picked(
        self, loader: Loader, rows: Tensor, positions: Tensor, inputs: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Inputs and labels of this rank's share of the `rows`, those at `positions` in the batch just yielded."""
        return inputs[positions], labels[positions]

    def whole(self, own: Tensor, values: dict[str, Tensor], count: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses or outputs (b, ...) and the signals of a batch of `count` rows, from those of each rank's share.

        The graph leads into the rank's own share alone, so that the ranks' gradients sum to the batch's.
        """
        return own, values

    def sum_gradients(self, network: nn.Module) -> None:
        """Sum the gradients of all ranks."""

    def first_buffers(self, *networks: nn.Module | None) -> None:
        """Give each rank the first one's buffers, which are the running statistics of batch normalisation."""

    def agreed(self, value: float) -> float:
        """The first rank's value."""
        return value

    def checked(self, rows: Tensor, epoch: int) -> Tensor:
        """The rows of an epoch, which are the same on all ranks, or RunFailed."""
        return rows


ALONE = Ranks()


class Together(Ranks):
    """One of `size` processes that carry out a run together; see `of`.

    Each has an equal share of every batch, its next rows in their order; where the batch ends too early they repeat,
    and what is computed on them is dropped. Where samples are mixed with the one before them, that one is loaded too.
    """

    def __init__(self, rank: int, size: int, local: int, mixes: bool, sync: bool) -> None:
        self.rank, self.size, self.local, self.first = rank, size, local, rank == 0
        self.lead, self.sync = int(mixes), sync
        self.held = 0  # rows of this rank's share of the batch under way that are no repeats
        self.meeting = Meeting(rank, size)

    def device(self, asked: torch.device) -> torch.device:
        if asked.type != "cuda":
            return asked
        if self.local >= torch.cuda.device_count():
            raise UsageError(f"rank {self.rank} needs GPU {self.local}; there are {torch.cuda.device_count()}")
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        with ExitStack() as held:
            if self.first:
                self.meeting.leading(lambda: held.enter_context(store.locked(path)))
            yield

    def decided(self, find: Callable[[], T | None]) -> T | None:
        return self.meeting.decided(find)

    def joined(self, spec: RunSpec) -> AbstractContextManager[None]:
        return self.meeting.joined(spec)

    @contextmanager
    def seeded(self, seed: int, epoch: int, device: torch.device) -> Iterator[None]:
        """Each rank has its own generators, for layers such as dropout; mixing draws as one process would."""
        self.alike = torch.Generator().manual_seed(derive(seed, "train", epoch)).get_state()
        with seeded(derive(seed, "train", epoch, self.rank + 1), device):
            yield

    def prepared(self, network: nn.Module) -> nn.Module:
        # functions, since a copy of the network, such as an average of its weights, must not copy the connection
        return synchronised(network, lambda: self.held, lambda x: self._sum(x)) if self.sync else network

    def _sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks, in place: the one operation by which they put something together."""
        self.meeting.talk(dist.all_reduce, values)
        return values

    def mixing(self, mix: Mixer) -> Mixer:
        if not self.lead:
            return mix

        def mixed(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            here = torch.get_rng_state()
            torch.set_rng_state(self.alike)
            inputs, labels = mix(inputs, labels)
            self.alike = torch.get_rng_state()
            torch.set_rng_state(here)
            return (inputs, labels) if len(inputs) == 1 else (inputs[1:], labels[1:])

        return mixed

    def _length(self, count: int) -> int:
        """The rows of a share: no single one, which has no statistics, where the batch has more."""
        return max(min(count, 2), -(-count // self.size))

    def _share(self, rows: Tensor) -> Tensor:
        count = len(rows)
        length = self._length(count)
        begin = self.rank * length
        lead = self.lead if count > 1 else 0
        return rows[torch.arange(begin - lead, begin + length, device=rows.device) % count]

    def batches(
        self, loader: Loader, parts: Iterable[Tensor], augment: bool = True
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        parts = list(parts)
        shares = [self._share(rows) for rows in parts]
        for rows, (_, inputs, labels) in zip(parts, loader.batches(shares, augment), strict=True):
            self._hold(len(rows))
            yield rows, inputs, labels

    def _hold(self, count: int) -> None:
        length = self._length(count)
        self.held = min(length, max(0, count - self.rank * length))

    def picked(
        self, loader: Loader, rows: Tensor, positions: Tensor, inputs: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """They are loaded anew, so that every rank trains on as many."""
        if len(rows) == 0:
            return inputs[:0], labels[:0]
        self._hold(len(rows))
        return loader.batch(self._share(rows))

    def whole(self, own: Tensor, values: dict[str, Tensor], count: int) -> tuple[Tensor, dict[str, Tensor]]:
        length, names = self._length(count), sorted(values)  # a set of names has another order on each rank
        parts = [part[-length:] for part in (own, *map(values.__getitem__, names))]  # not what is only mixed with
        flat = [part.detach().float().reshape(length, -1) for part in parts]
        begin = min(self.rank * length, count)
        end = min(begin + length, count)
        table = own.new_zeros(count, sum(part.shape[1] for part in flat), dtype=torch.float)
        table[begin:end] = torch.cat(flat, 1)[: end - begin]
        columns = self._sum(table).split([part.shape[1] for part in flat], 1)
        found = [column.reshape(count, *part.shape[1:]) for column, part in zip(columns, parts, strict=True)]
        losses = torch.cat([found[0][:begin], parts[0][: end - begin], found[0][end:]])
        measured = dict(zip(names, found[1:], strict=True))
        if "batch_loss" in measured:
            measured["batch_loss"] = found[0].mean().expand(count)
        return losses, measured

    def sum_gradients(self, network: nn.Module) -> None:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = self._sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def first_buffers(self, *networks: nn.Module | None) -> None:
        for network in networks:
            for buffer in network.buffers() if network is not None else ():
                if buffer.is_floating_point():  # a count is the same everywhere
                    self._sum(buffer if self.first else buffer.zero_())

    def agreed(self, value: float) -> float:
        return float(self._sum(torch.tensor(value if self.first else 0.0, dtype=torch.float64)))

    def checked(self, rows: Tensor, epoch: int) -> Tensor:
        every = torch.zeros(self.size, dtype=torch.int64)
        every[self.rank] = zlib.crc32(rows.cpu().numpy().tobytes())
        others = (self._sum(every) != every[0]).nonzero().flatten().tolist()
        if others:
            where = f"the samples of epoch {epoch} are others on rank {others[0]} than on rank 0"
            raise RunFailed(f"{where}; a method draws from self.rng alone")
        return rows


def of(spec: RunSpec) -> Ranks:
    """The place of this process among the ranks of a run; UsageError where they are not as many as its devices."""
    if spec.devices == 1:
        return ALONE
    rank, size = rank_and_size()
    if size != spec.devices:
        raise UsageError(
            f"this run is of {spec.devices} devices, and {size} were started; dpbench run --devices "
            f"{spec.devices}, or torchrun --nproc-per-node {spec.devices} -m dpbench.cli run"
        )
    local = int(os.environ.get("LOCAL_RANK", "0"))
    return Together(rank, size, local, bool(spec.recipe.mixup or spec.recipe.cutmix), spec.sync_batchnorm)
