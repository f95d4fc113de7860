"""Selection by ranks that each hold their own samples has the law of the method in one process, and its exact sizes."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare, hypergeom, norm
from torch import Tensor

from dpbench import Selection, Signals, Task, load_method
from dpbench.errors import UsageError
from dpbench.training import shards
from dpbench.training.sharded import SELECTS, ShardedSelection
from dpbench.training.shards import Shards

LIKELY = 1e-4  # the p-value under which a draw counts as of another law; the seeds are fixed, so a pass stays one
UNEVEN = {1: [6], 2: [5, 1], 3: [3, 0, 3]}  # how many of 6 samples each rank holds


class Threads:
    """In the place of torch.distributed: ranks that are threads of this process."""

    def __init__(self) -> None:
        self.here = threading.local()

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def get_rank(self, group: Any) -> int:
        return int(self.here.rank)

    def get_world_size(self, group: Any) -> int:
        return len(self.given)

    def all_reduce(self, values: Tensor, group: Any) -> None:
        self.given[self.here.rank] = values
        self.meet.wait()
        values.copy_(self.total)

    def add_up(self) -> None:
        assert len({(one.dtype, one.shape) for one in self.given}) == 1, "the network does not ask"
        self.total = torch.stack(self.given).sum(0)

    def on(self, size: int, work: Callable[[int], Any]) -> list[Any]:
        """What `work(rank)` returns on each of the ranks; an error of one is raised."""
        self.given: list[Any] = [None] * size
        self.meet = threading.Barrier(size, self.add_up)
        found: list[Any] = [None] * size
        errors: list[BaseException] = []

        def be(rank: int) -> None:
            self.here.rank = rank
            try:
                found[rank] = work(rank)
            except threading.BrokenBarrierError:
                pass
            except BaseException as error:
                errors.append(error)
                self.meet.abort()

        ranks = [threading.Thread(target=be, args=(rank,)) for rank in range(size)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        if errors:
            raise errors[0]
        return found


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    found = Threads()
    monkeypatch.setattr(shards, "dist", found)
    monkeypatch.setattr(shards, "BINS", 2**11)  # more rounds of smaller histograms
    return found


def joined(parts: list[Tensor], sizes: list[int]) -> tuple[int, ...]:
    """The positions among all samples of those that each rank has chosen among its own."""
    assert all(len(part.unique()) == len(part) for part in parts)
    starts = np.cumsum([0, *sizes])
    return tuple(sorted(int(row) + int(start) for part, start in zip(parts, starts, strict=False) for row in part))


# how many of a draw fall to each rank


@pytest.mark.parametrize("k", [0, 1, 4, 7, 10])
def test_shares_have_the_multivariate_hypergeometric_law(k: int) -> None:
    sizes, rng = np.array([3, 0, 5, 2]), np.random.default_rng(0)
    ways = Counter(
        tuple(np.bincount(np.repeat([0, 2, 3], [3, 5, 2])[list(s)], minlength=4)) for s in combinations(range(10), k)
    )
    found = Counter(tuple(shards.shares(sizes, k, rng)) for _ in range(1000))
    assert found.keys() <= ways.keys()
    if len(ways) > 1:
        expected = np.array(list(ways.values())) * 1000 / sum(ways.values())
        assert chisquare([found[way] for way in ways], expected).pvalue > LIKELY


@pytest.mark.parametrize("k", [90, 130])
def test_shares_where_most_is_drawn_by_coins(k: int) -> None:
    rng, law = np.random.default_rng(1), hypergeom(200, 120, k)
    found = np.array([shards.shares(np.array([80, 120]), k, rng)[1] for _ in range(1000)])
    edges = np.unique(law.ppf(np.linspace(0, 1, 13)[1:-1]))
    expected = np.diff([0, *law.cdf(edges), 1]) * len(found)
    times = np.bincount(np.searchsorted(edges, found), minlength=len(expected))
    assert chisquare(times, expected).pvalue > LIKELY


def test_shares_beyond_the_limit_of_numpy() -> None:
    sizes, rng = np.array([4 * 10**9, 1, 6 * 10**9]), np.random.default_rng(2)
    with pytest.raises(ValueError, match="1000000000"):
        rng.hypergeometric(4 * 10**9, 6 * 10**9, 100)
    for k in (5 * 10**9 + 1, 10**10):
        assert shards.shares(sizes, k, rng).sum() == k
    k, trials = 10**6, 300
    found = np.array([shards.shares(sizes, k, rng)[0] for _ in range(trials)])
    mean, variance = hypergeom.stats(int(sizes.sum()), int(sizes[0]), k)
    standard = (found - float(mean)) / math.sqrt(float(variance))
    assert 2 * norm.sf(abs(standard.mean()) * math.sqrt(trials)) > LIKELY
    assert abs((standard**2).mean() - 1) < 4 * math.sqrt(2 / trials)


# draws and thresholds


@pytest.mark.parametrize("sizes", UNEVEN.values(), ids=str)
def test_every_subset_is_drawn_equally_often(threads: Threads, sizes: list[int]) -> None:
    trials = 400

    def work(rank: int) -> list[Tensor]:
        own = Shards(sizes[rank])
        found = []
        for trial in range(trials):
            own.seed(1, trial)
            found.append(own.sample(sizes[rank], 3))
        return found

    found = Counter(joined(list(parts), sizes) for parts in zip(*threads.on(len(sizes), work), strict=True))
    assert chisquare([found[subset] for subset in combinations(range(6), 3)]).pvalue > LIKELY
    assert found.total() == trials


SPECIAL = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, -math.nan, 1e-40, -1e-40, 3e38]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_top_is_what_a_sort_puts_first(threads: Threads, size: int, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(size)
    parts = [torch.randn(count, generator=rng, dtype=dtype) for count in (40, 0, 23)[:size]]
    parts[0] = torch.cat([parts[0], torch.tensor(SPECIAL * 2, dtype=dtype)])
    parts[-1] = torch.cat([parts[-1], torch.tensor(SPECIAL, dtype=dtype), parts[0][:5]])
    every = torch.cat(parts).nan_to_num(math.inf, math.inf, -math.inf)
    wanted = every.sort(descending=True).values
    counts = [0, 1, 2, *range(5, len(every), 9), len(every)]

    def work(rank: int) -> list[Tensor]:
        own = Shards(len(parts[rank]))
        own.seed(0, 0)
        return [own.top(parts[rank], k) for k in counts]

    for k, found in zip(counts, zip(*threads.on(size, work), strict=True), strict=True):
        chosen = joined(list(found), [len(part) for part in parts])
        assert torch.equal(every[list(chosen)].sort(descending=True).values, wanted[:k])
        assert all(torch.equal(rows, rows.sort().values) for rows in found)


@pytest.mark.parametrize("sizes", UNEVEN.values(), ids=str)
def test_ties_are_broken_uniformly_over_all_ranks(threads: Threads, sizes: list[int]) -> None:
    parts = torch.tensor([-0.0, 2.0, 0.0, 0.0, -1.0, 0.0]).split(sizes)

    def work(rank: int) -> list[Tensor]:
        own, found = Shards(sizes[rank]), []
        for trial in range(200):
            own.seed(2, trial)
            found.append(own.top(parts[rank], 3))
        return found

    found = Counter(joined(list(rows), sizes) for rows in zip(*threads.on(len(sizes), work), strict=True))
    subsets = [tuple(sorted((1, *pair))) for pair in combinations((0, 2, 3, 5), 2)]
    assert found.keys() == set(subsets)
    assert chisquare([found[subset] for subset in subsets]).pvalue > LIKELY


@pytest.mark.parametrize("classes", [3, 3000])
def test_each_class_has_its_own_threshold(threads: Threads, classes: int) -> None:
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(classes, (5000,), generator=rng).to(torch.int16)
    ids[:2] = torch.tensor([0, classes - 1])
    scores = torch.randint(50, (5000,), generator=rng).double()
    counts = ids.bincount(minlength=classes)
    k = (counts * torch.rand(classes, generator=rng)).round().long()
    k[0], k[1] = counts[0], 0
    sizes = [1000, 4000]
    parts = list(zip(scores.split(sizes), ids.split(sizes), strict=True))

    def work(rank: int) -> Tensor:
        own = Shards(sizes[rank])
        own.seed(0, 0)
        return own.top_of_each(*parts[rank], k)

    chosen = torch.tensor(joined(threads.on(2, work), sizes))
    assert torch.equal(ids[chosen].bincount(minlength=classes), k)
    for c in (0, 1, classes - 1):
        best = scores[ids == c].sort(descending=True).values[: int(k[c])]
        assert torch.equal(scores[chosen][ids[chosen] == c].sort(descending=True).values, best)


def test_more_than_there_is_cannot_be_taken() -> None:
    own = Shards(3)
    own.seed(0, 0)
    with pytest.raises(ValueError, match="cannot take the 4 largest of 3 scores"):
        own.top(torch.rand(3), 4)
    with pytest.raises(ValueError, match="cannot draw 4 of 3 samples"):
        own.sample(3, 4)


# the methods

N, KEEP, EPOCHS = 6, 0.5, 10**6
LABELS = torch.tensor([0, 1, 1, 0, 1, 0], dtype=torch.uint8)
SEEN = {  # of all but the last sample, which stays unseen
    "loss": torch.tensor([0.2, 0.6, 0.2, 0.4, 0.2]),
    "correct": torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0]),
    "prob_y": torch.tensor([0.9, 0.1, 0.9, 0.6, 0.8]),
}
METHODS = [
    "uniform_epoch",
    "orderdp[explore=0.67]",
    "orderdp[explore=1.0,floor=0.34]",
    "infobatch",
    "infobatch[control=exact]",
    "epsilon_greedy[eps=0.34]",
    "ucb",
    "kakurenbo",
    "rcap",
    "rcap[aggregate=mass,beta=0.5]",
]


def answer(rows: tuple[int, ...], weights: dict[int, float], selection: Selection) -> tuple[Any, ...]:
    """A selection of all samples as something that can be counted."""
    return rows, tuple(round(weights[row], 4) for row in rows), round(selection.lr_scale, 9)


def alone(name: str, trials: int, seen: int) -> Counter[Any]:
    method = load_method(name)
    method.setup(Task(N, EPOCHS, 2, KEEP, LABELS.long()), torch.Generator().manual_seed(5))
    needs = method.requires().signals
    if needs:
        method.observe(Signals(torch.arange(seen), {need: SEEN[need][:seen] for need in needs}, 0))
    found: Counter[Any] = Counter()
    for _ in range(trials):
        selection = method.select(0)
        rows = selection.indices.tolist()
        weights = [1.0] * len(rows) if selection.weights is None else selection.weights.tolist()
        found[answer(tuple(sorted(rows)), dict(zip(rows, weights, strict=True)), selection)] += 1
        if hasattr(method, "last"):
            method.last = torch.ones(N, dtype=torch.bool)
    return found


def together(threads: Threads, name: str, trials: int, seen: int, sizes: list[int]) -> Counter[Any]:
    starts = np.cumsum([0, *sizes]).tolist()

    def work(rank: int) -> list[tuple[Selection, list[int]]]:
        begin, end = starts[rank], starts[rank + 1]
        own = ShardedSelection(name, n=sizes[rank], epochs=EPOCHS, keep=KEEP, labels=LABELS[begin:end], seed=7)
        rows = torch.arange(begin, min(end, seen)) - begin if begin < seen else torch.arange(0)
        own.observe(rows, **{need: value[begin : begin + len(rows)] for need, value in SEEN.items()})
        found = []
        for trial in range(trials):
            found.append((own.select(trial), own.counts))
            if hasattr(own.method, "last"):
                own.method.last = torch.ones(sizes[rank], dtype=torch.bool)
        return found

    found: Counter[Any] = Counter()
    for parts in zip(*threads.on(len(sizes), work), strict=True):
        rows = joined([selection.indices for selection, _ in parts], sizes)
        weights: dict[int, float] = {}
        for (selection, _), start in zip(parts, starts, strict=False):
            own = [1.0] * len(selection.indices) if selection.weights is None else selection.weights.tolist()
            weights |= dict(zip((selection.indices + start).tolist(), own, strict=True))
        assert parts[0][1] == [len(selection.indices) for selection, _ in parts]
        if parts[0][0].refresh is not None:
            hidden = joined([selection.refresh for selection, _ in parts], sizes)
            assert sorted(rows + hidden) == list(range(N))
        found[answer(rows, weights, parts[0][0])] += 1
    return found


@pytest.mark.parametrize(
    ("name", "size"), [*((name, 2 + place % 2) for place, name in enumerate(METHODS)), ("epsilon_greedy[eps=0.34]", 1)]
)
def test_the_law_is_that_of_one_process(threads: Threads, name: str, size: int) -> None:
    trials = 100
    ours, theirs = together(threads, name, trials, 5, UNEVEN[size]), alone(name, 4 * trials, 5)
    assert ours.keys() <= theirs.keys()
    outcomes = sorted(theirs)
    if len(outcomes) > 1:
        table = [[found[outcome] for outcome in outcomes] for found in (ours, theirs)]
        assert chi2_contingency(table).pvalue > LIKELY


@pytest.mark.parametrize("name", METHODS)
def test_before_anything_was_seen_and_where_ranks_are_empty(threads: Threads, name: str) -> None:
    found = together(threads, name, 3, 0, [0, 6])
    assert {len(rows) for rows, _, _ in found} == {len(rows) for rows, _, _ in alone(name, 3, 0)}


def test_every_sharded_method_is_tested() -> None:
    assert SELECTS.keys() == {name.partition("[")[0] for name in METHODS}


def test_a_walk_uses_all_samples_before_any_twice(threads: Threads) -> None:
    sizes = [3, 1]

    def work(rank: int) -> list[tuple[Tensor, Tensor]]:
        own = ShardedSelection("uniform_epoch[replace=false]", n=sizes[rank], epochs=EPOCHS, keep=0.75)
        found = []
        for trial in range(120):
            own.method.ahead = own.method.ahead[:0]
            found.append((own.select(2 * trial).indices, own.select(2 * trial + 1).indices))
        return found

    found: Counter[Any] = Counter()
    for parts in zip(*threads.on(2, work), strict=True):
        one, two = (joined(list(chunk), sizes) for chunk in zip(*parts, strict=True))
        assert set(one) | set(two) == set(range(4))
        found[one, two] += 1
    assert len(found) == 12
    assert chisquare(list(found.values())).pvalue > LIKELY


def test_trimmed_candidates_are_dropped_once_all_were_seen(threads: Threads) -> None:
    def work(rank: int) -> Tensor:
        own = ShardedSelection("orderdp[explore=1.0,trim=0.34]", n=3, epochs=9, keep=0.34)
        own.observe(torch.arange(3), loss=torch.arange(3.0) + 3 * rank)
        return own.select(0).indices

    assert joined(threads.on(2, work), [3, 3]) == (2, 3), "of the losses 0 to 5 the highest two are dropped"


# the use


def test_batches_are_as_many_on_each_rank_and_weigh_one(threads: Threads) -> None:
    def work(rank: int) -> tuple[Selection, list[tuple[Tensor, Tensor]]]:
        own = ShardedSelection("infobatch[r=0.5]", n=[40, 61, 3][rank], epochs=9)
        own.observe(torch.arange(own.shards.n), loss=torch.rand(own.shards.n, generator=own.method.rng))
        return own.select(1), list(own.batches(8))

    ranks = threads.on(3, work)
    assert len({len(batches) for _, batches in ranks}) == 1
    for selection, batches in ranks:
        rows = torch.cat([rows for rows, _ in batches])
        assert torch.equal(rows.sort().values, selection.indices.sort().values)
        assert max(len(rows) for rows, _ in batches) <= 8
    assert not torch.equal(torch.cat([rows for rows, _ in ranks[1][1]]), ranks[1][0].indices), "they are shuffled"
    for step, parts in enumerate(zip(*(batches for _, batches in ranks), strict=True)):
        count = sum(len(rows) for rows, _ in parts)
        for (selection, _), (rows, weights) in zip(ranks, parts, strict=True):
            of = dict(zip(selection.indices.tolist(), selection.weights.tolist(), strict=True))
            expected = torch.tensor([of[row] * 3 / count for row in rows.tolist()])
            assert torch.allclose(weights, expected), step


@pytest.mark.parametrize("name", ["ucb[period=3]", "uniform_epoch[replace=false]", "rcap[aggregate=mass]"])
def test_a_stored_state_goes_on(threads: Threads, name: str) -> None:
    def work(rank: int) -> list[Tensor]:
        def made() -> ShardedSelection:
            return ShardedSelection(name, n=30 + rank, epochs=9, keep=0.3, labels=torch.arange(30 + rank) % 3)

        def epoch(own: ShardedSelection, number: int) -> Tensor:
            rows = own.select(number).indices
            own.observe(rows, loss=torch.rand(len(rows), generator=torch.Generator().manual_seed(number + rank)))
            return rows

        first, second = made(), made()
        for number in range(4):
            epoch(first, number)
        second.load_state_dict(first.state_dict())
        return [epoch(own, number) for number in (4, 5, 6) for own in (first, second)]

    for found in threads.on(2, work):
        assert all(torch.equal(found[i], found[i + 1]) for i in (0, 2, 4))


def test_selects_when_a_run_would() -> None:
    slow = ShardedSelection("ucb[period=3]", n=50, epochs=9)
    answers = [slow.select(epoch).indices for epoch in range(4)]
    assert torch.equal(answers[0], answers[2])
    assert not torch.equal(answers[2], answers[3])
    annealed = ShardedSelection("infobatch[delta=0.5]", n=50, epochs=4)
    for epoch, full in enumerate([False, False, True, True]):
        annealed.observe(torch.arange(50), loss=torch.arange(50.0))
        assert (len(annealed.select(epoch).indices) == 50) == full


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"method": "el2n"}, "el2n is not sharded; these are: uniform_epoch"),
        ({"method": "orderdp[correct=full]"}, "needs? the rank of each sample"),
        ({"method": "infobatch[match=cost]"}, "here epochs are counted"),
        ({"method": "ucb[keep_schedule=rising]"}, "keep_schedule"),
        ({"n": -1}, "n = -1; a whole number of at least 0"),
        ({"n": 0}, "no rank has a sample"),
        ({"keep": 1.5}, "keep = 1.5"),
        ({"labels": torch.zeros(4)}, "class ids"),
        ({"method": "rcap"}, "rcap needs the labels"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(Exception, match=told):
        ShardedSelection(**{"method": "ucb", "n": 4, "epochs": 3} | given)


def test_wrong_observations_and_states_are_refused() -> None:
    own = ShardedSelection("kakurenbo", n=4, epochs=3)
    rows, one = torch.arange(2), torch.ones(2)
    for given, told in (
        ((rows, {"loss": one}), "needs the signals correct, prob_y"),
        ((rows, {"loss": one, "correct": one, "prob_y": one[:1]}), r"prob_y of shape \(1,\) for 2 rows"),
        ((rows + 3, {"loss": one, "correct": one, "prob_y": one}), "outside 0..3"),
        ((rows, {"los": one}), "unknown signal"),
    ):
        with pytest.raises(UsageError, match=told):
            own.observe(given[0], **given[1])
    with pytest.raises(UsageError, match="rank 0 of 1 with 5 samples"):
        own.load_state_dict(ShardedSelection("kakurenbo", n=5, epochs=3).state_dict())


def test_ranks_that_were_told_otherwise_are_named(threads: Threads) -> None:
    with pytest.raises(UsageError, match="rank 2 was given another method"):
        threads.on(3, lambda rank: ShardedSelection("ucb", n=4, epochs=3, seed=int(rank == 2)))


def test_a_group_without_the_cpu_and_no_group_at_all_are_told(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(values: Tensor, group: Any) -> None:
        raise RuntimeError("No backend type associated with device type cpu")

    monkeypatch.setattr(threads, "all_reduce", fail)
    with pytest.raises(UsageError, match="cpu:gloo,cuda:nccl"):
        threads.on(2, lambda rank: ShardedSelection("ucb", n=4, epochs=3))
    monkeypatch.setattr(threads, "is_initialized", lambda: False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="init_process_group"):
        ShardedSelection("ucb", n=4, epochs=3)
