"""Selection over more samples than one process holds: each rank keeps and selects its own, by the law of the whole.

Each select below is that of the method of its name, over all ranks' samples together. It has the same law, with any
number of ranks and any split of the samples; which sample is drawn by a seed depends on both.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dpbench import catalog
from dpbench.draws import others, where
from dpbench.errors import UsageError, check_keep
from dpbench.method import Selection, Signals, Task
from dpbench.rng import generator
from dpbench.signals import check_names
from dpbench.training.answers import call, rows_fault
from dpbench.training.driver import TOLERANCE
from dpbench.training.rows import everything, mask
from dpbench.training.shards import Shards

NOT_SHARDED = {  # the values of parameters that need more than a rank has
    ("correct", "full"): "its weights need the rank of each sample among all",
    ("match", "cost"): "it trains until its samples are spent, and here epochs are counted",
}


class ShardedSelection:
    """A dynamic method over the samples of several processes, each of which knows its own alone.

        selection = ShardedSelection("infobatch", n=len(own_data), epochs=90, keep=0.5)
        for epoch in range(90):
            selection.select(epoch)
            for rows, weights in selection.batches(128):
                losses = cross_entropy(model(images[rows]), labels[rows], reduction="none")
                (losses * weights).sum().backward()  # DistributedDataParallel takes the mean over the ranks
                selection.observe(rows, loss=losses)

    `n` is the number of samples of this rank, which may differ, and rows count from 0 on each. `keep` is the share of
    all samples, and the total kept is exactly that of the method in one process. `labels` are the class ids (n,) of
    this rank's samples, uint8 to int64. All ranks make the same calls with the same method, `epochs`, `keep` and
    `seed`; `group` is the process group of these ranks, by default the whole world. Each rank holds the method's state
    of its own samples alone.
    """

    def __init__(
        self,
        method: str,
        *,
        n: int,
        epochs: int,
        keep: float = 0.5,
        labels: Tensor | None = None,
        seed: int = 0,
        group: Any = None,
    ) -> None:
        for name, value, least in (("n", n, 0), ("epochs", epochs, 1), ("seed", seed, 0)):
            if not isinstance(value, int) or value < least:
                raise UsageError(f"ShardedSelection: {name} = {value!r}; a whole number of at least {least} is needed")
        check_keep(keep, f"ShardedSelection: keep = {keep!r}")
        name = catalog.parse(catalog.resolve("methods", method))[0]
        if name not in SELECTS:
            raise UsageError(f"{name} is not sharded; these are: {', '.join(SELECTS)}")
        self.method = catalog.load_method(method)
        for parameter, value in self.method.hyperparameters().items():
            if reason := NOT_SHARDED.get((parameter, value)):
                raise UsageError(f"{name}[{parameter}={value}] is not sharded: {reason}")
        if self.method.beside:
            raise UsageError(f"{name}[{next(iter(self.method.beside))}=...] is not sharded")
        self._select = SELECTS[name]
        self.epochs, self.seed = epochs, seed
        self.shards = Shards(n, group)
        self.requires = self.method.requires()
        labels = None if labels is None else _class_ids(labels, n)
        total = self._counted((method, epochs, keep, seed, labels is None), labels)
        # setup asks which classes there are, no more, and sorts
        present = None if labels is None else self.shards.class_sizes.nonzero().flatten()
        own = Task(n, epochs, 1, keep, present)
        call(self.method, "setup", self.method.setup, own, generator(seed, "method"))
        self.method.task = replace(own, n=total, labels=labels)
        self.epoch = -1  # the one under way
        self.asked: int | None = None  # the epoch of the last select
        self.answer: Selection | None = None  # and what it chose

    def _counted(self, told: tuple[Any, ...], labels: Tensor | None) -> int:
        """Count the samples of all ranks and of each class; UsageError where ranks were not `told` the same."""
        shards = self.shards
        classes = 0 if labels is None or not len(labels) else int(labels.max()) + 1
        every = shards.each(torch.tensor([shards.n, classes, zlib.crc32(repr(told).encode())]))
        if other := (every[:, 2] != every[0, 2]).nonzero().flatten().tolist():
            what = "another method, epochs, keep or seed than rank 0, or labels where the other has none"
            raise UsageError(f"ShardedSelection: rank {other[0]} was given {what}")
        total = int(every[:, 0].sum())
        if total == 0:
            raise UsageError("ShardedSelection: no rank has a sample")
        if labels is not None:
            shards.class_sizes = shards.sum(labels.bincount(minlength=int(every[:, 1].max())))
        return total

    def select(self, epoch: int) -> Selection:
        """Begin `epoch`; the rows (k_r,) int64 of this rank that are trained on, weights, refresh and rate factor.

        The method is asked every `period` epochs until it prunes no more, as in a run. A rank may have no rows at all.
        """
        self.epoch, period = epoch, self.requires.period
        if (epoch + 1) / self.epochs > self.requires.until + TOLERANCE:
            self.selection = everything(self.shards.n)
        elif self.answer is not None and self.asked is not None and 0 <= epoch - self.asked < period:
            self.selection = self.answer
        else:
            self.shards.seed(self.seed, epoch)
            self.method.rng = generator(self.seed, "method", epoch)  # in the same state on all ranks
            name = f"select(epoch={epoch})"
            self.answer = self.selection = call(self.method, name, self._select, self.method, self.shards, epoch)
            self.asked = epoch
        self.counts: list[int] = self.shards.each(torch.tensor(len(self.selection.indices))).tolist()  # of all ranks
        return self.selection

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's rows of this rank in random order, at most `size` at a time: rows (b,) int64, weights (b,).

        Every rank has as many batches, of as equal sizes as can be; where ranks have very different numbers of rows
        some batches are small, or empty. The weights are the selection's, times ranks / samples of the batch on all
        ranks: the mean over the ranks of (losses * weights).sum() is the weighted mean over the whole batch.
        """
        steps, ranks = -(-max(self.counts) // size), self.shards.size
        order = generator(self.seed, "order", self.epoch, self.shards.rank + 1)
        shuffled = torch.randperm(len(self.selection.indices), generator=order)
        for step, at in enumerate(shuffled.tensor_split(steps)):
            whole = sum(count // steps + (step < count % steps) for count in self.counts)
            weights = self.selection.weights
            yield (
                self.selection.indices[at],
                torch.full((len(at),), ranks / whole) if weights is None else weights[at] * (ranks / whole),
            )

    def observe(self, indices: Tensor, **signals: Tensor) -> None:
        """Tell the method the signals, by name, of this rank's samples `indices` (b,) int64: (b,) or (b, d) each.

        What the method does not need is passed over. Values on a GPU are fetched at once, so many batches at a time
        are faster there.
        """
        check_names(signals.keys())
        name, needs = type(self.method).__name__, self.requires.signals
        if missing := sorted(needs - signals.keys()):
            raise UsageError(f"ShardedSelection.observe: {name} needs the signals {', '.join(missing)}, by name")
        if fault := rows_fault(indices, self.shards.n):
            raise UsageError(f"ShardedSelection.observe was given indices {fault}")
        values = {need: signals[need].detach().cpu() for need in needs}
        for need, value in values.items():
            if value.shape[:1] != indices.shape:
                raise UsageError(
                    f"ShardedSelection.observe: {need} of shape {tuple(value.shape)} for {len(indices)} rows"
                )
        if needs:
            seen = Signals(indices.cpu(), values, max(self.epoch, 0))
            call(self.method, f"observe(epoch={self.epoch})", self.method.observe, seen, each_step=True)

    def state_dict(self) -> dict[str, Any]:
        """All that this rank needs to go on after the epoch under way, in plain values and tensors; a copy."""
        return {
            "rank": (self.shards.rank, self.shards.size, self.shards.n),
            "epoch": self.epoch,
            "asked": self.asked,
            "answer": None if self.answer is None else vars(self.answer),
            "method": self.method.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, this rank's own, with the next epoch; made with the same arguments."""
        place = (self.shards.rank, self.shards.size, self.shards.n)
        if tuple(state["rank"]) != place:
            told = "rank {} of {} with {} samples".format(*state["rank"])
            raise UsageError(f"ShardedSelection.load_state_dict: the state is of {told}, not of {place}")
        self.epoch, self.asked = state["epoch"], state["asked"]
        self.answer = None if state["answer"] is None else Selection(**state["answer"])
        self.method.load_state_dict(state["method"])


def _class_ids(labels: Tensor, n: int) -> Tensor:
    labels = labels.detach().cpu()
    integer = labels.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if labels.shape != (n,) or not integer or (n and int(labels.min()) < 0):
        needed = f"class ids ({n},), whole numbers from 0, are needed"
        raise UsageError(f"ShardedSelection: labels are {labels.dtype} of shape {tuple(labels.shape)}; {needed}")
    return labels


# --- the selects: m is the method, whose state is this rank's and whose task is that of all ranks --------------------


def uniform_epoch(m: Any, shards: Shards, epoch: int) -> Selection:
    """Draw k of all n; without `replace` from what the walk has not reached, whose order is drawn when it is needed."""
    n, k = shards.n, m.task.k
    if m.replace:
        return Selection(shards.sample(n, k))
    left = shards.total(len(m.ahead))
    taken = shards.sample(len(m.ahead), min(k, left))
    chunk, m.ahead = m.ahead[taken], m.ahead[others(len(m.ahead), taken)]
    if left < k:  # fill up from the next walk, which puts off what this epoch has already
        fresh = others(n, chunk)
        fill = fresh[shards.sample(len(fresh), k - left)]
        chunk, m.ahead = torch.cat([chunk, fill]), others(n, fill)
    return Selection(chunk)


def orderdp(m: Any, shards: Shards, epoch: int) -> Selection:
    """Draw s candidates of all n, take the q of highest score; t of these dropped (`trim`), some drawn (`floor`)."""
    q, s = m.task.k, m.s
    drawn, dropped = round(m.floor * q), 0
    if m.trim and shards.total(int(m.scores.isposinf().sum())) == 0:
        dropped = min(round(m.trim * s), s - q)
    candidates = shards.sample(shards.n, s)
    chosen = candidates[shards.top(m.scores[candidates], q - drawn + dropped)]
    if dropped:
        chosen = chosen[others(len(chosen), shards.top(m.scores[chosen], dropped))]
    if drawn:
        rest = others(shards.n, chosen)
        chosen = torch.cat([chosen, rest[shards.sample(len(rest), drawn)]])
    return Selection(chosen)


def infobatch(m: Any, shards: Shards, epoch: int) -> Selection:
    """A share of the samples below the mean, weighted up by its inverse; all others. The mean is a double's."""
    n, k = m.task.n, m.task.k
    seen = m.scores[m.scores.isfinite()]
    total, count = shards.each(torch.tensor([float(seen.sum(dtype=torch.float64)), len(seen)]).double()).sum(0)
    pool = where(m.scores < total / count)  # none while nothing was seen
    size = shards.total(len(pool))
    if m.control == "exact":
        wanted = k - (n - size)
        kept = min(max(wanted, math.ceil(0.1 * size)), size)
        if kept != wanted:
            m.missed.append(epoch)
    else:
        share = max(0.1, m.task.keep if m.r is None else 1 - m.r)
        kept = max(1, int(share * size))
    if size == 0:
        return everything(shards.n)
    chosen = pool[shards.sample(len(pool), kept)]
    rest = others(shards.n, pool)
    weights = torch.ones(len(rest) + len(chosen))
    weights[len(rest) :] = size / kept
    return Selection(torch.cat([rest, chosen]), weights)


def epsilon_greedy(m: Any, shards: Shards, epoch: int) -> Selection:
    """The (1 - eps) k of highest mean, eps k of the rest."""
    explore = round(m.eps * m.task.k)
    best = shards.top(m.mean, m.task.k - explore)
    rest = others(shards.n, best)
    return Selection(torch.cat([best, rest[shards.sample(len(rest), explore)]]))


def ucb(m: Any, shards: Shards, epoch: int) -> Selection:
    """The k of highest mean + c variance."""
    return Selection(shards.top(m.mean + m.c * m.variance, m.task.k))


def kakurenbo(m: Any, shards: Shards, epoch: int) -> Selection:
    """All but those of the F_e n of lowest loss that are sure, which are looked at again."""
    n = m.task.n
    steps = sum(epoch / m.task.epochs >= edge for edge in (0.3, 0.6, 0.8))
    bound = (1 - 0.2 * steps) * (1 - m.task.keep if m.fraction is None else m.fraction)
    lowest = shards.top(-m.losses, min(round(bound * n), n - 1))
    hidden = lowest[m.sure[lowest]]
    left = n - shards.total(len(hidden))
    scale = n / left if m.rate == "hidden" else 1 / (1 - bound)
    return Selection(others(shards.n, hidden), refresh=hidden, lr_scale=scale)


def rcap(m: Any, shards: Shards, epoch: int) -> Selection:
    """For each class its budget, drawn without replacement by softmax(l / beta): the highest of l / beta + Gumbel."""
    labels, size = m.task.labels, shards.class_sizes

    def over_classes(values: Tensor) -> Tensor:
        """The sum of each class over all ranks: (C,) float64, the same on all to the last bit."""
        own = labels.bincount(values, minlength=len(size)).double()  # of no samples it would be of whole numbers
        return shards.each(own).sum(0)

    if m.aggregate == "mean":
        level = over_classes(m.losses) / size.clamp(min=1)
    else:
        mass = (m.losses / m.beta).exp()
        level = over_classes(mass * m.last) / over_classes(mass).clamp(min=1)
    budget = m._budgets((level * size / m.task.n).sqrt(), size)
    keys = torch.empty_like(m.losses).exponential_(generator=shards.own).log_().neg_().add_(m.losses, alpha=1 / m.beta)
    chosen = shards.top_of_each(keys, labels, budget)
    m.last = mask(chosen, shards.n)
    return Selection(chosen)


SELECTS: dict[str, Callable[[Any, Shards, int], Selection]] = {  # by the method's name
    select.__name__: select for select in (uniform_epoch, orderdp, infobatch, epsilon_greedy, ucb, kakurenbo, rcap)
}
