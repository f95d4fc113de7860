"""When a method is asked and told, and what of it is saved."""

from pathlib import Path

import pytest
import torch

from dpbench import Picks, PruningMethod, Requires, Selection, Signals, Task, param
from dpbench.errors import MethodFailed, RunFailed
from dpbench.training.driver import Driver

N = 10


class Mistaken(PruningMethod):
    """Makes the mistake that it is told to make."""

    mistake: str = ""

    def setup(self, task: Task, rng: torch.Generator) -> None:
        if self.mistake != "super":
            super().setup(task, rng)
        if self.mistake == "before":
            del self.task
            self.losses = torch.zeros(self.task.n)  # before

    def select(self, epoch: int) -> Selection:
        if self.mistake == "disk":
            raise OSError("disk full")  # disk
        return Selection(self.ranking[:3])  # forgotten

    def observe(self, signals: Signals) -> None:
        if self.mistake == "shape":
            torch.zeros(N)[signals.indices] = signals["loss"][:1].expand(3)  # shape
        signals["entropy"]  # undeclared


def line_of(mark: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(mark))


@pytest.mark.parametrize(
    ("mistake", "called", "mark", "told"),
    [
        ("super", "setup", "", "Mistaken.setup did not call super().setup(task, rng); begin it with that line (FILE"),
        ("before", "setup", "# before", "; begin setup with super().setup(task, rng)"),
        ("forgets", "select", "# forgotten", "; what a method remembers is made in setup: self.ranking = ..."),
        (
            "undeclared",
            "observe",
            "# undeclared",
            "'entropy' was not measured (loss was); name it in Requires",
        ),
        ("shape", "observe", "# shape", "; it was given indices (2,), loss (2,), of 10 samples"),
    ],
)
def test_mistakes_are_told_with_line_and_remedy(mistake: str, called: str, mark: str, told: str) -> None:
    method = Mistaken(mistake=mistake)

    def run() -> None:
        driver = Driver(method, Task(N, 1, 4, 0.3), seed=0)
        if called == "select":
            driver.start(0, 1.0)
        driver.observe(torch.arange(2), {"loss": torch.ones(2)})
        driver.tell()

    with pytest.raises(MethodFailed) as caught:
        run()
    message = str(caught.value)
    assert message.startswith(f"Mistaken.{called}")
    assert told.replace("FILE", "test_driver.py") in message
    assert not mark or f"(test_driver.py, line {line_of(mark)})" in message


def test_what_the_machine_lacks_is_no_fault_of_the_method() -> None:
    method = Mistaken(mistake="disk")
    driver = Driver(method, Task(N, 1, 4, 0.3), seed=0)
    with pytest.raises(RunFailed, match=r"^Mistaken\.select\(epoch=0\) raised OSError: disk full \(test_") as caught:
        driver.start(0, 1.0)
    assert not isinstance(caught.value, MethodFailed)


# when a method is asked


class Asked(PruningMethod):
    """Selects one sample, the epoch's number, and writes down when it was asked."""

    every: int = param(1)
    until: float = param(1.0)

    def requires(self) -> Requires:
        return Requires(period=self.every, until=self.until)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.asked: list[int] = []

    def select(self, epoch: int) -> Selection:
        self.asked.append(epoch)
        return Selection(torch.tensor([epoch % self.task.n]))


def driven(epochs: int, period: int, until: float = 1.0) -> tuple[Driver, Asked]:
    method = Asked(every=period, until=until)
    return Driver(method, Task(100, epochs, 10, 0.5), seed=0), method


def walk(found: Driver, epochs: int, start: int = 0) -> list[int]:
    """The number of samples of each epoch."""
    return [len(found.start(e, e / epochs + 1 / epochs).indices) for e in range(start, epochs)]


@pytest.mark.parametrize(
    ("epochs", "until", "pruned"),
    [
        (30, 0.875, range(26)),
        (8, 0.875, range(7)),
        (200, 0.875, range(175)),
        (10, 1.0, range(10)),
        (10, 0.3, range(3)),  # 0.2 + 0.1 is more than 0.3 in floating point
        (3, 0.2, range(0)),
        (1, 0.875, range(0)),
    ],
)
def test_only_epochs_before_the_end_of_pruning_prune(epochs: int, until: float, pruned: range) -> None:
    found, method = driven(epochs, 1, until)
    assert walk(found, epochs) == [1 if epoch in pruned else 100 for epoch in range(epochs)]
    assert method.asked == list(pruned)


@pytest.mark.parametrize(
    ("period", "until", "asked"), [(1, 1.0, range(10)), (3, 1.0, [0, 3, 6, 9]), (4, 0.8, [0, 4]), (0, 1.0, [0])]
)
def test_period(period: int, until: float, asked: list[int]) -> None:
    found, method = driven(10, period, until)
    seen = [int(found.start(e, (e + 1) / 10).indices[0]) for e in range(10)]
    assert method.asked == list(asked)
    for epoch in range(round(until * 10)):
        assert seen[epoch] == max(a for a in asked if a <= epoch), "the selection in force is kept"


@pytest.mark.parametrize(("period", "asked"), [(1, [0, 1, 2, 3]), (3, [0, 3]), (0, [])])
def test_a_training_that_goes_back_is_given_new_selections(period: int, asked: list[int]) -> None:
    found, method = driven(10, period)
    walk(found, 10)
    method.asked = []
    walk(found, 4)
    assert method.asked == asked  # a static method selects once


@pytest.mark.parametrize(("period", "asked"), [(1, [2, 2]), (3, [0, 2]), (0, [0])])
def test_an_epoch_again_is_given_a_new_selection(period: int, asked: list[int]) -> None:
    found, method = driven(10, period)
    found.start(2 if period == 1 else 0, 0.3)
    found.start(2, 0.3, again=True)
    assert method.asked == asked


