"""The draws against brute force and sorting, and the state of a method."""

import io
import math
from collections import Counter
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare

from dpbench import Picks, Proxy, PruningMethod, Requires, Selection, Task, param
from dpbench.draws import others, sample, top

LIKELY = 1e-4  # the p-value under which a draw counts as not uniform; the seeds are fixed, so a pass stays one


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# sample


@settings(deadline=None)
@given(st.integers(0, 3000), st.data())
def test_sample_is_exact_unique_and_sorted(n: int, data: st.DataObject) -> None:
    k = data.draw(st.one_of(st.integers(0, n), st.sampled_from([0, min(1, n), max(0, n - 1), n])))
    drawn = sample(n, k, generator(data.draw(st.integers(0, 100))))
    assert drawn.dtype == torch.int64
    assert drawn.shape == (k,)
    assert torch.equal(drawn, drawn.unique())
    assert k == 0 or 0 <= drawn[0] <= drawn[-1] < n


@pytest.mark.parametrize(("n", "k"), [(5, 1), (5, 4), (6, 2), (6, 3), (7, 6), (8, 5), (20, 18)])
def test_every_subset_is_equally_likely(n: int, k: int) -> None:
    rng, subsets = generator(1), list(combinations(range(n), k))
    times = Counter(tuple(sample(n, k, rng).tolist()) for _ in range(60 * len(subsets)))
    assert chisquare([times[subset] for subset in subsets]).pvalue > LIKELY


@pytest.mark.parametrize(("n", "k"), [(203, 100), (201, 60), (202, 180)])
def test_where_coins_are_tossed_indices_and_neighbours_are_equally_likely(n: int, k: int) -> None:
    rng, trials = generator(2), 4000
    chosen = torch.zeros(trials, n, dtype=torch.float64)
    for row in chosen:
        row[sample(n, k, rng)] = 1
    share = k / n
    spread = (chosen.sum(0) - trials * share).square().sum() / (trials * share * (1 - share)) * (n - 1) / n
    assert LIKELY < chi2(n - 1).sf(float(spread)) < 1 - LIKELY
    for distance in (1, 2, 4):  # coins are cut out of 64-bit words
        together = (chosen[:, distance:] * chosen[:, :-distance]).sum(1)
        expected = (n - distance) * k * (k - 1) / (n * (n - 1))
        assert abs(float(together.mean()) - expected) < 4 * float(together.std()) / trials**0.5


def test_sample_depends_on_the_generator_only() -> None:
    assert torch.equal(sample(1000, 300, generator(5)), sample(1000, 300, generator(5)))
    rng = generator(5)
    assert not torch.equal(sample(1000, 300, rng), sample(1000, 300, rng))


@pytest.mark.parametrize(("n", "k"), [(3, 4), (3, -1), (0, 1)])
def test_what_cannot_be_drawn_is_refused(n: int, k: int) -> None:
    with pytest.raises(ValueError, match="without replacement"):
        sample(n, k, generator())
    with pytest.raises(ValueError, match="largest"):
        top(torch.rand(n), k, generator())


# top

scores_ = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(allow_nan=True, allow_infinity=True, width=32)), max_size=60
)


@settings(deadline=None)
@given(scores_, st.data())
def test_top_is_what_a_sort_puts_first(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(values)))
    found = top(torch.tensor(values, dtype=torch.float32), k, generator(data.draw(st.integers(0, 9))))
    assert found.dtype == torch.int64
    assert torch.equal(found, found.unique())
    ranked = [math.inf if math.isnan(value) else value for value in values]
    assert sorted((ranked[i] for i in found.tolist()), reverse=True) == sorted(ranked, reverse=True)[:k]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64])
def test_top_of_any_dtype(dtype: torch.dtype) -> None:
    assert top(torch.tensor([3, 9, 1, 7], dtype=dtype), 2, generator()).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("values", "k", "sure", "tied"),
    [
        ([3.0, 1.0, 1.0, 0.0, 1.0, 1.0], 3, {0}, {1, 2, 4, 5}),
        ([2.0, 2.0, 2.0, 2.0, 2.0], 2, set(), {0, 1, 2, 3, 4}),
        ([0.0, float("nan"), float("inf"), 5.0], 1, set(), {1, 2}),
        ([-math.inf, -math.inf, 0.0, -math.inf], 2, {2}, {0, 1, 3}),
    ],
)
def test_ties_are_broken_uniformly(values: list[float], k: int, sure: set[int], tied: set[int]) -> None:
    rng, scores = generator(3), torch.tensor(values)
    subsets = [tuple(sorted(sure.union(part))) for part in combinations(tied, k - len(sure))]
    times = Counter(tuple(top(scores, k, rng).tolist()) for _ in range(200 * len(subsets)))
    assert times.keys() == set(subsets)
    assert chisquare(list(times.values())).pvalue > LIKELY


def test_top_leaves_the_scores_as_they_are() -> None:
    scores = torch.tensor([1.0, float("nan"), -math.inf])
    top(scores, 2, generator())
    assert scores.isnan().tolist() == [False, True, False]


def test_others() -> None:
    assert others(5, torch.tensor([3, 0])).tolist() == [1, 2, 4]
    assert others(2, torch.arange(2)).tolist() == []


# the interface


