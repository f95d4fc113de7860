"""What is refused as a selection, the order and the batches of an epoch, and when a method is asked."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpbench import PruningMethod, Selection, Signals, Task, load_method
from dpbench.errors import MethodFailed, RunFailed, UsageError
from dpbench.sampler import (
    Selector,
    batches,
    call,
    everything,
    join,
    mask,
    observe,
    order,
    pick,
    selection_fault,
    set_up,
    spread,
    to_cpu,
    training_epochs,
)

N = 10
GOOD = Selection(torch.tensor([7, 0, 3]), torch.tensor([0.0, 1.0, 2.5]), torch.tensor([1, 2]), 0.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# refusals


def test_in_a_good_selection_is_no_fault() -> None:
    assert selection_fault(GOOD, N) is None
    assert selection_fault(everything(N), N) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": [7, 0, 3]}, "returned indices that are list; a tensor of int64 of shape (k,) is needed"),
        (
            {"indices": torch.tensor([7, 0, 3], dtype=torch.int32)},
            "returned indices that are torch.int32 of shape (3,)",
        ),
        ({"indices": torch.tensor([7.0, 0, 3])}, "returned indices that are torch.float32"),
        ({"indices": torch.tensor([[7, 0, 3]])}, "returned indices that are torch.int64 of shape (1, 3)"),
        ({"indices": torch.tensor([7, 0, 10])}, "returned indices with 10, which is outside 0..9"),
        ({"indices": torch.tensor([7, -1, 3])}, "returned indices with -1, which is outside 0..9"),
        ({"indices": torch.tensor([7, 7, 7])}, "returned indices with 2 repeated"),
        ({"weights": torch.ones(2)}, "returned weights of shape (2,) for indices of shape (3,)"),
        ({"weights": torch.ones(3, 1)}, "returned weights of shape (3, 1)"),
        ({"weights": torch.tensor([1.0, -0.1, 1.0])}, "returned a weight that is negative or not finite"),
        ({"weights": torch.tensor([1.0, float("nan"), 1.0])}, "returned a weight that is negative or not finite"),
        ({"weights": torch.tensor([1.0, float("inf"), 1.0])}, "returned a weight that is negative or not finite"),
        ({"weights": torch.ones(3, dtype=torch.int64)}, "returned weights that are not a floating-point tensor"),
        ({"weights": [1.0, 1.0, 1.0]}, "returned weights that are not a floating-point tensor"),
        ({"refresh": torch.tensor([1, 1])}, "returned refresh with 1 repeated"),
        ({"refresh": torch.tensor([N])}, "returned refresh with 10, which is outside"),
        ({"indices": torch.arange(3, device="meta")}, "returned indices on meta; a method answers on the CPU"),
        ({"lr_scale": "0.5"}, "returned lr_scale = 0.5; it must be positive and finite"),
        ({"lr_scale": 0.0}, "returned lr_scale = 0.0; it must be positive and finite"),
        ({"lr_scale": float("nan")}, "returned lr_scale = nan"),
        ({"lr_scale": float("inf")}, "returned lr_scale = inf"),
    ],
)
def test_a_bad_selection_is_told(change: dict[str, object], message: str) -> None:
    fault = selection_fault(replace(GOOD, **change), N)  # type: ignore[arg-type]
    assert fault is not None
    assert fault.startswith(message)
    assert "\n" not in fault


@pytest.mark.parametrize(
    ("indices", "rewrite"),
    [
        ([1, 2], "torch.as_tensor(indices)"),
        (torch.tensor([1.0, 2.0]), "indices.long()"),
        (torch.ones(N, dtype=torch.bool), "indices.nonzero().flatten()"),
        (torch.tensor([[1, 2]]), "indices.flatten()"),
    ],
)
def test_the_rewrite_that_is_told_is_right(indices: object, rewrite: str) -> None:
    fault = selection_fault(Selection(indices), N)  # type: ignore[arg-type]
    assert fault is not None
    assert fault.endswith(f": {rewrite}")
    assert selection_fault(Selection(eval(rewrite)), N) is None


def test_what_is_no_selection_is_refused() -> None:
    assert selection_fault([1, 2], N) == "returned list, not a Selection; write return Selection(indices)"
    assert selection_fault(None, N) == "returned None, not a Selection; is a return missing?"


def test_call_names_method_and_call() -> None:
    method = load_method("full")

    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(RunFailed, match=r"^Full\.select\(epoch=2\) raised KeyError: 'x' \(full\.py, line 8\)$"):
        call(method, "select(epoch=2)", fail, KeyError("x"))
    with pytest.raises(UsageError, match=r"^as it is$"):
        call(method, "select", fail, UsageError("as it is"))
    with pytest.raises(KeyboardInterrupt):
        call(method, "select", fail, KeyboardInterrupt())
    assert call(method, "sum", sum, [1, 2]) == 3


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
        ("undeclared", "observe", "# undeclared", "the signal 'entropy' was not measured (loss was); name it in needs"),
        ("shape", "observe", "# shape", "; it was given indices (2,), loss (2,), of 10 samples"),
    ],
)
def test_mistakes_are_told_with_line_and_remedy(mistake: str, called: str, mark: str, told: str) -> None:
    method = Mistaken(mistake=mistake)

    def run() -> None:
        set_up(method, Task(N, 1, 4, 0.3), generator())
        if called == "select":
            Selector(method).select(0, 0.0, 1.0)
        observe(method, [(torch.arange(2), {"loss": torch.ones(2)})], 0)

    with pytest.raises(MethodFailed) as caught:
        run()
    message = str(caught.value)
    assert message.startswith(f"Mistaken.{called}")
    assert told.replace("FILE", "test_sampler.py") in message
    assert not mark or f"(test_sampler.py, line {line_of(mark)})" in message


def test_what_the_machine_lacks_is_no_fault_of_the_method() -> None:
    method = Mistaken(mistake="disk")
    set_up(method, Task(N, 1, 4, 0.3), generator())
    with pytest.raises(RunFailed, match=r"^Mistaken\.select\(epoch=0\) raised OSError: disk full \(test_") as caught:
        Selector(method).select(0, 0.0, 1.0)
    assert not isinstance(caught.value, MethodFailed)


# order and batches


@settings(deadline=None)
@given(st.integers(1, 200), st.data())
def test_paired_runs_order_common_samples_alike(n: int, data: st.DataObject) -> None:
    a, b = (torch.tensor(sorted(data.draw(st.sets(st.integers(0, n - 1)))), dtype=torch.int64) for _ in range(2))
    seed = data.draw(st.integers(0, 100))
    x, y = order(a, n, generator(seed)), order(b, n, generator(seed))
    assert torch.equal(x.sort().values, a)
    common = set(a.tolist()) & set(b.tolist())
    assert [i for i in x.tolist() if i in common] == [i for i in y.tolist() if i in common]


def test_order_is_a_permutation_that_the_seed_decides() -> None:
    found = order(torch.arange(100), 100, generator(1))
    assert sorted(found.tolist()) == list(range(100)) != found.tolist()
    assert torch.equal(found, order(torch.arange(100).flip(0), 100, generator(1)))
    assert not torch.equal(found, order(torch.arange(100), 100, generator(2)))


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (1, 4, [1]), (5, 4, [5]), (3, 1, [1, 1, 1]), (4, 9, [4])],
)
def test_batches(n: int, size: int, sizes: list[int]) -> None:
    rows = torch.arange(n) * 2
    parts = batches(rows, size)
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat(parts), rows)


def test_dropped_last_batches() -> None:
    assert [len(part) for part in batches(torch.arange(9), 4, drop_last=True)] == [4, 4]
    assert batches(torch.arange(3), 4, drop_last=True) == []


def test_weights_are_spread() -> None:
    found = spread(GOOD, N)
    assert found is not None
    assert found.tolist() == [1.0, 0, 0, 2.5, 0, 0, 0, 0.0, 0, 0]
    assert spread(everything(N), N) is None


def test_nested_states_move_to_the_cpu() -> None:
    state = {"a": [torch.ones(2, device="meta"), (1, "x")], "b": (3, [True])}
    with pytest.raises(NotImplementedError, match="meta"):  # it is the tensor that was to be moved
        to_cpu(state)
    state["a"][0] = torch.ones(2)  # type: ignore[index]
    assert str(to_cpu(state)) == str(state)


def test_join_and_mask() -> None:
    one = (torch.tensor([3, 1]), {"loss": torch.tensor([0.3, 0.1])})
    two = (torch.tensor([2]), {"loss": torch.tensor([0.2])})
    found = join([one, two], epoch=4, proxy_run=1)
    assert (found.indices.tolist(), found.epoch, found.proxy_run, len(found)) == ([3, 1, 2], 4, 1, 3)
    torch.testing.assert_close(found["loss"], torch.tensor([0.3, 0.1, 0.2]))
    assert mask(torch.tensor([2, 0]), 4).tolist() == [True, False, True, False]


# when a method is asked


class Asked(PruningMethod):
    """Selects one sample, the epoch's number, and writes down when it was asked."""

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.asked: list[int] = []

    def select(self, epoch: int) -> Selection:
        self.asked.append(epoch)
        return Selection(torch.tensor([epoch % self.task.n]))


