"""A stand-in for the runner: it drives a method over made-up signals, without a model or training."""

import io
from collections.abc import Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpbench import Picks, PruningMethod, Selection, Signals, Task, load_method
from dpbench.signals import compute
from dpbench.training.driver import Driver

N, EPOCHS, BATCH, CLASSES = 60, 8, 10, 4
DATA = Path(__file__).parent.parent / "data"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class World:
    """What a training would measure: in each epoch the signals of each sample, learnt at different speeds."""

    def __init__(self, n: int = N, epochs: int = EPOCHS) -> None:
        rng = generator(1)
        self.labels = torch.arange(n) % CLASSES
        speed = torch.rand(n, generator=rng) * 2 - 0.4
        noise = torch.randn(epochs, n, CLASSES, generator=rng)
        growth = speed * torch.arange(1, epochs + 1)[:, None]
        self.logits = noise + growth[:, :, None] * torch.eye(CLASSES)[self.labels]
        self.embedding = torch.randn(epochs, n, 3, generator=rng)

    def signals(self, needs: Set[str], indices: Tensor, epoch: int, proxy_run: int | None = None) -> Signals:
        logits, labels = self.logits[epoch, indices], self.labels[indices]
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        values = compute(needs, logits, labels, loss, self.embedding[epoch, indices])
        return Signals(indices, values, epoch, proxy_run)


@dataclass
class Trace:
    """What a method did in one epoch."""

    selection: Selection
    picks: list[Picks] = field(default_factory=list)
    forwarded: list[Tensor] = field(default_factory=list)

    def tensors(self) -> list[Tensor]:
        """Everything it answered, to be compared bit for bit."""
        chosen = self.selection
        parts = [chosen.indices, chosen.weights, chosen.refresh, torch.tensor(chosen.lr_scale)]
        parts += [part for picks in self.picks for part in (picks.positions, picks.weights)]
        return [torch.empty(0) if part is None else part for part in parts]

    @property
    def saw_all(self) -> bool:
        """Whether every sample was forwarded."""
        return len(torch.cat(self.forwarded).unique()) == N


class Training:
    """A method's training in a world; `rearrange` may shuffle, split or repeat what is observed."""

    def __init__(self, method: PruningMethod, world: World, rearrange: Any = lambda signals: [signals]) -> None:
        self.driver = Driver(method, method.task, seed=3)
        self.world, self.rearrange = world, rearrange

    def observe(self, indices: Tensor, epoch: int) -> None:
        for part in self.rearrange(self.world.signals(self.driver.requires.signals, indices, epoch)):
            self.driver.observe(part.indices, part.values)
            self.driver.tell()

    def replay_proxy(self) -> None:
        if self.driver.requires.proxy is not None:
            rows = torch.arange(self.driver.task.n)
            for part in self.rearrange(self.world.signals(self.driver.requires.signals, rows, 0, proxy_run=0)):
                self.driver.replay(part)

    def epoch(self, epoch: int) -> Trace:
        driver, task = self.driver, self.driver.task
        trace = Trace(driver.start(epoch, (epoch + 1) / task.epochs))
        for part in driver.order().split(task.batch_size * driver.pool):
            trace.forwarded.append(part)
            if driver.picks:
                measured = self.world.signals(driver.requires.signals, part, epoch).values
                trace.picks.append(Picks(*driver.pick(part, measured)))
            if driver.requires.online:
                self.observe(part, epoch)
        refresh = trace.selection.refresh
        late = [] if refresh is None else [refresh]
        if not driver.requires.online:
            self.observe(torch.cat(trace.forwarded + late), epoch)
        elif refresh is not None:
            self.observe(refresh, epoch)
        trace.forwarded += late
        return trace

    def epochs(self, first: int, last: int) -> list[Trace]:
        return [self.epoch(epoch) for epoch in range(first, last)]


def _make(text: str, seed: int = 3, **task: Any) -> PruningMethod:
    method = load_method(text)
    given = {"n": N, "epochs": EPOCHS, "batch_size": BATCH, "keep": 0.4, "labels": torch.arange(N) % CLASSES} | task
    method.setup(Task(**given), generator(seed))
    return method


def _assert_same(one: list[Trace], two: list[Trace]) -> None:
    for epoch, (a, b) in enumerate(zip(one, two, strict=True)):
        for x, y in zip(a.tensors(), b.tensors(), strict=True):
            assert torch.equal(x, y), f"epoch {epoch}"