class Walker(PruningMethod):
    """Selections that depend on all kinds of state."""

    step: int = param(1, low=1, high=5)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.scores = torch.zeros(task.n)
        self.log: list[int] = []
        self.named = {"last": torch.zeros(2)}

    def select(self, epoch: int) -> Selection:
        self.scores += torch.rand(self.task.n, generator=self.rng) * self.step
        self.log.append(epoch)
        self.named["last"][0] += self.scores[0]
        return Selection(top(self.scores + self.named["last"][0] + len(self.log), self.task.k, self.rng))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 6), st.integers(1, 6), st.integers(1, 5))
def test_a_stored_state_continues_bit_for_bit(before: int, after: int, step: int) -> None:
    method = Walker(step=step)
    method.setup(Task(30, 10, 5, 0.3), generator(4))
    for epoch in range(before):
        method.select(epoch)
    state = method.state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    expected = [method.select(epoch).indices for epoch in range(before, before + after)]
    file.seek(0)
    for stored in (torch.load(file, weights_only=True), state):  # `state` must not have changed with the method
        fresh = Walker(step=step)
        fresh.setup(Task(30, 10, 5, 0.3), generator(99))
        fresh.load_state_dict(stored)
        for epoch, indices in enumerate(expected, start=before):
            assert torch.equal(fresh.select(epoch).indices, indices)
        assert fresh.log == list(range(before + after))


def test_subclasses_are_dataclasses_of_their_hyper_parameters() -> None:
    assert Walker(step=3).hyperparameters() == {"step": 3}
    assert Walker().hyperparameters() == {"step": 1}
    with pytest.raises(TypeError, match="unexpected"):
        Walker(stride=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="abstract"):
        PruningMethod()  # type: ignore[abstract]


def test_kind_follows_from_what_is_overridden() -> None:
    class Once(Walker):
        every: int = param(0)

        def requires(self) -> Requires:
            return Requires(period=self.every)

    class Picking(Once):
        def pick(self, signals, rng):  # type: ignore[no-untyped-def]
            return Picks(torch.arange(len(signals)))

    assert [method.kind() for method in (Walker(), Once(), Once(every=3), Picking())] == [
        "epoch",
        "static",
        "epoch",
        "batch",
    ]
    assert [cls.picks() for cls in (Walker, Once, Picking)] == [False, False, True]


@pytest.mark.parametrize(("n", "keep", "k"), [(100, 0.3, 30), (10, 0.001, 1), (7, 1.0, 7), (1212, 0.3, 364)])
def test_k_is_the_rounded_share_and_at_least_one(n: int, keep: float, k: int) -> None:
    assert Task(n, 1, 1, keep).k == k


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epochs": 0}, "at least 1"), ({"epochs": 1, "seeds": 0}, "at least 1"),
     ({"epochs": 1, "at": "steps", "data": "holdout"}, "trains on other samples")],
)  # fmt: skip
def test_a_proxy_without_meaning_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Proxy(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signals": "loss"}, r"signals = 'loss' is not a set of names, as \{'loss'\}"),
        ({"signals": ["loss"]}, r"signals = \['loss'\] is not a set of names"),
        ({"period": -1}, "period = -1 is not a whole number of epochs"),
        ({"period": True}, "period = True is not a whole number"),
        ({"until": 1.5}, "until = 1.5 is not a share of the training"),
        ({"until": (0.0, 0.9)}, r"until = \(0.0, 0.9\) is not a share"),
        ({"fixed_keep": 1.5}, r"fixed_keep = 1.5 is not a share in \(0, 1\] or None"),
        ({"fixed_keep": 0}, "fixed_keep = 0 is not a share"),
        ({"proxy": 3}, "proxy = 3 is not a Proxy or None"),
        ({"online": "no"}, "online = 'no' is not True or False"),
        ({"budget": "steps"}, "budget = 'steps' is not 'epochs' or 'samples'"),
    ],
)
def test_a_requirement_without_meaning_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Requires(**options)


def test_a_requirement_does_not_change_with_the_set_that_it_was_made_of() -> None:
    names = {"loss"}
    stated = Requires(names)
    names.add("logits")
    assert stated.signals == {"loss"}


def test_a_method_within_a_method_is_stored_with_it() -> None:
    class Outer(Walker):
        def setup(self, task: Task, rng: torch.Generator) -> None:
            super().setup(task, rng)
            self.inner = Walker(step=2)
            self.inner.setup(task, rng)

        def select(self, epoch: int) -> Selection:
            return self.inner.select(epoch)

    one, other = Outer(), Outer()
    one.setup(Task(30, 10, 5, 0.3), generator(4))
    other.setup(Task(30, 10, 5, 0.3), generator(5))
    one.select(0)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.select(1).indices, other.select(1).indices)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0, "high": 1, "log": True}, r"low=0, high=1, log=True.*has low above 0"),
        ({"low": -1.0, "log": True}, "has low above 0"),
        ({"low": 2, "high": 1}, "low is above high"),
        ({"low": float("nan"), "high": 1}, "finite numbers"),
        ({"low": 0, "high": float("inf")}, "finite numbers"),
        ({"low": "a", "high": 1}, "finite numbers"),
        ({"choices": ()}, "at least one"),
        ({"choices": ({1: 2},)}, "choices are words, numbers"),
        ({"choices": "ab"}, "choices are words, numbers"),
    ],
)
def test_a_range_that_cannot_be_searched(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        param(0.5, **options)