def selector(epochs: int, period: int, window: tuple[float, float]) -> tuple[Selector, Asked]:
    method = Asked()
    method.period, method.window = period, window
    method.setup(Task(100, epochs, 10, 0.5), generator())
    return Selector(method), method


def walk(found: Selector, epochs: int, start: int = 0) -> list[int]:
    """The number of samples of each epoch."""
    return [len(found.select(e, e / epochs, e / epochs + 1 / epochs).indices) for e in range(start, epochs)]


@pytest.mark.parametrize(
    ("epochs", "window", "pruned"),
    [
        (30, (0.0, 0.875), range(26)),
        (8, (0.0, 0.875), range(7)),
        (200, (0.0, 0.875), range(175)),
        (10, (0.0, 1.0), range(10)),
        (8, (0.25, 0.75), range(2, 6)),
        (10, (0.3, 0.7), range(3, 7)),
        (10, (0.0, 0.3), range(3)),  # 0.2 + 0.1 is more than 0.3 in floating point
        (10, (0.25, 0.75), range(3, 7)),
        (3, (0.0, 0.2), range(0)),
        (1, (0.0, 0.875), range(0)),
    ],
)
def test_only_epochs_inside_the_window_prune(epochs: int, window: tuple[float, float], pruned: range) -> None:
    found, method = selector(epochs, 1, window)
    assert walk(found, epochs) == [1 if epoch in pruned else 100 for epoch in range(epochs)]
    assert method.asked == list(pruned)


