"""The sentences of an answer follow from its verdicts: a built-in effect is told, and that there is none is, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic_board import around, joined, make

from dpbench.analysis import board as boards
from dpbench.analysis import questions
from dpbench.analysis.board import Board
from dpbench.analysis.questions import Answer
from dpbench.reports import answers, summary

DECLARED = questions.questions()
NOISY = ("letters", "letters[label_noise=0.4]")


def noise(clean: float, noisy: float, method: str = "orderdp", reference: str = "uniform_epoch") -> Board:
    """A method that is better than the reference by so many points without wrong labels and with 40 % of them."""

    def part(dataset: str, points: float) -> Board:
        rows = {(reference, 0.5): around(0.9), (method, 0.5): around(0.9 + points / 100, noise=0.1)}
        return make(rows, datasets=(dataset,))

    return joined(*(part(dataset, points) for dataset, points in zip(NOISY, (clean, noisy), strict=True)))


def asked(name: str, board: Board) -> Answer:
    return questions.answer(DECLARED[name], board)


def test_harm_by_wrong_labels_is_told_where_it_is() -> None:
    said = answers.told(asked("noise_harms", noise(0, -2)))
    assert said[0] == (
        "Wrong labels hurt OrderDP: `orderdp` (with 40 % wrong labels on 1 of 1 dataset) is worse than random per "
        "epoch with wrong labels, and not without them. Of 2 comparisons 1 is worse, 1 not separable."
    )
    assert said[1] == "Without wrong labels, nothing is separable from random per epoch (1 comparison)."
    assert said[3] == (
        "With 40 % wrong labels, worse than random per epoch: `orderdp` on 1 of 1 dataset; not separable: 0 of 1 "
        "comparison."
    )
    lines = said[4].splitlines()
    assert lines[:3] == ["| method | letters |", "| --- | ---: |", "| `uniform_epoch`, % | 90.00 |"]
    assert lines[3].startswith("| `orderdp` | -2.00 ± ")
    assert lines[3].endswith(" ▼ |")


def test_harm_is_not_told_where_there_is_none_or_where_it_is_there_without_noise() -> None:
    assert answers.headline(asked("noise_harms", noise(0, 0))) == (
        "It is not shown that wrong labels hurt OrderDP: nothing is separable from random per epoch (2 comparisons)."
    )
    assert answers.headline(asked("noise_harms", noise(-2, -2))) == (
        "It is not shown that wrong labels hurt OrderDP: no row is worse than random per epoch with wrong labels, and "
        "not without them; of 2 comparisons 2 are worse."
    )
    assert answers.headline(asked("noise_harms", noise(0, 2))).endswith(
        "of 2 comparisons 1 is better, 1 not separable."
    )


@pytest.mark.parametrize("name", sorted(DECLARED))
@pytest.mark.parametrize("points", [3, 0, -3])
def test_each_question_tells_what_is_there(name: str, points: float) -> None:
    """On images, tables and texts, at two keeps, without noise and with it; only with noise where that is asked."""
    one = DECLARED[name]
    method = (one.about or one.rows)[0]
    parts = []
    for dataset in ("fashion_mnist", "letters", "newsgroups", "letters[label_noise=0.2]"):
        better = 0 if one.unlike_first and "noise" not in dataset else points / 100
        rows = {(one.reference, 0.5): around(0.8), (method, 0.5): around(0.8 + better, noise=0.1)}
        parts.append(make(rows, datasets=(dataset,)))
    board = joined(*parts)
    for result in board.results.values():
        result["diagnostics"]["accuracy_worst_class"] = result["metrics"]["accuracy"] - 0.1
        result["samples"]["test"] = 10_000
    said = answers.headline(questions.answer(one, board))
    found = points != 0 and one.claim == ("better" if points > 0 else "worse")
    assert said.startswith(f"{one.found}: `{method}`" if found else f"{one.absent}: ")
    assert ("nothing is separable" in said) == (points == 0)


def moved(images: float, tables: float, texts: float) -> str:
    """What is said of a method that is better by so many points on each kind."""
    points = {"fashion_mnist": images, "letters": tables, "newsgroups": texts}
    rows = {("uniform_epoch", 0.3): around(0.8)}
    parts = [
        make(rows | {("ucb", 0.3): around(0.8 + by / 100, noise=0.1)}, datasets=(name,)) for name, by in points.items()
    ]
    return answers.transfer(asked("elsewhere", joined(*parts)))


def test_winners_on_images_are_followed_to_tables_and_texts() -> None:
    than = "better than random per epoch at equal cost"
    assert moved(2, 2, -2) == (
        f"On images, `ucb` is {than}. On tables, `ucb` is better on 1 of 1 dataset. "
        "On texts, `ucb` is better on 0 of 1 dataset, worse on 1."
    )
    assert moved(0, 0, 2) == (
        f"On images, no method is {than}, so there is no winner to follow. On tables, no method is {than} either. "
        f"On texts, there are {than}: `ucb` on 1 of 1 dataset."
    )


def test_orders_are_told_alike_only_where_they_are() -> None:
    about = DECLARED["elsewhere"].about

    def ranked(dataset: str, step: float) -> Board:
        rows: dict[tuple[str, float], Any] = {
            (method, 0.3): around(0.8 + step * i, noise=0.1) for i, method in enumerate(about)
        }
        return make({("uniform_epoch", 0.3): around(0.7)} | rows, datasets=(dataset,))

    alike = joined(ranked("fashion_mnist", 0.01), ranked("letters", 0.02))
    [said] = answers.orders(asked("elsewhere", alike))
    assert f"mean ranks of {len(about)} methods: images and tables +1.00 (p = " in said
    assert said.endswith("The order of methods is alike on images and tables.")
    [said] = answers.orders(asked("elsewhere", joined(ranked("fashion_mnist", 0.01), ranked("letters", -0.01))))
    assert said.endswith("The order of methods is opposed on images and tables.")
    few = make({("uniform_epoch", 0.3): around(0.7), ("ucb", 0.3): around(0.8)}, datasets=("letters",))
    assert answers.orders(asked("elsewhere", few)) == []


def test_what_is_not_compared_and_what_is_equal_is_told() -> None:
    rows = {
        ("orderdp", 0.5): around(0.9),
        ("orderdp[unseen=3.0,trim=0.2]", 0.5): around(0.9),
        ("ccs", 0.5): [*around(0.9, seeds=4), ("diverged", "NaN")],
    }
    said = answers.told(asked("noise_mended", make(rows, datasets=("letters",))))
    assert "had no effect: `orderdp[unseen=3.0,trim=0.2]` and `orderdp`." in said[1]
    assert said[2].endswith("(1 comparison); not compared, since seeds diverged or failed: `ccs` on 1 dataset.")
    assert "| `ccs` | diverged 1/5 |" in said[3]
    two = make({key: values[:2] for key, values in rows.items() if key[0] != "ccs"}, datasets=("letters",))
    said = answers.told(asked("noise_mended", two))
    assert said[0] == "There is no verdict: no row has 3 paired seeds with `orderdp`."
    assert "there is no verdict to `orderdp`: it needs 3 paired seeds." in said[2]


def test_a_block_is_written_from_stored_results_or_says_that_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "<!-- answer:noise_harms -->\n<!-- end -->\n"
    monkeypatch.setattr(boards, "packed", lambda name: tmp_path / name)
    assert summary.rewrite(page).splitlines()[1:-1] == [
        "",
        "The results of `label_noise` are not stored; `dpbench run label_noise` makes them.",
        "",
    ]
    (tmp_path / "label_noise").write_bytes(boards.pack(noise(0, -2)))
    written = summary.rewrite(page)
    assert "Wrong labels hurt OrderDP: `orderdp`" in written
    assert summary.rewrite(written) == written
    assert max(map(len, written.splitlines())) <= summary.WIDTH
