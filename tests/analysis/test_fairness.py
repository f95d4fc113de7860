"""The protocol lint: each departure from the protocol is found, and a clean grid has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from synthetic_board import around, costing, make

from dpbench.analysis.board import Board
from dpbench.analysis.fairness import Finding
from dpbench.grid_file import change_grid

CONTROLS = {("full", 1.0): around(0.9), ("uniform", 0.5): around(0.9)}


def badges(board: Board) -> list[tuple[str, str | None]]:
    return [(f.badge, f.row[2] if f.row else None) for f in board.findings]


def with_method(values: list[Any], **metrics: float) -> Board:
    return make(CONTROLS | {("orderdp", 0.5): values}, {"orderdp": metrics})


def test_a_clean_grid_has_no_finding() -> None:
    assert with_method(around(0.9)).findings == []


@pytest.mark.parametrize(
    ("values", "metrics", "badge"),
    [
        ([*around(0.9, seeds=4), None], {}, "missing cells"),
        ([*around(0.9, seeds=4), "it broke"], {}, "failed runs"),
        (around(0.9, seeds=4), {}, "unequal seeds"),
        (around(0.9), {"epochs": 2}, "changed schedule"),
        (around(0.9), costing(0.7), "other cost"),
        (around(0.9), {"accuracy": 0.99}, "test selection"),
        (around(0.9), {"forward_saving": -0.2}, "no forward saved"),
    ],
)
def test_each_departure_has_its_badge(values: list[Any], metrics: dict[str, float], badge: str) -> None:
    assert badges(with_method(values, **metrics)) == [(badge, "orderdp")]


def test_few_seeds() -> None:
    board = make({key: values[:2] for key, values in CONTROLS.items()})
    assert badges(board) == [("few seeds", "uniform"), ("few seeds", "full")]


def test_absent_controls() -> None:
    board = make({("orderdp", 0.5): around(0.9)})
    assert badges(board) == [("no control", None), ("no control", None)]


def test_a_proxy_on_validation_data() -> None:
    board = make(CONTROLS | {("rho_loss", 0.5): around(0.9)})
    assert badges(board) == [("uses validation data", "rho_loss")]


@pytest.mark.parametrize(
    "method", ["el2n", "el2n[runs=2]", "el2n[at_epoch=2]", "el2n[at_epoch=20]", "el2n[at_epoch=20,runs=2]"]
)
def test_a_proxy_longer_than_the_recipe(method: str) -> None:
    """Unless it is so by default: defaults are for long recipes."""
    board = make(CONTROLS | {(method, 0.5): around(0.9)})
    marked = "at_epoch=20" in method
    assert badges(board) == [("short proxy", method)] * marked
    assert not marked or "20 epochs; the recipe's end after 4" in board.findings[0].text


def test_a_subset_from_a_file() -> None:
    board = make(CONTROLS | {("subset[id=mine-0123]", 0.5): around(0.9)})
    assert badges(board) == [("chosen elsewhere", "subset[id=mine-0123]")]


def test_mixed_machines() -> None:
    board = with_method(around(0.9))
    key = next(iter(board.results))
    other = board.results[key] | {"environment": {"dpbench": "0", "torch": "0", "device": "H100"}}
    mixed = replace(board, results=board.results | {key: other})
    assert mixed.findings == [
        Finding("mixed machines", "Runs were made with different device (H100, cpu): wall times are not comparable.")
    ]


@pytest.mark.parametrize(
    ("commits", "badges_", "said"),
    [
        (["a" * 40, "b" * 40], ["mixed commits"], "from 2 commits (aaaaaaaaaaaa, bbbbbbbbbbbb)"),
        (["a" * 40, "a" * 40 + "-dirty"], ["dirty tree"], "1 of 2 runs were made from a tree with uncommitted changes"),
        (
            [letter * 40 for letter in "abcde"],
            ["mixed commits"],
            "from 5 commits (aaaaaaaaaaaa, bbbbbbbbbbbb, cccccccccccc",
        ),
        (["a" * 40, "unknown-dirty"], ["mixed commits", "dirty tree"], "from 2 commits"),
        (["a" * 40, "a" * 40], [], ""),
    ],
)
def test_boards_of_several_commits_or_a_dirty_tree_say_so(commits: list[str], badges_: list[str], said: str) -> None:
    board = make({("full", 1.0): around(0.9, seeds=len(commits))})
    for result, commit in zip(board.results.values(), commits, strict=True):
        result["environment"]["commit"] = commit
    found = [f for f in replace(board).findings if f.badge in ("mixed commits", "dirty tree")]
    assert [f.badge for f in found] == badges_
    assert said in (found[0].text if found else "")


def test_diverged_seeds_have_their_badge() -> None:
    (finding,) = with_method([*around(0.9, seeds=3), ("diverged", "NaN"), ("diverged", "NaN")]).findings
    assert (finding.badge, finding.text) == ("diverged", "diverged 2/5: NaN")


def test_a_failure_tells_its_reason() -> None:
    board = with_method([*around(0.9, seeds=4), "OrderDP.select returned a repeated index"])
    assert "1 of 5 runs failed: OrderDP.select returned a repeated index" in board.findings[0].text


@pytest.mark.parametrize(
    ("controls", "cost", "text"),
    [
        ({0.7: around(0.9)}, 0.7, "It costs 0.70 of full training, not 0.5: its control is random per epoch at 0.7."),
        ({}, 0.7, "its control, random per epoch at 0.7, is missing; `dpbench run` on the grid adds it."),
        ({0.6: around(0.9)}, 0.7, "its control, random per epoch at 0.7, is missing"),
        (
            {},
            1.2,
            "It costs 1.20 of full training, not 0.5: random at this keep is no fair control; full training costs",
        ),
    ],
)
def test_another_cost_points_to_its_control(controls: dict[float, list[float]], cost: float, text: str) -> None:
    board = make(CONTROLS | {("orderdp", 0.5): around(0.9)}, {"orderdp": costing(cost)}, controls=controls)
    (finding,) = board.findings
    assert finding.badge == "other cost"
    assert text in finding.text


@pytest.mark.parametrize(
    ("tuned", "marked"),
    [
        ({}, {}),
        ({"orderdp": 30, "infobatch": 30}, {}),
        (
            {"orderdp": 30},
            {"orderdp": "30 trials; in this grid", "infobatch": "0 trials; in this grid that goes from 0 to 30."},
        ),
        (
            {"orderdp": 9, "infobatch": 5},
            {"orderdp": "9 trials; in this grid that goes from 5 to 9.", "infobatch": "5 trials;"},
        ),
    ],
)
def test_unequal_tuning(tuned: dict[str, int], marked: dict[str, str]) -> None:
    methods = ("orderdp", "infobatch", "without", "subset[id=x-1]")
    board = make(CONTROLS | {(method, 0.5): around(0.9) for method in methods})
    for result in board.results.values():
        has = {"uniform": {"balanced": False}, "orderdp": {"explore": 0.8}, "infobatch": {"delta": 0.8}}
        has["subset[id=x-1]"] = {"id": "x-1"}  # nothing to tune
        result["hyperparameters"] = has.get(result["spec"]["method"], {})
    found = replace(board, grid=change_grid(board.grid, {"tuned": tuned})).findings
    found = [f for f in found if f.badge != "chosen elsewhere"]
    assert {f.badge for f in found} == ({"unequal tuning"} if marked else set())
    assert {f.row[2] for f in found if f.row} == marked.keys()
    for f in found:
        assert f.row is not None
        assert f.text.startswith(f"Its parameters were chosen by {marked[f.row[2]]}")


def test_an_explore_below_keep_is_told_to_be_uniform_sampling() -> None:
    methods = ("orderdp[explore=0.2]", "orderdp[explore=0.5]", "orderdp_step[explore=0.2]", "epsilon_greedy")
    board = make(CONTROLS | {(method, 0.5): around(0.9) for method in methods})
    for result in board.results.values():
        explore = 0.5 if "0.5" in result["spec"]["method"] else 0.2
        result["hyperparameters"] = {"explore": explore} if "[" in result["spec"]["method"] else {}
    found = [f for f in replace(board).findings if f.badge == "uniform"]
    assert {f.row[2] for f in found if f.row} == {"orderdp[explore=0.2]", "orderdp_step[explore=0.2]"}
    assert {f.text for f in found} == {"Its explore lies below its keep and counts as that: it samples uniformly."}


def test_another_budget_makes_costs_equal_by_itself() -> None:
    board = make(CONTROLS | {("orderdp", 0.5): around(0.9)}, {"orderdp": costing(0.7)})
    assert [f.badge for f in board.findings] == ["other cost"]
    for result in board.results.values():
        result["spec"]["budget"]["unit"] = "samples"
    assert replace(board).findings == []
