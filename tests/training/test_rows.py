"""The order and the batches of an epoch, weights and masks, and signals joined."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpbench import Selection
from dpbench.training.rows import batches, everything, join, mask, order, spread, to_cpu

N = 10
GOOD = Selection(torch.tensor([7, 0, 3]), torch.tensor([0.0, 1.0, 2.5]), torch.tensor([1, 2]), 0.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_shuffled_epochs_differ_pairwise() -> None:
    orders = [order(torch.arange(50), 50, generator(seed)) for seed in range(5)]
    assert not any(torch.equal(a, b) for a, b in pairwise(orders))
