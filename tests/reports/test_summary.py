"""The sentences say what the board says, and the README's blocks are rewritten from it."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from synthetic_board import Seed, around, costing, make, usual

from dpbench.analysis import board as boards
from dpbench.reports import formats, summary

CONTROLS = {("full", 1.0): around(0.95), ("uniform", 0.3): around(0.90)}
PER_EPOCH = ("uniform_epoch", 0.3)


def headline(rows: Mapping[tuple[str, float], Sequence[Seed]], **options: Any) -> str:
    (sentence,) = summary.headlines(make({**CONTROLS, **rows}, **options))
    return sentence


def test_the_headline_names_who_reaches_full_at_what_cost_and_whether_random_does() -> None:
    rows = {("orderdp", 0.3): around(0.949), PER_EPOCH: around(0.948, noise=0.2)}
    quiet = {name: {"time_on_cpu": 1.0} for name in ("full", "uniform", "uniform_epoch", "orderdp")}
    assert headline(rows, metrics=quiet) == (
        "At keep 0.3, `orderdp` is equivalent to full within 0.5 points (-0.10 ± 0.09) at 0.30 of the cost "
        "(3.3 times faster); it is not separable from random per epoch (+0.10 ± 0.69)."
    )
    assert "faster" not in headline(rows, metrics=quiet | {"full": {"time_on_cpu": 0.3}}), "the machine was shared"
    said = headline({("orderdp", 0.3): around(0.949, noise=1.0), PER_EPOCH: around(0.948)})
    assert re.search(r"is within 0.5 points of full on average \(-0.10 ± .*, not shown equivalent\) at", said)
    better = headline({("orderdp", 0.3): around(0.949), PER_EPOCH: around(0.93, noise=0.1)})
    assert "it is better than random per epoch (+1.90 ± " in better
    worse = headline({("orderdp", 0.3): around(0.946), PER_EPOCH: around(0.96)})
    assert "it is worse than random per epoch (-1.40 ± " in worse


def test_the_cheapest_of_those_that_reach_full_is_named() -> None:
    rows = {("a", 0.3): around(0.96), ("orderdp", 0.3): around(0.949)}
    assert "`orderdp` is equivalent" in headline(rows, metrics={"a": costing(0.6)})
    control = headline({("a", 0.3): around(0.96)}, metrics={"a": costing(0.6)}, controls={0.6: around(0.94)})
    assert "at 0.60 of the cost" in control
    assert "it is better than random per epoch at its cost (+2.00 ± " in control


def test_nobody_reaches_full() -> None:
    said = headline({("orderdp", 0.3): around(0.92), PER_EPOCH: around(0.92, noise=0.4)})
    assert said.startswith("At keep 0.3, no method is within 0.5 points of full; the nearest is `orderdp` (-3.00 ± ")
    assert "it is not separable from random per epoch" in said
    assert headline({}) == "At keep 0.3, no method is compared with full training."


def test_what_is_shown_to_reach_full_comes_before_what_is_cheaper() -> None:
    rows = {("a", 0.3): around(0.949, noise=1.0), ("orderdp", 0.3): around(0.949)}
    metrics = {"a": costing(0.2), "orderdp": costing(0.4)}
    assert "`orderdp` is equivalent to full" in headline(rows, metrics=metrics)
    rows["orderdp", 0.3] = around(0.949, noise=1.0)
    assert "`a` is within 0.5 points of full on average" in headline(rows, metrics=metrics)


def test_a_row_with_diverged_seeds_is_no_headline() -> None:
    rows = {("a", 0.3): [*around(0.99, seeds=4), ("diverged", "NaN")], ("orderdp", 0.3): around(0.949)}
    assert "`orderdp` is equivalent" in headline(rows)
    said = summary.sentences(make({**CONTROLS, **rows}))
    assert said[-1] == "Ranked below all others and not compared: `a` at 0.3 (diverged 1/5)."
    assert not [line for line in said[:-1] if "`a`" in line]


def test_sentences_say_what_the_verdicts_are() -> None:
    board = usual()
    said = summary.text(board)
    assert "1 of 3 rows is better than random (`orderdp` +2.00 ± " in said
    assert "1 of 3 rows is worse than random (`el2n` -2.00 ± " in said
    assert "1 not separable from it." in said
    assert "`orderdp` has the highest mean, 92.00 ± " in said
    assert formats.text(board, "summary") == said
    two = make({key: values[:2] for key, values in (CONTROLS | {("a", 0.3): around(0.9)}).items()})
    assert "there is no verdict to random, full: it needs 3 paired seeds" in summary.text(two)
    many = make({(f"m{i}", 0.3): around(0.93) for i in range(11)} | CONTROLS)
    assert "11 of 11 rows are better than random (`m0` +3.00" in summary.text(many)
    assert " and 3 more" in summary.text(many)
    assert "On x at keep 0.3" in summary.text(make(CONTROLS, datasets=("x", "y")))


def test_a_board_of_failures_has_sentences_too() -> None:
    said = summary.text(make({("a", 0.5): ["it broke"], ("b", 0.3): [None]}))
    assert "`a` at 0.5 (failed 1/1)" in said


def test_blocks_are_rewritten_and_all_else_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "load_checked_in", lambda name: usual())
    page = "Before\n<!-- results:made -->\nstale\n<!-- end -->\nbetween\n<!-- table:made -->\n<!-- end -->\nafter\n"
    written = summary.rewrite(page)
    assert summary.rewrite(written) == written
    assert "stale" not in written
    assert "11 rows, 5 paired seeds. For the tests." in written
    assert "    1 orderdp " in written
    assert written.startswith("Before\n<!-- results:made -->\n")
    assert written.endswith("<!-- end -->\nafter\n")
    assert max(map(len, written.splitlines())) <= summary.WIDTH


def test_a_reference_gets_the_line_where_its_name_is_defined() -> None:
    lines = (summary.ROOT / "dpbench/method.py").read_text().splitlines()
    found = summary.rewrite("See [`Task.k`,\ndpbench/method.py:7](../dpbench/method.py#L7).")
    number = int(found.partition("#L")[2].removesuffix(")."))
    assert lines[number - 1].strip() == "def k(self) -> int:"
    assert found == f"See [`Task.k`,\ndpbench/method.py:{number}](../dpbench/method.py#L{number})."
    module = ast.parse("import os\nA: int = 1\nB = 2\n@final\nclass C:\n    d = 1\n    def e(self): ...\n")
    assert [summary.defined(module, name) for name in ("A", "B", "C", "C.d", "C.e")] == [2, 3, 5, 6, 7]
    for missing in ("os", "C.f", "D"):
        with pytest.raises(LookupError, match=f"no {missing} is defined"):
            summary.defined(module, missing)


def test_the_pages_pictures_are_small_and_drawn_from_the_boards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boards, "load_checked_in", lambda name: usual())
    (tmp_path / "leaderboards/results/made").mkdir(parents=True)
    page = "![made](leaderboards/results/made/pareto.png) and ![another](leaderboards/results/made-html.png)"
    [made] = summary.draw(page, tmp_path)
    assert made == tmp_path / "leaderboards/results/made/pareto.png"
    assert Image.open(made).width == 1200
    assert made.stat().st_size < 120_000
