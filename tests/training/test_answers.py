"""What is refused as a method's answer, and how its exceptions are told."""

import re
from dataclasses import replace

import pytest
import torch

from dpbench import Picks, Selection, load_method
from dpbench.errors import RunFailed, UsageError
from dpbench.training.answers import call, pick_fault, selection_fault
from dpbench.training.rows import everything

N = 10
GOOD = Selection(torch.tensor([7, 0, 3]), torch.tensor([0.0, 1.0, 2.5]), torch.tensor([1, 2]), 0.5)


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


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "returned None, not Picks; is a return missing?"),
        (Selection(torch.tensor([1])), r"returned Selection, not Picks; .*positions in the batch, .*: return Picks\("),
        (torch.tensor([1]), r"returned Tensor, not Picks; .*: return Picks\(positions\)$"),
        (Picks(torch.tensor([0, 4])), "returned positions with 4, which is outside 0..3; pick answers with positions"),
        (Picks(torch.tensor([1.0])), r"returned positions that are torch.float32 .*: positions\.long\(\)$"),
        (Picks(torch.tensor([1, 1])), "returned positions with 1 repeated"),
        (Picks(torch.tensor([1, 2]), torch.ones(1)), r"returned weights of shape \(1,\) for positions of shape \(2,\)"),
        (Picks(torch.tensor([1]), -torch.ones(1)), "returned a weight that is negative"),
    ],
)
def test_what_are_no_picks_is_refused(answer: object, told: str) -> None:
    fault = pick_fault(answer, 4)
    assert fault is not None
    assert re.match(told, fault)


@pytest.mark.parametrize("positions", [[], [3, 0], [0, 1, 2, 3]])
def test_good_picks_are_taken(positions: list[int]) -> None:
    rows = torch.tensor(positions, dtype=torch.int64)
    assert pick_fault(Picks(rows), 4) is None
    assert pick_fault(Picks(rows, torch.ones(len(rows))), 4) is None


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
