"""Methods made for the tests, each to show one feature or one fault."""

import os

import torch

from dpbench import Picks, Proxy, PruningMethod, Requires, Selection, Signals, Task, param
from dpbench.draws import others, sample


class All(PruningMethod):
    """Select everything; remember what was observed."""

    signal: str = param("loss")

    def requires(self) -> Requires:
        return Requires({self.signal})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.seen = torch.zeros(task.n, dtype=torch.int64)
        self.calls: list[int] = []
        self.order: list[torch.Tensor] = []

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n))

    def observe(self, signals: Signals) -> None:
        self.seen += torch.bincount(signals.indices, minlength=self.task.n)
        self.calls.append(len(signals))
        self.order.append(signals.indices)


class Online(All):
    """Observe after each step."""

    def requires(self) -> Requires:
        return Requires({self.signal}, online=True)


class Weighted(All):
    """Give every sample the same weight."""

    weight: float = param(1.0)

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n), torch.full((self.task.n,), self.weight))


class Scaled(All):
    """Scale the learning rate."""

    scale: float = param(1.0)

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n), lr_scale=self.scale)


class Hiding(All):
    """Hide the last n - k samples, and refresh them if asked to."""

    refresh: bool = param(True)

    def select(self, epoch: int) -> Selection:
        kept = torch.arange(self.task.k)
        return Selection(kept, refresh=others(self.task.n, kept) if self.refresh else None)


class Fresh(PruningMethod):
    """Draw k samples every `every` epochs until the share `until` of the training."""

    every: int = param(1)
    until: float = param(1.0)

    def requires(self) -> Requires:
        return Requires(period=self.every, until=self.until)

    def select(self, epoch: int) -> Selection:
        return Selection(sample(self.task.n, self.task.k, self.rng))


class PickHardest(All):
    """Send the half of each batch of the largest loss backward."""

    weight: float | None = param(None)
    batches: int = param(1)

    def pool(self, task: Task) -> int:
        return self.batches

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        rows = signals["loss"].topk(len(signals) // 2).indices
        return Picks(rows, None if self.weight is None else torch.full((len(rows),), self.weight))


class PickNone(All):
    """Send nothing backward."""

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        return Picks(torch.arange(0))


class Restless(All):
    """A pick that changes the method's state and draws from its generator."""

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.picked = 0

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        self.picked += 1
        return Picks(sample(len(signals), 1 + self.picked % len(signals), self.rng))


class Replayed(PruningMethod):
    """Remember what the proxy replays."""

    upto: int = param(2)
    runs: int = param(1)
    at: str = param("end")
    data: str = param("train")
    share: float = param(1.0)
    signal: str = param("loss")

    def requires(self) -> Requires:
        proxy = Proxy(self.upto, self.runs, self.at, self.data, self.share)  # type: ignore[arg-type]
        return Requires({self.signal}, proxy, period=0)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.shown: list[tuple[int | None, int, torch.Tensor, torch.Tensor]] = []

    def observe(self, signals: Signals) -> None:
        if signals.proxy_run is not None:
            self.shown.append((signals.proxy_run, signals.epoch, signals.indices, signals[self.signal].clone()))

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.k))


class Raising(All):
    """Raise in one of the calls."""

    call: str = param("select")

    def _maybe(self, call: str) -> None:
        if call == self.call:
            raise ValueError("on purpose,\nin two lines")

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self._maybe("setup")

    def epochs(self, task: Task) -> int:
        self._maybe("epochs")
        return task.epochs

    def select(self, epoch: int) -> Selection:
        if epoch == 1:
            self._maybe("select")
        return super().select(epoch)

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        self._maybe("pick")
        return Picks(torch.arange(len(signals)))

    def observe(self, signals: Signals) -> None:
        self._maybe("observe")


class Bad(PruningMethod):
    """Answer with something that is not a selection of the first three samples."""

    answer: str = param("list")

    def select(self, epoch: int) -> Selection:
        good = torch.arange(3)
        match self.answer:
            case "nothing":
                return None  # type: ignore[return-value]
            case "list":
                return Selection([0, 1, 2])  # type: ignore[arg-type]
            case "dtype":
                return Selection(good.int())
            case "bool":
                return Selection(torch.ones(self.task.n, dtype=torch.bool))
            case "matrix":
                return Selection(good[None])
            case "high":
                return Selection(good + self.task.n - 2)
            case "low":
                return Selection(good - 1)
            case "repeated":
                return Selection(torch.tensor([4, 2, 4, 4]))
            case "empty":
                return Selection(good[:0])
            case "length":
                return Selection(good, torch.ones(4))
            case "negative":
                return Selection(good, torch.tensor([1.0, -0.5, 1.0]))
            case "nan":
                return Selection(good, torch.tensor([1.0, float("nan"), 1.0]))
            case "whole":
                return Selection(good, torch.ones(3, dtype=torch.int64))
            case "refresh":
                return Selection(good, refresh=torch.tensor([self.task.n]))
            case "rate":
                return Selection(good, lr_scale=float("nan"))
        raise AssertionError(self.answer)


class BadPick(Bad):
    """Answer badly in `pick`."""

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        answer = super().select(0)
        return Picks(answer.indices, answer.weights)

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n))


class Epochs(All):
    """Ask for a number of epochs."""

    number: int = param(0)

    def epochs(self, task: Task) -> int:
        return self.number


class Dying(All):
    """Kill the process."""

    def select(self, epoch: int) -> Selection:
        os._exit(3)
