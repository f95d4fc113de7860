"""A method in a training: when it is asked and told, and what of it is saved, whoever's loop it is.

The runner, the proxy's replay, `PruningSampler` and the conformance battery reach a method through `Driver` alone.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dpbench.errors import UsageError
from dpbench.method import PruningMethod, Selection, Signals, Task
from dpbench.rng import generator
from dpbench.signals import RECORD_SIGNALS
from dpbench.training.answers import call, pick_fault, selection_fault, surrogate_fault
from dpbench.training.keeps import schedule
from dpbench.training.rows import Passed, everything, join, order, spread, to_cpu

TOLERANCE = 1e-9  # of a training's progress


class Driver:
    """One method on one of `replicas` ranks, from its setup to the end of a training.

    An epoch is `start`, `order`, for each batch `pick` (if the method picks) and `observe`, and at its end `tell`.
    A seed gives all ranks the same selections and order; what they observe is gathered through torch.distributed.
    """

    def __init__(self, method: PruningMethod, task: Task, seed: int, rank: int = 0, replicas: int = 1) -> None:
        self.method, self.task, self.seed, self.rank, self.replicas = method, task, seed, rank, replicas
        call(method, "setup", method.setup, task, generator(seed, "method"), fault=self._setup_fault)
        self.requires = method.requires()
        self.epochs: int = call(method, "epochs", method.epochs, task, fault=_count_fault)
        self.pool: int = call(method, "pool", method.pool, task, fault=_count_fault)
        self.picks = method.picks()
        shape = method.beside.get("keep_schedule")
        self._counts = schedule(shape, task) if shape else []  # how many samples each epoch keeps, if that changes
        decided = self.requires.period == 0 and not self.picks
        signals = frozenset(self.requires.signals) - RECORD_SIGNALS
        self.needs = frozenset() if decided else signals  # what the training must compute
        self.epoch = -1  # the one under way
        self.selection = everything(task.n)  # of that epoch
        self.asked: int | None = None  # the epoch of the last select
        self.answer = self.selection  # and what it chose
        self._rng = generator(seed, "pick", 0, rank)
        self._passed: list[Passed] = []  # observed, and not yet told to the method

    def _setup_fault(self, _: None) -> str | None:
        whole = {"task", "rng"} <= vars(self.method).keys()
        return None if whole else "did not call super().setup(task, rng); begin it with that line"

    def replay(self, signals: Signals) -> None:
        """Tell a method that asks for a proxy what a pass of it measured, before the first epoch."""
        call(self.method, f"observe(epoch={signals.epoch})", self.method.observe, signals)

    def start(self, epoch: int, end: float, again: bool = False) -> Selection:
        """Begin `epoch`, which takes the training to the progress `end`; return its selection.

        The method is asked every `period` epochs `until` it prunes no more; then all samples are used. A training
        that goes back to an epoch before the last select, or `again` to one that is over, gets a new selection from a
        method that makes more than one.
        """
        if again or epoch != self.epoch:  # else a resume goes on in this epoch
            self._rng = generator(self.seed, "pick", epoch, self.rank)
        self.epoch = epoch
        if self._counts:
            count = self._counts[min(epoch, len(self._counts) - 1)]
            self.method.task = replace(self.task, keep=count / self.task.n)
        self.selection = self._select(again, end)
        return self.selection

    def _select(self, again: bool, end: float) -> Selection:
        method, epoch, period = self.method, self.epoch, self.requires.period
        if end > self.requires.until + TOLERANCE:
            return everything(self.task.n)
        if self.asked is None or (period > 0 and (again or not 0 <= epoch - self.asked < period)):
            self.answer = call(method, f"select(epoch={epoch})", method.select, epoch, fault=self._select_fault)
            self.asked = epoch
        return self.answer

    def _select_fault(self, selection: Selection) -> str | None:
        found = selection_fault(selection, self.task.n)
        return "selected no samples" if found is None and len(selection.indices) == 0 else found

    def order(self) -> Tensor:
        """The epoch's samples in the order in which they are trained on: (k,) int64."""
        return order(self.selection.indices, self.task.n, generator(self.seed, "order", self.epoch))

    def weights(self) -> Tensor | None:
        """The epoch's weights (n,), 0 for what is not selected; None where all are 1."""
        return spread(self.selection, self.task.n)

    def surrogate(self) -> Tensor | None:
        """The weights (n,) of the loss that this epoch's own select minimises, where the method knows them."""
        if self.asked != self.epoch:
            return None
        fault = partial(surrogate_fault, n=self.task.n)
        return call(self.method, f"surrogate(epoch={self.epoch})", self.method.surrogate, fault=fault)

    def pick(
        self, rows: Tensor, values: dict[str, Tensor], rng: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Ask which of the forwarded `rows` (b,) go backward: their positions (k,), none maybe, and weights (k,).

        `rng` stands in for the rank's own, for a look that the training must not notice.
        """
        signals, fault = join([(rows, values)], self.epoch), partial(pick_fault, b=len(rows))
        rng = self._rng if rng is None else rng
        name, pick = f"pick(epoch={self.epoch})", self.method.pick
        picked = call(self.method, name, pick, signals, rng, fault=fault, each_step=True)
        weights = None if picked.weights is None else picked.weights.float().to(rows.device)
        return picked.positions.to(rows.device), weights

    def observe(self, rows: Tensor, values: dict[str, Tensor]) -> None:
        """Take what was measured on `rows` (b,); an online method observes it at once, others in `tell`."""
        if values:
            self._passed.append((rows, values))
            if self.requires.online:
                self.tell()

    def tell(self) -> None:
        """Tell the method what all ranks have observed since the last time."""
        epoch, passed = max(self.epoch, 0), self._passed
        self._passed = []
        if self.replicas > 1 and self.needs and (passed or self.epoch >= 0):
            passed = self._gather(passed, epoch)
        if passed:
            name, online = f"observe(epoch={epoch})", self.requires.online
            call(self.method, name, self.method.observe, join(passed, epoch), each_step=online)

    def _gather(self, passed: list[Passed], epoch: int) -> list[Passed]:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            if not launched():
                return passed
            raise UsageError(
                f"{type(self.method).__name__} learns from all {self.replicas} ranks; call "
                "torch.distributed.init_process_group before the first epoch ends"
            )
        everyone: list[Signals | None] = [None] * self.replicas
        torch.distributed.all_gather_object(everyone, join(passed, epoch) if passed else None)
        return [(signals.indices, signals.values) for signals in everyone if signals is not None]

    def state_dict(self) -> dict[str, Any]:
        """All that goes on, in plain values and tensors: of the method, of the epoch under way, and what it awaits."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "asked": self.asked,
            "answer": vars(self.answer),
            "method": self.method.state_dict(),
            "pick": self._rng.get_state(),
            "passed": to_cpu(self._passed),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, of a driver of the same method and task."""
        state = to_cpu(state)
        self.seed, self.epoch, self.asked = state["seed"], state["epoch"], state["asked"]
        self.answer = Selection(**state["answer"])
        self.method.load_state_dict(state["method"])
        self._rng.set_state(state["pick"])
        self._passed = state["passed"]


def launched() -> bool:
    """Whether a launcher (torchrun) has started this process as one of several ranks."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def _count_fault(count: Any) -> str | None:
    whole = isinstance(count, int) and not isinstance(count, bool) and count >= 1
    return None if whole else f"returned {count!r}; a whole number, at least 1, is needed"