@pytest.fixture(scope="session")
def make() -> Any:
    """Give `make(text, seed, n=..., keep=...)`: a method that is set up."""
    return _make


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def drive(world: World) -> Any:
    """Give `drive(method, epochs)`: the traces of a whole run."""

    def run(method: PruningMethod, epochs: int = EPOCHS) -> list[Trace]:
        training = Training(method, world)
        training.replay_proxy()
        return training.epochs(0, epochs)

    return run


@pytest.fixture(scope="session")
def resumes(world: World, drive: Any) -> Any:
    """Give `resumes(text)`: stopped at any epoch, stored and loaded into a new object, the run goes on bit for bit."""

    def check(text: str, **task: Any) -> None:
        whole = drive(_make(text, **task))
        for stop in range(EPOCHS):
            first = Training(_make(text, **task), world)
            first.replay_proxy()
            start = first.epochs(0, stop)
            stored = io.BytesIO()
            torch.save(first.driver.state_dict(), stored)
            stored.seek(0)
            second = Training(_make(text, **task), world)
            torch.randperm(9, generator=second.driver.method.rng)  # what is not stored would show
            second.driver.load_state_dict(torch.load(stored, weights_only=True))
            _assert_same(start + second.epochs(stop, EPOCHS), whole)

    return check


@pytest.fixture(scope="session")
def order_free(world: World, drive: Any) -> Any:
    """Give `order_free(text)`: observing in another order, in chunks and repeatedly changes no answer.

    With steps=True the method takes each call for one step: only the order within it is changed.
    """

    def check(text: str, steps: bool = False, **task: Any) -> None:
        shuffles = generator(7)

        def rearrange(signals: Signals) -> list[Signals]:
            order = torch.randperm(len(signals), generator=shuffles)
            chunks = [order] if steps else [*order.split(7), *order.flip(0).split(11)]
            return [
                replace(signals, indices=signals.indices[c], values={k: v[c] for k, v in signals.values.items()})
                for c in chunks
            ]

        training = Training(_make(text, **task), world, rearrange)
        training.replay_proxy()
        _assert_same(training.epochs(0, EPOCHS), drive(_make(text, **task)))

    return check


@pytest.fixture(scope="session")
def show() -> Any:
    """Give `show(method, epoch, loss=...)`: let a method observe signals of samples 0, 1, ... or of `indices`."""

    def observe(method: PruningMethod, epoch: int = 0, indices: Tensor | None = None, **values: Any) -> Signals:
        tensors = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()}
        rows = torch.arange(len(next(iter(tensors.values())))) if indices is None else indices
        signals = Signals(rows, tensors, epoch)
        method.observe(signals)
        return signals

    return observe


@pytest.fixture(scope="session")
def peers() -> Any:
    """Outputs of the peers' own code, run on the same inputs."""
    return {**np.load(DATA / "peers_dynamic.npz"), **np.load(DATA / "peers_samplers.npz")}


@dataclass
class Small:
    """A linear softmax model on 12 samples: losses, error norms and gradients (12, 9), fixed."""

    loss: Tensor
    error_norm: Tensor
    gradients: Tensor


@pytest.fixture(scope="session")
def small() -> Small:
    rng = generator(26)
    x = torch.randn(12, 3, generator=rng)
    weight = (0.7 * torch.randn(3, 3, generator=rng)).requires_grad_()
    labels = (x @ weight).argmax(1)
    labels[:3] = (labels[:3] + 1) % 3  # these have losses above 3, the others below 0.8
    losses = torch.nn.functional.cross_entropy(x @ weight, labels, reduction="none")
    gradients = torch.stack([torch.autograd.grad(loss, weight, retain_graph=True)[0].flatten() for loss in losses])
    error = (x @ weight).softmax(1) - torch.eye(3)[labels]
    return Small(losses.detach(), error.norm(dim=1).detach(), gradients.double())


@pytest.fixture(scope="session")
def deviation() -> Any:
    """Give `deviation(estimates, target)`: the largest distance of the mean from the target, in standard errors."""

    def largest(estimates: Tensor, target: Tensor) -> float:
        error = estimates.std(0) / len(estimates) ** 0.5
        return float(((estimates.mean(0) - target).abs() / (error + 1e-12)).max())

    return largest


@pytest.fixture(scope="session")
def frequency() -> Any:
    """Give `frequency(select, n, trials)`: how often each of n samples was selected."""

    def count(select: Any, n: int, trials: int) -> Tensor:
        chosen = torch.zeros(n, dtype=torch.float64)
        for _ in range(trials):
            chosen[select()] += 1
        return chosen / trials

    return count
