"""The front against brute force, axes that an outlier does not squeeze, and which methods are named."""

import numpy as np
import pandas as pd
import pytest
from synthetic_board import around, make

from dpbench.analysis import pareto


def rows(accuracies: list[float], costs: list[float], methods: list[str] | None = None) -> pd.DataFrame:
    n = len(accuracies)
    return pd.DataFrame(
        {
            "method": methods or [f"m{i}" for i in range(n)],
            "accuracy_mean": accuracies,
            "accuracy_ci95": 0.004,
            "cost_with_proxy": costs,
            "time_total_s": costs,
            "diverged": 0,
            "failed": 0,
        }
    )


def test_front_is_what_brute_force_finds() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        part = rows(*rng.integers(0, 12, (2, 30)).tolist())  # with ties
        part["diverged"] = rng.integers(0, 4, 30) == 0
        points = [tuple(point) for point in part[["accuracy_mean", "cost_with_proxy", "diverged"]].to_numpy()]
        wanted = [
            not diverged
            and not any(
                not other and c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for a, c, other in points
            )
            for accuracy, cost, diverged in points
        ]
        assert pareto.front(part, "cost_with_proxy").tolist() == wanted


@pytest.mark.parametrize("others", [3, 4, 10, 60])
@pytest.mark.parametrize("outlier", [0.1, 0.5])
def test_an_outlier_does_not_squeeze_the_axis(others: int, outlier: float) -> None:
    accuracies = np.linspace(0.93, 0.97, others).tolist()
    low, high = pareto.accuracy_limits(rows([outlier, *accuracies], [0.5] * (others + 1)))
    assert 0.92 < low < 0.93
    assert 0.97 < high < 0.98


def test_the_best_are_never_cut_off() -> None:
    _, high = pareto.accuracy_limits(rows([0.93, 0.95, 0.95, 0.951, 0.985], [0.5] * 5))
    assert high > 0.985


def test_what_goes_down_step_by_step_is_no_outlier() -> None:
    low, _ = pareto.accuracy_limits(rows([0.93, 0.91, 0.88, 0.84, 0.79], [0.5] * 5))
    assert low < 0.79


def test_the_axis_stays_within_0_and_1() -> None:
    part = rows([0.001, 0.002, 0.999, 1.0], [0.1] * 4)
    assert pareto.accuracy_limits(part) == (0.0, 1.0)
    assert pareto.accuracy_limits(rows([float("nan")], [0.1])) == (0.0, 1.0)
    assert pareto.accuracy_limits(rows([0.9], [0.1])) == pytest.approx((0.896, 0.904))


def test_a_diverged_row_does_not_set_the_axis() -> None:
    board = make({("a", 0.5): around(0.9), ("b", 0.5): around(0.91), ("c", 0.5): [0.3, ("diverged", "NaN")]})
    assert pareto.accuracy_limits(board.table)[0] > 0.85


def test_cost_goes_as_far_as_full_and_leaves_out_what_costs_many_times_as_much() -> None:
    methods = ["full", "a", "b", "c", "d"]
    assert pareto.spent_limit(rows([0.9] * 5, [1.0, 0.3, 0.3, 0.5, 0.5], methods), "cost_with_proxy") == 1.05
    assert pareto.spent_limit(rows([0.9] * 5, [1.0, 0.3, 0.3, 0.5, 7.6], methods), "cost_with_proxy") == 1.05
    assert pareto.spent_limit(rows([0.9] * 5, [1.0, 0.3, 0.3, 0.5, 1.4], methods), "cost_with_proxy") > 1.4


def test_nearest_are_those_on_the_front_then_those_close_to_it() -> None:
    part = rows(
        [0.99, 0.90, 0.95, 0.949, 0.80, 0.92],
        [1.0, 0.3, 0.5, 0.6, 0.4, 0.7],
        ["full", "uniform_epoch", "on", "close", "far", "middle"],
    )
    assert pareto.nearest(part) == ["on", "close", "middle", "far"]