@pytest.mark.parametrize(
    ("period", "window", "asked"),
    [(1, (0, 1), range(10)), (3, (0, 1), [0, 3, 6, 9]), (4, (0.2, 0.8), [2, 6]), (0, (0, 1), [0]), (0, (0.5, 1), [5])],
)
def test_period(period: int, window: tuple[float, float], asked: list[int]) -> None:
    found, method = selector(10, period, window)
    seen = [int(found.select(e, e / 10, (e + 1) / 10).indices[0]) for e in range(10)]
    assert method.asked == list(asked)
    inside = [epoch for epoch in range(10) if window[0] * 10 <= epoch < window[1] * 10]
    for epoch in inside:
        assert seen[epoch] == max(a for a in asked if a <= epoch), "the selection in force is kept"


@pytest.mark.parametrize(("period", "asked"), [(1, [0, 1, 2, 3]), (3, [0, 3]), (0, [])])
def test_a_training_that_goes_back_is_given_new_selections(period: int, asked: list[int]) -> None:
    found, method = selector(10, period, (0, 1))
    walk(found, 10)
    method.asked = []
    walk(found, 4)
    assert method.asked == asked  # a static method selects once


@pytest.mark.parametrize(("period", "asked"), [(1, [2, 2]), (3, [0, 2]), (0, [0])])
def test_an_epoch_again_is_given_a_new_selection(period: int, asked: list[int]) -> None:
    found, method = selector(10, period, (0, 1))
    found.select(2 if period == 1 else 0, 0.2, 0.3)
    found.select(2, 0.2, 0.3, again=True)
    assert method.asked == asked


class Answers(PruningMethod):
    """Answers what it is told to."""

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.answer = Selection(torch.arange(0))

    def select(self, epoch: int) -> Selection:
        return self.answer

    def pick(self, signals: Signals, rng: torch.Generator) -> Selection:
        return self.answer

    def epochs(self, task: Task) -> int:
        return 0


def answers() -> Answers:
    method = Answers()
    method.setup(Task(N, 10, 4, 0.5), generator())
    return method


def test_an_empty_selection_is_refused_and_an_empty_pick_is_not() -> None:
    method = answers()
    with pytest.raises(RunFailed, match=r"^Answers\.select\(epoch=0\) selected no samples \(test_sampler\.py, line"):
        Selector(method).select(0, 0.0, 0.1)
    positions, weights = pick(method, torch.arange(4), {}, 0, generator())
    assert (len(positions), weights) == (0, None)


def test_a_bad_pick_is_refused_by_method_and_call() -> None:
    method = answers()
    method.answer = Selection(torch.tensor([4]))
    with pytest.raises(
        RunFailed,
        match=r"^Answers\.pick\(epoch=1\) .* 4, which is outside 0\.\.3; pick answers with pos",
    ):
        pick(method, torch.arange(4), {}, 1, generator())


def test_no_epochs_are_refused() -> None:
    with pytest.raises(RunFailed, match=r"^Answers\.epochs returned 0; at least 1 is needed \(test_sampler\.py, line"):
        training_epochs(answers())


def test_a_stored_selector_keeps_the_selection_in_force() -> None:
    found, _ = selector(10, 4, (0, 1))
    walk(found, 3)
    fresh, method = selector(10, 4, (0, 1))
    fresh.load_state_dict(found.state_dict())
    assert fresh.select(3, 0.3, 0.4).indices.tolist() == [0]
    assert fresh.select(4, 0.4, 0.5).indices.tolist() == [4]
    assert method.asked == [4]


def test_shuffled_epochs_differ_pairwise() -> None:
    orders = [order(torch.arange(50), 50, generator(seed)) for seed in range(5)]
    assert not any(torch.equal(a, b) for a, b in pairwise(orders))
