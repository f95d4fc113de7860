"""A method in anyone's own training loop: a batch sampler for torch's DataLoader, and three added lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from dpbench import catalog
from dpbench import signals as definitions
from dpbench.errors import UsageError
from dpbench.method import PruningMethod, Selection, Signals, Task
from dpbench.rng import generator
from dpbench.sampler import Selector, check_selection, join, order


class PruningSampler(Sampler[list[int]]):
    """A batch sampler that lets a pruning method choose the samples of each epoch.

        sampler = PruningSampler("infobatch", n=len(data), epochs=90, batch_size=128, keep=0.5)
        loader = DataLoader(data, batch_sampler=sampler)
        for epoch in range(90):
            for step, (images, labels) in enumerate(loader):
                losses = cross_entropy(model(images), labels, reduction="none")
                loss = sampler.reduce(losses, sampler.batch(step))

    Every iteration over it is one epoch, with a generator of its own. What was observed reaches the method when the
    next epoch starts, so nothing waits for the device within an epoch. `method` is a name with parameters, a file's
    path or an object. With `replicas` processes each takes its equal share of every epoch, `batch_size` samples a
    batch: the same seed and the gathered observations (through torch.distributed where it runs) keep them in step. A
    static method must be given its proxy's signals by `replay` before the first epoch.
    """

    def __init__(
        self,
        method: str | PruningMethod,
        *,
        n: int,
        epochs: int,
        batch_size: int,
        keep: float = 0.5,
        labels: Tensor | None = None,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        replicas: int = 1,
    ) -> None:
        for name, value in (("n", n), ("epochs", epochs), ("batch_size", batch_size), ("replicas", replicas)):
            if value < 1:
                raise UsageError(f"PruningSampler: {name} = {value}; at least 1 is needed")
        if not 0 < keep <= 1:
            raise UsageError(f"PruningSampler: keep = {keep} is outside (0, 1]")
        if not 0 <= rank < replicas:
            raise UsageError(f"PruningSampler: rank = {rank} is outside 0..{replicas - 1}")
        self.method = catalog.load_method(method) if isinstance(method, str) else method
        labels = None if labels is None else torch.as_tensor(labels).cpu().long()
        if labels is not None and labels.shape != (n,):
            raise UsageError(f"PruningSampler: labels have shape {tuple(labels.shape)}; ({n},) is needed")
        task = Task(n, epochs, batch_size * replicas, keep if self.method.keep is None else self.method.keep, labels)
        self.method.ready()
        if self.method.budget != "epochs":
            raise UsageError(
                f"{type(self.method).__name__} trains until its samples are spent; a sampler counts epochs"
            )
        self.method.setup(task, generator(seed, "method"))
        self.task, self.seed, self.drop_last, self.rank, self.replicas = task, seed, drop_last, rank, replicas
        self.batch_size = batch_size * self.method.pool
        self.epoch = -1  # the epoch that is under way
        self._next = 0
        self._selector = Selector(self.method)
        self._selection = Selection(torch.arange(n))
        self._batches: list[Tensor] = []
        self._weights: Tensor | None = None
        self._seen: list[tuple[Tensor, dict[str, Tensor]]] = []
        self._replayed: set[tuple[int, int]] = set()  # (run, epoch) of the proxy
        epochs_asked = self.method.epochs(task)
        if epochs_asked != epochs:
            name = type(self.method).__name__
            raise UsageError(f"{name} trains {epochs_asked} of {epochs} epochs; use 'full' with epochs={epochs_asked}")

    def __iter__(self) -> Iterator[list[int]]:
        # A DataLoader with workers makes an iterator that it never advances: an epoch starts with its first batch.
        self._start(self._next)
        self._next = self.epoch + 1
        for batch in self._batches:
            yield batch.tolist()

    def __len__(self) -> int:
        """Batches of the epoch under way; before the first, and after a resume, of the next."""
        if not self._batches:
            self._start(self._next)
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be `epoch`; by default they are counted."""
        self._next = epoch

    def batch(self, step: int) -> Tensor:
        """The samples (b,) int64 of the step-th batch of the epoch under way, as the loader delivers them."""
        return self._batches[step]

    @property
    def refresh(self) -> Tensor | None:
        """Samples that the method wants forwarded and observed at the end of the epoch, without training on them."""
        return self._selection.refresh

    @property
    def lr_scale(self) -> float:
        """The factor that the method wants on the learning rate of the epoch."""
        return self._selection.lr_scale

    def weights(self, indices: Tensor) -> Tensor:
        """The weights (b,) that the losses of samples `indices` are to be multiplied by in this epoch."""
        if self._weights is None:
            return torch.ones(len(indices), device=indices.device)
        return self._weights[indices.cpu()].to(indices.device)

    def reduce(self, losses: Tensor, indices: Tensor, **values: Tensor) -> Tensor:
        """Observe the losses (b,) of samples `indices` and return their weighted mean, to be sent backward.

        A batch-level method picks from the batch, of which only the picked samples enter the mean.
        """
        chosen, weights = losses, self.weights(indices).to(losses.device)
        measured = self._measure(indices, losses, values)
        if self.method.picks():
            positions, picked = self._pick(indices, measured, losses.device)
            chosen, weights = losses[positions], weights[positions]
            weights = weights if picked is None else weights * picked
        self._observe(indices, measured)
        return (chosen * weights).sum() / max(1, len(chosen))

    def observe(self, indices: Tensor, losses: Tensor, **values: Tensor) -> None:
        """Tell the method the losses (b,) of samples `indices`, and by name any other signal that it needs.

        With `logits=` (b, C), and `embedding=` (b, d) where needed, the other signals are computed from them; the
        labels are those given to the sampler.
        """
        self._observe(indices, self._measure(indices, losses, values))

    def _observe(self, indices: Tensor, measured: dict[str, Tensor]) -> None:
        if not measured:
            return
        self._seen.append((indices.detach(), measured))
        if self.method.online:
            self._flush()

    def pick(self, indices: Tensor, losses: Tensor, **values: Tensor) -> tuple[Tensor, Tensor | None]:
        """For a batch-level method: the positions (k,) in the batch to send backward, and their weights or None."""
        return self._pick(indices, self._measure(indices, losses, values), losses.device)

    def _pick(self, indices: Tensor, measured: dict[str, Tensor], device: torch.device) -> tuple[Tensor, Tensor | None]:
        signals = Signals(indices.cpu(), {name: value.cpu() for name, value in measured.items()}, self.epoch)
        where = f"{type(self.method).__name__}.pick(epoch={self.epoch})"
        picked = check_selection(self.method.pick(signals, self._pick_rng), len(indices), where)
        weights = picked.weights
        return picked.indices.to(device), None if weights is None else weights.float().to(device)

    def replay(self, signals: dict[str, Tensor], epoch: int = 0, run: int = 0) -> None:
        """Give a static method the signals of all n samples at one epoch of a proxy training, in the data's order."""
        missing = self.method.needs - signals.keys()
        if missing:
            raise UsageError(f"{type(self.method).__name__} needs the signals {', '.join(sorted(missing))} too")
        values = {name: signals[name].detach().cpu() for name in self.method.needs}
        for name, value in values.items():
            if len(value) != self.task.n:
                raise UsageError(f"replay: {name} has {len(value)} rows; one for each of the n = {self.task.n} samples")
        self.method.observe(Signals(torch.arange(self.task.n), values, epoch, run))
        self._replayed.add((run, epoch))

    def state_dict(self) -> dict[str, Any]:
        """All that this rank needs to go on after the epoch under way, in plain values and tensors."""
        return {
            "epoch": self.epoch,
            "next": self._next,
            "method": self.method.state_dict(),
            "selector": self._selector.state_dict(),
            "replayed": sorted(self._replayed),
            "seen": [(rows.cpu(), {name: v.cpu() for name, v in values.items()}) for rows, values in self._seen],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state` with the next epoch."""
        self.epoch, self._next, self._replayed = state["epoch"], state["next"], set(state["replayed"])
        self.method.load_state_dict(state["method"])
        self._selector.load_state_dict(state["selector"])
        self._seen, self._batches = list(state["seen"]), []

    def _measure(self, indices: Tensor, losses: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The signals that the method needs, from what was given."""
        given = values | {"loss": losses}
        missing = self.method.needs - given.keys()
        if missing and "logits" in given and self.task.labels is not None:
            logits, embedding = given["logits"], given.get("embedding")
            computable = missing if embedding is not None else missing - definitions.FROM_EMBEDDING
            labels = self.task.labels[indices.cpu()].to(logits.device)
            given |= definitions.compute(computable, logits, labels, losses, embedding)
            missing = self.method.needs - given.keys()
        if missing:
            raise UsageError(
                f"{type(self.method).__name__} needs the signals {', '.join(sorted(missing))}: give them by name, or "
                "give logits= (and embedding=) here and labels= to the sampler"
            )
        return {name: given[name].detach() for name in self.method.needs}

    def _start(self, epoch: int) -> None:
        """Plan `epoch`, unless it is planned already."""
        if epoch == self.epoch and not self._seen and self._batches:
            return
        proxy = self.method.proxy
        due = 0 if proxy is None else proxy.seeds * (1 if proxy.at == "end" else proxy.epochs)
        if len(self._replayed) < due:
            raise UsageError(
                f"{type(self.method).__name__} is static: give it its proxy's signals by replay() first "
                f"({len(self._replayed)} of {due} passes were given)"
            )
        self._flush()
        start, end = (min(e / self.task.epochs, 1.0) for e in (epoch, epoch + 1))
        self._selection = self._selector.select(epoch, start, end)
        rows = order(self._selection.indices, self.task.n, generator(self.seed, "order", epoch))
        if self.replicas > 1:
            share = len(rows) // self.replicas if self.drop_last else -(-len(rows) // self.replicas)
            rows = rows[torch.arange(self.rank, share * self.replicas, self.replicas) % len(rows)]
        self._batches = [
            part for part in rows.split(self.batch_size) if not self.drop_last or len(part) == self.batch_size
        ]
        self._weights = None
        if self._selection.weights is not None:
            self._weights = torch.zeros(self.task.n)
            self._weights[self._selection.indices] = self._selection.weights.float()
        self._pick_rng = generator(self.seed, "pick", epoch, self.rank)
        self.epoch = epoch

    def _flush(self) -> None:
        """Hand what was observed, gathered from all ranks, to the method."""
        seen = join(self._seen, max(self.epoch, 0)) if self._seen else None
        self._seen = []
        distributed = torch.distributed
        if self.replicas > 1 and distributed.is_available() and distributed.is_initialized():
            everyone: list[Signals | None] = [None] * self.replicas
            distributed.all_gather_object(everyone, seen)
            parts = [(s.indices, s.values) for s in everyone if s is not None]
            seen = join(parts, max(self.epoch, 0)) if parts else None
        if seen is not None:
            self.method.observe(seen)
