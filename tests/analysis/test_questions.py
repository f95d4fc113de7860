"""Questions are put to boards with known effects, and the declared ones fit their grids."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from synthetic_board import around, costing, joined, make

from dpbench.analysis import board, questions
from dpbench.analysis.questions import Question
from dpbench.reports import summary
from dpbench.spec import canonical
from dpbench.training.measures import MEASURES
from dpbench.tuned import Tuned

NAMES = sorted(questions.questions())
ASKED: dict[str, Any] = {
    "question": "Is it?",
    "grid": "made",
    "reference": "uniform_epoch",
    "claim": "better",
    "by": "kind",
    "found": "It is",
    "absent": "It is not shown to be",
}
REFERENCE = {("full", 1.0): around(0.95), ("uniform_epoch", 0.3): around(0.90)}


def asked(**changes: Any) -> Question:
    return Question(**(ASKED | changes))


@pytest.mark.parametrize("name", NAMES)
def test_a_declared_question_fits_its_grid_and_stands_on_the_page(name: str) -> None:
    one = questions.questions()[name]
    methods = {spec.method for spec in board.load_checked_in(one.grid).cells.values()}
    rows, about = set(map(canonical, one.rows)), set(map(canonical, one.about))
    assert {one.reference, *rows, *about} <= methods
    assert about <= (rows or methods) - {"full", one.reference}
    assert [measure.better for measure in MEASURES if measure.name == one.measure] == ["up"]
    page = (summary.ROOT / "docs/workloads.md").read_text(encoding="utf-8")
    assert page.count(f"<!-- answer:{name} -->") == 1


def test_every_row_is_compared_with_the_reference_of_its_dataset_and_keep() -> None:
    images = make(REFERENCE | {("a", 0.3): around(0.92, noise=0.1)}, datasets=("fashion_mnist",))
    tables = make({("full", 1.0): around(0.7), ("uniform_epoch", 0.3): around(0.6), ("a", 0.3): around(0.57)})
    found = questions.answer(asked(), joined(images, tables))
    assert found.parts == ["images"], "digits are images, too"
    assert [(cell.method, cell.column, cell.word) for cell in found.cells] == [
        ("a", "fashion_mnist", "better"),
        ("a", "digits", "worse"),
    ]
    assert [cell.mean for cell in found.cells] == pytest.approx([2.0, -3.0])
    assert list(found.own.values()) == pytest.approx([90.0, 60.0])


def test_all_comparisons_of_a_question_are_one_family() -> None:
    rows = {(f"m{i}", 0.3): around(0.91, noise=0.3) for i in range(8)}
    one = questions.answer(asked(rows=["m0"]), make(REFERENCE | rows)).cells[0]
    many = questions.answer(asked(), make(REFERENCE | rows)).cells
    assert len(many) == 8
    assert many[0].half_width > 1.3 * one.half_width


def test_parts_tell_noise_apart_and_columns_do_not_repeat_it() -> None:
    noisy = make(REFERENCE | {("a", 0.3): around(0.9)}, datasets=("digits", "digits[duplicates=0.1,label_noise=0.4]"))
    found = questions.answer(asked(by="noise"), noisy)
    assert [(cell.part, cell.column) for cell in found.cells] == [(0.0, "digits"), (0.4, "digits[duplicates=0.1]")]


def test_a_row_with_another_cost_is_compared_at_its_cost() -> None:
    rows = {("a", 0.3): around(0.93), ("b", 0.3): around(0.93)}
    board = make(REFERENCE | rows, {"a": costing(0.6)}, controls={0.6: around(0.95)})
    dear, cheap = questions.answer(asked(at_cost=True), board).cells
    assert (dear.at_cost, dear.word, cheap.at_cost, cheap.word) == (True, "worse", False, "better")
    assert [cell.word for cell in questions.answer(asked(), board).cells] == ["better", "better"]


def test_a_row_may_name_its_parameters_in_any_order() -> None:
    name = "orderdp[trim=0.2,floor=0.5]"
    there = make(REFERENCE | {(name, 0.3): around(0.92, noise=0.1)})
    [cell] = questions.answer(asked(rows=["orderdp[floor=0.5,trim=0.2]"]), there).cells
    assert (cell.method, cell.word) == (name, "better")


def test_another_measure_than_accuracy_is_compared_in_points() -> None:
    board = make(REFERENCE | {("a", 0.3): around(0.90)})
    for result in board.results.values():
        worst = 0.2 if result["spec"]["method"] == "a" else 0.5
        result["diagnostics"]["accuracy_worst_class"] = worst + 0.01 * (result["spec"]["seed"] % 2)
    [cell] = questions.answer(asked(measure="accuracy_worst_class"), board).cells
    assert (cell.word, round(cell.mean, 6)) == ("worse", -30.0)
    [cell] = questions.answer(asked(), board).cells
    assert cell.word == "not"


def test_a_row_or_a_reference_that_is_not_whole_is_not_compared() -> None:
    lost = [*around(0.9, seeds=4), ("diverged", "NaN")]
    rows = {("a", 0.3): around(0.9), ("b", 0.3): lost}
    a, b = questions.answer(asked(), make(REFERENCE | rows)).cells
    assert (a.word, b.word, b.trouble) == ("not", "", "diverged 1/5")
    [cell] = questions.answer(asked(rows=["a"]), make(REFERENCE | rows | {("uniform_epoch", 0.3): lost})).cells
    assert (cell.word, cell.trouble) == ("", "uniform_epoch: diverged 1/5")
    two = make({key: values[:2] for key, values in (REFERENCE | {("a", 0.3): around(0.9)}).items()})
    assert [cell.word for cell in questions.answer(asked(), two).cells] == [""]


def test_orders_are_compared_between_parts() -> None:
    def ranked(dataset: str, best: float, step: float) -> Any:
        rows = {(f"m{i}", 0.3): around(best + step * i) for i in range(7)}
        return make(REFERENCE | rows, datasets=(dataset,))

    boards = [ranked("fashion_mnist", 0.9, 0.01), ranked("letters", 0.7, 0.02), ranked("newsgroups", 0.8, -0.01)]
    found = {one.parts: one for one in questions.answer(asked(transfer=True), joined(*boards)).orders}
    assert found["images", "tables"].tau == 1
    assert found["images", "tables"].p == pytest.approx(3 * 2 / 5040), "of 7! orders, for three pairs"
    assert found["images", "texts"].tau == found["tables", "texts"].tau == -1
    assert {one.n for one in found.values()} == {7}
    assert questions.answer(asked(transfer=True, rows=["m1", "m2"]), joined(*boards)).orders == []


def test_orders_are_of_methods_as_the_grid_lists_them() -> None:
    chosen = {"fashion_mnist": "orderdp[explore=0.9]", "letters": "orderdp[explore=0.5]"}
    boards = [
        make(REFERENCE | {(f"m{i}" if i else to, 0.3): around(0.7 + 0.01 * i) for i in range(4)}, datasets=(data,))
        for data, to in chosen.items()
    ]
    tuned = [Tuned(method="orderdp", dataset=data, chosen=to, trials=5) for data, to in chosen.items()]
    every = joined(*boards)
    every = replace(every, grid=every.grid.model_copy(update={"tuned": tuned}))
    [order] = questions.answer(asked(transfer=True), every).orders
    assert (order.n, order.tau) == (4, 1.0)


def test_a_question_names_rows_as_the_grid_lists_them_whatever_tuning_has_chosen() -> None:
    own = {"digits": ("orderdp[explore=0.9]", "infobatch"), "letters": ("orderdp", "infobatch[delta=0.7]")}
    boards = [
        make(REFERENCE | {(row, 0.3): around(0.92, noise=0.1), (reference, 0.3): around(0.9)}, datasets=(data,))
        for data, (row, reference) in own.items()
    ]
    tuned = [
        Tuned(method=name, dataset=data, chosen=chosen, trials=5)
        for data, both in own.items()
        for name, chosen in zip(("orderdp", "infobatch"), both, strict=True)
    ]
    every = joined(*boards)
    every = replace(every, grid=every.grid.model_copy(update={"tuned": tuned}))
    asking = asked(rows=["orderdp"], about=["orderdp"], reference="infobatch")
    found = questions.answer(asking, every)
    assert [(cell.method, cell.column, cell.word) for cell in found.hits] == [
        ("orderdp", "digits", "better"),
        ("orderdp", "letters", "better"),
    ]
    assert list(found.own.values()) == pytest.approx([90.0, 90.0])


def test_methods_of_equal_runs_are_told() -> None:
    rows = {("a", 0.3): around(0.9), ("b", 0.3): around(0.9, noise=0.1), ("c", 0.3): around(0.9, noise=0.1)}
    assert questions.answer(asked(), make(REFERENCE | rows)).equal == [["a", "uniform_epoch"], ["b", "c"]]
