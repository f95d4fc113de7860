"""Claims are held, refuted or open by intervals that hold all at once, and after the fact where runs came first."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from synthetic_board import around, costing, joined, make

from dpbench.analysis import board as boards
from dpbench.analysis.board import Board
from dpbench.analysis.outcomes import Outcome, tau_interval
from dpbench.claims import ORDER, Registered
from dpbench.reports import claimed
from dpbench.tuned import Tuned

RANDOM = {("full", 1.0): around(0.95), ("uniform", 0.3): around(0.9), ("uniform_epoch", 0.3): around(0.9)}
BETTER = {"text": "Better", "test": "better", "methods": ["a"], "keep": [0.3], "against": "uniform"}


def with_claims(board: Board, *claims: dict[str, Any], date: float | None = -1.0) -> Board:
    return replace(board, registered=(Registered(date=date, text=json.dumps(claims)),))


def outcome(board: Board, date: float | None = -1.0, **changes: Any) -> Outcome:
    [one] = with_claims(board, BETTER | changes, date=date).outcomes
    return one


@pytest.mark.parametrize(("mean", "verdict"), [(0.92, "held"), (0.9001, "open"), (0.88, "refuted")])
def test_better_is_read_from_the_interval(mean: float, verdict: str) -> None:
    found = outcome(make(RANDOM | {("a", 0.3): around(mean, noise=0.2)}))
    assert found.verdict == verdict
    assert found.shown.value == pytest.approx(100 * (mean - 0.9))
    assert (found.shown.low > 0) == (verdict == "held")
    assert (found.shown.high < 0) == (verdict == "refuted")


@pytest.mark.parametrize(
    ("mean", "noise", "verdict"), [(0.951, 0.1, "held"), (0.951, 0.6, "open"), (0.94, 0.1, "refuted")]
)
def test_equivalent_is_within_the_margin(mean: float, noise: float, verdict: str) -> None:
    board = make(RANDOM | {("a", 0.3): around(mean, noise=noise)})
    assert outcome(board, test="equivalent", against="full", margin=0.5).verdict == verdict


def test_a_margin_is_part_of_the_claim() -> None:
    board = make(RANDOM | {("a", 0.3): around(0.92, noise=0.1)})
    assert outcome(board, margin=1.0).verdict == "held"
    assert outcome(board, margin=3.0).verdict == "refuted"


def test_every_keep_and_dataset_counts_and_any_of_the_methods() -> None:
    rows = {("a", 0.3): around(0.92, noise=0.1), ("b", 0.3): around(0.88, noise=0.1)}
    rows |= {("uniform", 0.5): around(0.9), ("a", 0.5): around(0.88, noise=0.1), ("b", 0.5): around(0.92, noise=0.1)}
    board = make(RANDOM | rows)
    assert outcome(board, keep=[0.3, 0.5]).verdict == "refuted"
    assert outcome(board, keep=[0.3, 0.5]).shown.where == "a on digits, cnn, keep 0.5"
    assert outcome(board, keep=[0.3, 0.5], methods=["a", "b"]).verdict == "held"
    assert outcome(board, keep=[0.3, 0.5], methods=["a", "b"]).count == 4
    assert outcome(board, keep=[], methods=[], kind="epoch").verdict == "held", "those of a kind, without controls"
    assert outcome(board, keep=[], methods=[], kind="static").verdict == "open"


def test_alpha_is_shared_by_the_claims_and_then_by_their_comparisons() -> None:
    board = make(RANDOM | {("a", 0.3): around(0.91, noise=0.2), ("b", 0.3): around(0.91, noise=0.2)})
    one, two = with_claims(board, BETTER, BETTER | {"methods": ["a", "b"], "alpha": 0.1}).outcomes
    assert (one.level, two.level) == (pytest.approx(1 - 0.05 / 2), pytest.approx(1 - 0.1 / 2 / 2))
    alone = outcome(board)
    assert one.shown.high - one.shown.low > 1.1 * (alone.shown.high - alone.shown.low)


def test_a_dear_row_is_compared_with_random_at_its_cost() -> None:
    board = make(RANDOM | {("a", 0.3): around(0.93)}, {"a": costing(0.6)}, controls={0.6: around(0.95)})
    assert outcome(board, against="uniform_epoch", at_cost=True).shown.value == pytest.approx(-2.0)
    assert outcome(board, against="uniform_epoch").shown.value == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({}, "it has no run here"),
        ({("a", 0.3): [None]}, "a has no run here"),
        ({("a", 0.3): around(0.92, seeds=2)}, "no verdict: fewer than 3 paired seeds"),
        ({("a", 0.3): [0.92, 0.93, ("diverged", "loss")]}, "a: diverged 1/3"),
    ],
)
def test_what_cannot_be_compared_is_open_and_says_why(row: dict[Any, Any], why: str) -> None:
    found = outcome(make(RANDOM | row))
    assert found.verdict == "open"
    assert found.shown.why == why


def test_a_run_that_began_before_the_claims_makes_them_after_the_fact() -> None:
    board = make(RANDOM | {("a", 0.3): around(0.92)})
    assert not outcome(board, date=-1.0).after, "all runs of these boards begin at 0"
    assert outcome(board, date=1.0).after
    assert outcome(board, date=None).after
    assert not outcome(make(RANDOM | {("a", 0.3): [None]}), keep=[0.5], date=1.0).after, "it needs none of the runs"
    late = {key: one | {"started": 2.0 if one["spec"]["method"] in ("a", "uniform") else 0.0}
            for key, one in board.results.items()}  # fmt: skip
    assert not outcome(replace(board, results=late), date=1.0).after


def tuned(board: Board, **found: str) -> Board:
    """The board of a tuned grid that lists orderdp, of which each dataset has a choice of its own."""
    listed = [Tuned(method="orderdp", dataset=data, chosen=to, trials=5) for data, to in found.items()]
    return replace(board, grid=board.grid.model_copy(update={"tuned": listed}))


def test_a_claim_finds_the_rows_of_a_method_whose_parameters_were_tuned() -> None:
    digits = make(RANDOM | {("orderdp[explore=0.9]", 0.3): around(0.92)})
    letters = make(RANDOM | {("orderdp[explore=0.5]", 0.3): around(0.93)}, datasets=("letters",))
    board = tuned(joined(digits, letters), digits="orderdp[explore=0.9]", letters="orderdp[explore=0.5]")
    found = outcome(board, methods=["orderdp"])
    assert (found.verdict, found.count, found.shown.value) == ("held", 2, pytest.approx(2.0))
    against = outcome(board, methods=["uniform"], against="orderdp")
    assert (against.verdict, against.shown.value) == ("refuted", pytest.approx(-3.0))
    assert "orderdp" in set(board.across["method"]), "it is one method, whatever was chosen on each dataset"


def test_a_packed_board_has_its_claims() -> None:
    board = with_claims(make(RANDOM | {("a", 0.3): around(0.92)}), BETTER)
    assert boards.unpack(boards.pack(board)).outcomes == board.outcomes
    unregistered = with_claims(board, BETTER, date=None)
    assert boards.unpack(boards.pack(unregistered)).registered == ()


def order(means: dict[str, list[float]]) -> Outcome:
    """Of the means of methods on some datasets."""
    parts = [
        make({(f"m{i}", 0.3): around(mean) for i, mean in enumerate(of_one)}, datasets=(name,))
        for name, of_one in means.items()
    ]
    [found] = with_claims(joined(*parts), {"text": "Alike", "test": ORDER}).outcomes
    return found


def test_the_order_on_one_dataset_predicts_that_on_another() -> None:
    ten = [0.80 + 0.01 * i for i in range(10)]
    alike, opposed = order({"digits": ten, "letters": ten}), order({"digits": ten, "letters": ten[::-1]})
    assert (alike.verdict, alike.shown.value) == ("held", pytest.approx(1.0))
    assert (opposed.verdict, opposed.shown.value) == ("refuted", pytest.approx(-1.0))
    assert alike.shown.where == "10 methods on 2 datasets, keep 0.3"
    assert order({"digits": ten, "letters": ten[5:] + ten[:5]}).verdict == "open"
    assert order({"digits": ten}).shown.why == "5 methods with all runs on two datasets are needed"
    assert order({"digits": ten[:4], "letters": ten[:4]}).verdict == "open"
    assert order({"digits": ten, "letters": [0.8] * 10}).shown.why.startswith("all methods are equal")


def test_an_order_is_read_at_the_first_look_and_has_methods_as_they_are_listed() -> None:
    alike, opposed = [0.80, 0.81, 0.82, 0.83, 0.84], [0.90, 0.89, 0.88, 0.87, 0.70]
    names = {"digits": "orderdp[explore=0.9]", "letters": "orderdp[explore=0.5]"}
    parts = []
    for data, chosen in names.items():
        later = alike if data == "digits" else opposed
        rows = {(f"m{i}" if i else chosen, 0.3): [alike[i]] * 3 + [later[i]] * 3 for i in range(5)}
        parts.append(make(rows, datasets=(data,)))
    board = tuned(joined(*parts), **names)
    board = replace(board, grid=board.grid.model_copy(update={"looks": [3, 6]}))
    [found] = with_claims(board, {"text": "Alike", "test": ORDER}).outcomes
    assert found.shown.value == pytest.approx(1.0)
    assert found.shown.where.startswith("5 methods on 2 datasets")


@pytest.mark.parametrize(("n", "datasets"), [(5, 2), (8, 2), (13, 2), (6, 4)])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_orders_that_have_nothing_in_common_are_seldom_called_alike(n: int, datasets: int, level: float) -> None:
    values = np.random.default_rng(0).normal(size=(20_000, datasets, n))
    i, j = np.triu_indices(n, 1)
    signs = np.sign(values[:, :, i] - values[:, :, j])
    taus = np.mean([(signs[:, a] * signs[:, b]).mean(axis=1) for a, b in combinations(range(datasets), 2)], axis=0)
    lows = {tau: tau_interval(tau, n, level)[0] for tau in np.unique(taus)}
    false = np.mean([lows[tau] > 0 for tau in taus])
    assert false <= (1 - level) / 2 + 0.002


def test_claims_in_words() -> None:
    board = with_claims(make(RANDOM | {("a", 0.3): around(0.92, noise=0.1)}), BETTER, date=1.0)
    header, line = claimed.cells(board)
    assert dict(zip(header, line, strict=True)) == {
        "verdict": "held, after the fact",
        "claim": "Better",
        "difference": "+2.00 ± 0.20",
        "level": "95 %",
        "where": "a on digits, cnn, keep 0.3",
    }
    assert claimed.note(board).startswith("Claims registered on 1970-01-01 00:00 UTC (sha256 ")
    assert claimed.note(replace(board, registered=())) == ""
