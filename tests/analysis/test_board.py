"""What a board says as a whole."""

from __future__ import annotations

from typing import Any

import pytest
from synthetic_board import around, make

from dpbench.analysis.board import QUIET, Board


def timed(*shares: float | None, **environment: Any) -> Board:
    """A board whose runs had a CPU for these shares of their time, None where it was not recorded."""
    board = make({("uniform", 0.5): around(0.9, seeds=len(shares))})
    for share, result in zip(shares, board.results.values(), strict=True):
        result["metrics"] |= {} if share is None else {"time_on_cpu": share}
    if environment:
        result["environment"] |= environment
    return board


@pytest.mark.parametrize(
    ("board", "reason"),
    [
        (timed(1.0, QUIET), ""),
        (timed(1.0, QUIET - 0.01), "the machine was shared"),
        (timed(1.0, None), "it is not known whether the machine was shared"),
        (timed(1.0, 1.0, device="a GPU"), "the runs were made on different machines"),
        (make({("uniform", 0.5): ["it broke"]}), ""),
    ],
)
def test_times_compare_only_where_no_run_had_to_wait_for_a_cpu(board: Board, reason: str) -> None:
    assert board.times_reason.removeprefix("times not comparable: ") == reason