class Answers(PruningMethod):
    """Answers what it is told to."""

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.picked = Picks(torch.arange(0))

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(0))

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        return self.picked


class Endless(Answers):
    """Trains no epoch at all, or asks for no batch."""

    what: str = param("epochs")

    def epochs(self, task: Task) -> int:
        return 0 if self.what == "epochs" else 1

    def pool(self, task: Task) -> int:
        return 0


def answers() -> tuple[Driver, Answers]:
    method = Answers()
    return Driver(method, Task(N, 10, 4, 0.5), seed=0), method


def test_an_empty_selection_is_refused_and_an_empty_pick_is_not() -> None:
    driver, _ = answers()
    with pytest.raises(RunFailed, match=r"^Answers\.select\(epoch=0\) selected no samples \(test_driver\.py, line"):
        driver.start(0, 0.1)
    positions, weights = driver.pick(torch.arange(4), {"loss": torch.ones(4)})
    assert (len(positions), weights) == (0, None)


def test_a_bad_pick_is_refused_by_method_and_call() -> None:
    driver, method = answers()
    driver.epoch = 1
    method.picked = Picks(torch.tensor([4]))
    with pytest.raises(
        RunFailed,
        match=r"^Answers\.pick\(epoch=1\) .* 4, which is outside 0\.\.3; pick answers with pos",
    ):
        driver.pick(torch.arange(4), {"loss": torch.ones(4)})


@pytest.mark.parametrize("what", ["epochs", "pool"])
def test_no_epochs_and_no_batches_are_refused(what: str) -> None:
    told = rf"^Endless\.{what} returned 0; a whole number, at least 1, is needed \(test_driver\.py, line"
    with pytest.raises(RunFailed, match=told):
        Driver(Endless(what=what), Task(N, 10, 4, 0.5), seed=0)


def test_a_stored_driver_keeps_the_selection_in_force() -> None:
    found, _ = driven(10, 4)
    walk(found, 3)
    fresh, method = driven(10, 4)
    fresh.load_state_dict(found.state_dict())
    assert fresh.start(3, 0.4).indices.tolist() == [0]
    assert fresh.start(4, 0.5).indices.tolist() == [4]
    assert method.asked == [0, 4]  # the first before it was stored


class Told(PruningMethod):
    """Writes down what it was told, and draws in every pick."""

    online: bool = param(False)

    def requires(self) -> Requires:
        return Requires({"loss"}, online=self.online)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.told: list[list[int]] = []

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n), torch.arange(self.task.n) + 0.5)

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        return Picks(torch.randperm(len(signals), generator=rng)[:1])

    def observe(self, signals: Signals) -> None:
        self.told.append(signals.indices.tolist())


def measured(rows: list[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return torch.tensor(rows), {"loss": torch.ones(len(rows))}


def test_a_method_is_told_at_the_end_of_an_epoch_and_an_online_one_at_once() -> None:
    method = Told()
    driver = Driver(method, Task(N, 2, 4, 1.0), seed=0)
    driver.start(0, 0.5)
    driver.observe(*measured([3, 1]))
    driver.observe(*measured([2]))
    assert method.told == []
    driver.tell()
    driver.tell()
    assert method.told == [[3, 1, 2]]
    method = Told(online=True)
    driver = Driver(method, Task(N, 2, 4, 1.0), seed=0)
    driver.start(0, 0.5)
    driver.observe(*measured([0]))
    assert method.told == [[0]]


def test_a_pick_draws_from_the_ranks_own_generator_and_a_look_does_not() -> None:
    def picked(rank: int, looks: bool) -> list[int]:
        driver = Driver(Told(), Task(N, 2, 4, 1.0), seed=0, rank=rank)
        driver.start(0, 0.5)
        found = []
        for _ in range(20):
            if looks:
                driver.pick(*measured([5, 6, 7, 8]), torch.Generator().manual_seed(9))
            found.append(int(driver.pick(*measured([5, 6, 7, 8]))[0]))
        return found

    assert picked(0, looks=False) == picked(0, looks=True)
    assert picked(0, looks=False) != picked(1, looks=False)


def test_an_epoch_goes_on_from_a_stored_state() -> None:
    def through(stored: bool) -> tuple[list[int], list[list[int]]]:
        method = Told()
        driver = Driver(method, Task(N, 2, 4, 1.0), seed=0)
        driver.start(0, 0.5)
        found = [int(driver.pick(*measured([5, 6, 7, 8]))[0]) for _ in range(5)]
        driver.observe(*measured([4]))
        if stored:
            state = driver.state_dict()
            method = Told()
            driver = Driver(method, Task(N, 2, 4, 1.0), seed=0)
            driver.load_state_dict(state)
            driver.start(0, 0.5)
        found += [int(driver.pick(*measured([5, 6, 7, 8]))[0]) for _ in range(20)]
        driver.observe(*measured([2]))
        driver.tell()
        return found, method.told

    assert through(stored=True) == through(stored=False)


def test_order_and_weights_are_those_of_the_epoch() -> None:
    driver = Driver(Told(), Task(N, 2, 4, 1.0), seed=0)
    driver.start(0, 0.5)
    first = driver.order()
    assert sorted(first.tolist()) == list(range(N))
    assert torch.equal(driver.order(), first)
    weights = driver.weights()
    assert weights is not None
    assert weights.tolist() == [i + 0.5 for i in range(N)]
    driver.start(1, 1.0)
    assert not torch.equal(driver.order(), first)
