"""A method in anyone's own training loop: a batch sampler for torch's DataLoader, and three added lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Sampler

from dpbench import catalog
from dpbench import signals as definitions
from dpbench.errors import UsageError, check_keep
from dpbench.method import PruningMethod, Task
from dpbench.training import given
from dpbench.training.driver import Driver
from dpbench.training.given import whole
from dpbench.training.rows import batches, join, mask


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
    path or an object. `labels` are class ids (n,). A last batch of one sample joins the one before it. A static
    method must be given its proxy's signals by `replay` before the first epoch: those that `dpbench run` would replay.

    `batch(step)` is right where the loader hands over every batch of the epoch, in order. Where it does not
    (`in_order=False`, batches skipped on a resume), or where steps are not counted, wrap the data in `IndexedDataset`.

    Each of `replicas` processes takes its equal share of every epoch, `batch_size` samples a batch: the same seed and
    the observations gathered through torch.distributed keep them in step. Both numbers are those of torch.distributed,
    or of RANK and WORLD_SIZE in the environment; they are given only where neither is there. Nothing else
    (`accelerator.prepare`, Lightning's `use_distributed_sampler`) may share the batches out once more.
    """

    def __init__(
        self,
        method: str | PruningMethod,
        *,
        n: int,
        epochs: int,
        batch_size: int,
        keep: float = 0.5,
        labels: Tensor | Sequence[int] | np.ndarray | None = None,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        replicas: int | None = None,
    ) -> None:
        n, epochs, seed = whole("n", n, 1), whole("epochs", epochs, 1), whole("seed", seed, 0)
        batch_size = whole("batch_size", batch_size, 1)
        check_keep(keep, f"PruningSampler: keep = {keep!r}")
        self.rank, self.replicas = given.ranks(rank, replicas)
        self.method = catalog.load_method(method) if isinstance(method, str) else method
        if not isinstance(self.method, PruningMethod):
            raise UsageError(f"PruningSampler: the method is {method!r}; a name, a path or a PruningMethod is needed")
        name = type(self.method).__name__
        ids = None if labels is None else given.class_ids(labels, n)
        self._classes = 0 if ids is None else int(ids.max()) + 1
        requires = self.method.requires()
        keep = keep if requires.fixed_keep is None else requires.fixed_keep
        self.task = Task(n, epochs, batch_size * self.replicas, keep, ids)
        self.method.ready()
        if requires.budget != "epochs":
            raise UsageError(f"{name} trains until its samples are spent; a sampler counts epochs")
        self._driver = Driver(self.method, self.task, seed, self.rank, self.replicas)
        if (asked := self._driver.epochs) != epochs:
            raise UsageError(f"{name} trains {asked} of {epochs} epochs; use 'full' with epochs={asked}")
        self.needs = self._driver.needs
        self.drop_last = drop_last
        self._size = batch_size * self._driver.pool
        self._next = 0
        self._chosen = torch.ones(n, dtype=torch.bool)
        self._weights: Tensor | None = None
        self._batches: list[Tensor] = []
        self._length = self._drawn = 0  # batches of the epoch under way, and those that were drawn
        self._total = self._told = 0  # its samples, and those that were observed
        self._replayed: set[tuple[int, int]] = set()  # (run, epoch) of the proxy
        self._before: dict[str, Any] | None = None  # the state before len() has planned an epoch
        self._resumed: tuple[int, ...] = ()  # where a loader that counts from 0 may find the run after a resume
        self._count, self._offset = -1, 0  # the last set_epoch, and what is added to it

    def __iter__(self) -> Iterator[list[int]]:
        # A DataLoader with workers makes an iterator that it never advances: an epoch starts with its first batch.
        self._start(self._next)
        self._next = self.epoch + 1
        self._before, self._drawn = None, 0
        for batch in self._batches:
            self._drawn += 1
            yield batch.tolist()

    def __len__(self) -> int:
        """Batches of the epoch under way; before the first, and after a resume, of the next.

        With several ranks every rank has to ask, or none, after a resume: what they have observed is gathered.
        """
        if not self._batches:
            self._before = self.state_dict()
            self._start(self._next)
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be `epoch`; by default they are counted.

        An epoch that was begun goes on with the same batches, also after `load_state_dict`; one that is over, or lies
        before the one under way, is chosen anew. After `load_state_dict`, a first 0 is the count of a loader that does
        not know of the resume (`accelerator.prepare` counts from 0): it and those that follow, as long as they rise,
        are counted from where the run stands.
        """
        epoch = whole("epoch", epoch, 0)
        if epoch == 0 and self._next in self._resumed:
            self._offset = self._next
        elif epoch < self._count:
            self._offset = 0
        self._count = epoch
        if self._before is not None and epoch + self._offset != self.epoch:
            self._restore(self._before)
        self._next = epoch + self._offset

    @property
    def epoch(self) -> int:
        """The epoch under way, -1 before the first."""
        return self._driver.epoch

    @property
    def batch_size(self) -> int:
        """Samples of a batch on this rank (those offered to `pick`, where the method picks)."""
        if self.replicas > 1:  # asked for by what would share the batches out: accelerate, Lightning
            raise UsageError(
                f"PruningSampler has shared each epoch among its {self.replicas} ranks and must not be sharded again: "
                "leave its loader out of accelerator.prepare; in Lightning, use_distributed_sampler=False"
            )
        return self._size

    def batch(self, step: int) -> Tensor:
        """The samples (b,) int64 of the step-th batch of the epoch under way, in the order in which they were drawn."""
        if not 0 <= step < self._drawn:
            raise UsageError(
                f"PruningSampler.batch: step {step} of epoch {self.epoch}, of which {self._drawn} batches were drawn; "
                "steps count from 0 in each epoch, and where a loader skips some, IndexedDataset gives the samples"
            )
        return self._batches[step]

    @property
    def refresh(self) -> Tensor | None:
        """Samples that the method wants forwarded and observed at the end of the epoch, without training on them."""
        return self._driver.selection.refresh

    @property
    def lr_scale(self) -> float:
        """The factor that the method wants on the learning rate of the epoch."""
        return self._driver.selection.lr_scale

    def weights(self, indices: Tensor) -> Tensor:
        """The weights (b,) that the losses of samples `indices` are to be multiplied by in this epoch."""
        rows = given.rows(indices, self.task.n)
        strange = rows[~self._chosen[rows]]
        if len(strange):
            raise UsageError(
                f"PruningSampler: sample {int(strange[0])} is not trained on in epoch {self.epoch}, so the indices are "
                "not those of the batch; IndexedDataset gives them with each batch"
            )
        return (torch.ones(len(rows)) if self._weights is None else self._weights[rows]).to(indices.device)

    def reduce(self, losses: Tensor, indices: Tensor, **values: Tensor) -> Tensor:
        """Observe the losses (b,) or (b, 1) of samples `indices` and return their weighted mean, to be sent backward.

        A batch-level method picks from the batch, of which only the picked samples enter the mean. If it picks none,
        the result is a leaf whose backward reaches no parameter: after `zero_grad()` their gradients stay None, and
        torch's optimizers leave them as they are. A GradScaler wants a gradient: skip its step where `loss.is_leaf`.
        With several ranks it is 0 times the batch instead, since the others wait for this rank's gradients.
        """
        rows = given.rows(indices, self.task.n)
        losses = given.signal("loss", self._of_samples(losses, rows), len(rows))
        chosen, weights = losses, self.weights(rows).to(losses.device)
        measured = self._measure(rows, self.needs, values | {"loss": losses})
        if self._driver.picks:
            positions, picked = self._pick(rows, measured, losses.device)
            chosen, weights = losses[positions], weights[positions]
            weights = weights if picked is None else weights * picked
        self._observe(rows, measured)
        if len(chosen) == 0 and self.replicas == 1:
            return losses.detach().new_zeros(()).requires_grad_(losses.requires_grad)
        return (chosen * weights).sum() / max(1, len(chosen))

    def observe(self, indices: Tensor, losses: Tensor, **values: Tensor) -> None:
        """Tell the method the losses (b,) of samples `indices`, and by name any other signal that it needs.

        With `logits=` (b, C), and `embedding=` (b, d) where needed, the other signals are computed from them; the
        labels are those given to the sampler. A method that learns from the losses of whole batches, as `bls` does,
        is content with the batch's one number.
        """
        rows = given.rows(indices, self.task.n)
        losses = self._of_samples(losses, rows)
        self._observe(rows, self._measure(rows, self.needs, values | {"loss": losses}))

    def _observe(self, rows: Tensor, measured: dict[str, Tensor]) -> None:
        self._told += len(rows)
        self._driver.observe(rows, measured)

    def pick(self, indices: Tensor, losses: Tensor, **values: Tensor) -> tuple[Tensor, Tensor | None]:
        """For a batch-level method: the positions (k,) in the batch to send backward, and their weights or None."""
        rows = given.rows(indices, self.task.n)
        return self._pick(rows, self._measure(rows, self.needs, values | {"loss": losses}), losses.device)

    def _pick(self, rows: Tensor, measured: dict[str, Tensor], device: torch.device) -> tuple[Tensor, Tensor | None]:
        positions, weights = self._driver.pick(rows, measured)
        return positions.to(device), None if weights is None else weights.to(device)

    def replay(self, *, epoch: int = 0, run: int = 0, **values: Tensor | float) -> None:
        """Give a static method what was measured on all n samples, in the data's order, at one epoch of its proxy.

        The signals are given by name, `learning_rate` as one number, or computed from `logits=` (n, C) and, where
        needed, `embedding=` (n, d), as in `observe`; `record_proxy` measures all. The passes come in the order of the
        proxy's training, and the runs, where the method wants several, one after the other.
        """
        name, proxy, n = type(self.method).__name__, self._driver.requires.proxy, self.task.n
        epoch, run = whole("epoch", epoch, 0), whole("run", run, 0)
        if proxy is None:
            raise UsageError(f"{name} has no proxy to replay: it learns from what the training itself observes")
        if run >= proxy.seeds:
            raise UsageError(f"{name} wants {proxy.seeds} runs of its proxy, counted from 0; run = {run} is none")
        most = 1 if proxy.at == "end" else proxy.epochs
        if len({e for r, e in self._replayed if r == run} | {epoch}) > most:
            raise UsageError(f"{name} wants {most} passes of a run of its proxy; epoch {epoch} is one more")
        rate = values.get(definitions.LEARNING_RATE)
        if isinstance(rate, int | float):
            values[definitions.LEARNING_RATE] = torch.full((n,), float(rate))
        measured = self._measure(torch.arange(n), self._driver.requires.signals, values)
        self._driver.replay(join([(torch.arange(n), measured)], epoch, run))
        self._replayed.add((run, epoch))

    def state_dict(self) -> dict[str, Any]:
        """All that this rank needs to go on within or after the epoch under way, in plain values and tensors.

        Each of several ranks saves its own and loads it again: what it has observed waits there for the next epoch.
        """
        return {
            "n": self.task.n,
            "rank": (self.rank, self.replicas),
            "next": self._next,
            "batches": (self._length, self._drawn),
            "samples": (self._total, self._told),
            "replayed": sorted(self._replayed),
            "driver": self._driver.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state` with the next epoch, or within the one under way after `set_epoch` with its number."""
        if missing := self.state_dict().keys() - state.keys():
            raise UsageError(f"PruningSampler.load_state_dict: the state has no {sorted(missing)[0]!r}")
        if state["n"] != self.task.n:
            raise UsageError(f"PruningSampler.load_state_dict: the state is of n = {state['n']}, not {self.task.n}")
        if tuple(state["rank"]) != (self.rank, self.replicas) and (state["driver"]["passed"] or self._driver.picks):
            raise UsageError(
                "PruningSampler.load_state_dict: the state is of rank {} of {}, not of rank {} of {}; each rank saves "
                "and loads its own".format(*state["rank"], self.rank, self.replicas)
            )
        self._restore(state)
        self._count, self._offset = -1, 0
        # A 0 after a state from within epoch 0 is that epoch, whoever says it.
        self._resumed = (self.epoch, self._next) if self.epoch > 0 or self._over else ()

    def _restore(self, state: dict[str, Any]) -> None:
        self._next, self._replayed = state["next"], set(map(tuple, state["replayed"]))
        (self._length, self._drawn), (self._total, self._told) = state["batches"], state["samples"]
        self._driver.load_state_dict(state["driver"])
        self._batches, self._before = [], None

    @property
    def _over(self) -> bool:
        """Whether the epoch under way has ended: drawn to its end (loaders draw ahead) and, if at all, told of all."""
        return 0 < self._length == self._drawn and (self._told == 0 or self._told >= self._total)

    def _of_samples(self, losses: Tensor, rows: Tensor) -> Tensor:
        """The losses (b,), each the batch's where that is all there is and all that the method reads."""
        whole = "batch_loss" in self.needs and isinstance(losses, Tensor) and losses.dim() == 0
        return losses.expand(len(rows)) if whole else losses

    def _measure(self, rows: Tensor, needs: Set[str], values: dict[str, Any]) -> dict[str, Tensor]:
        """The signals `needs` of the samples `rows`, from what was given."""
        definitions.check_names(values.keys() - needs)
        found = {name: given.signal(name, value, len(rows)) for name, value in values.items()}
        if "batch_loss" in needs - found.keys() and "loss" in found:
            found["batch_loss"] = found["loss"].mean().expand(len(rows))
        missing = needs - found.keys()
        if missing and "logits" in found and self.task.labels is not None:
            logits, embedding = found["logits"], found.get("embedding")
            if logits.shape[1] < self._classes:
                raise UsageError(
                    f"PruningSampler: logits of {logits.shape[1]} classes; labels go to {self._classes - 1}"
                )
            computable = missing if embedding is not None else missing - definitions.from_embedding(missing)
            labels = self.task.labels[rows].to(logits.device)
            loss = found["loss"] if "loss" in found else F.cross_entropy(logits.float(), labels, reduction="none")
            found |= definitions.compute(computable & definitions.SIGNALS.keys(), logits, labels, loss, embedding)
            missing = needs - found.keys()
        if missing:
            raise UsageError(
                f"{type(self.method).__name__} needs the signals {', '.join(sorted(missing))}: give them by name, or "
                "give logits= (and embedding=) here and labels= to the sampler; record_proxy measures a proxy's"
            )
        return {name: found[name].detach() for name in needs}

    def _start(self, epoch: int) -> None:
        """Plan `epoch`, unless it is planned already and not over."""
        if epoch == self.epoch and self._batches and not self._over:
            return
        given.ranks(self.rank, self.replicas)  # torch.distributed may have started since
        name = type(self.method).__name__
        if (proxy := self._driver.requires.proxy) is not None:
            due, each = given.passes(proxy, self.task.epochs)
            if len(self._replayed) < due:
                raise UsageError(
                    f"{name} chooses by a proxy's signals: give it these by replay() before the first epoch, {each} "
                    f"({len(self._replayed)} of {due} passes were given)"
                )
        self._driver.tell()
        again = epoch == self.epoch and self._over
        if again or epoch != self.epoch:  # else a resume goes on in this epoch
            self._told = 0
        selection = self._driver.start(epoch, min((epoch + 1) / self.task.epochs, 1.0), again)
        self._chosen, self._weights = mask(selection.indices, self.task.n), self._driver.weights()
        rows = self._driver.order()
        if self.replicas > 1:
            share = len(rows) // self.replicas if self.drop_last else -(-len(rows) // self.replicas)
            rows = rows[torch.arange(self.rank, share * self.replicas, self.replicas) % len(rows)]
        self._batches = batches(rows, self._size, self.drop_last)
        if not self._batches:
            raise UsageError(
                f"{name} keeps {len(selection.indices)} samples in epoch {epoch}, {len(rows)} of them on this "
                f"rank: drop_last leaves nothing in batches of {self._size}"
            )
        self._length, self._total, self._drawn = len(self._batches), sum(map(len, self._batches)), 0
