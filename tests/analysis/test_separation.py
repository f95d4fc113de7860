"""Seeds added until rows are separated: who gets more, when it ends, and that a board knows its looks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from benchmarks import power
from synthetic_board import RECIPE, around, make, result

from dpbench import store
from dpbench.analysis import board as boards
from dpbench.analysis import measured, separation, stats, verdicts
from dpbench.errors import UsageError
from dpbench.experiments import grid as grids
from dpbench.spec import Grid, RunSpec
from dpbench.training.results import is_done

MEANS = {"full": 0.9, "uniform": 0.8, "small_loss": 0.7, "el2n": 0.797, "orderdp": 0.8}
ROWS = {(method, 1.0 if method == "full" else 0.5): mean for method, mean in MEANS.items()}


def grid(**changes: Any) -> Grid:
    given = {"name": "g", "datasets": ["digits"], "models": ["cnn"], "methods": ["uniform"], "keep": [0.5], "seeds": 3}
    return Grid.model_validate(given | {"recipe": RECIPE.model_dump(), "delta": 0.01} | changes)


class Runner:
    """Stands for `run_grid`: a run's accuracy is its row's mean and noise of its own; of `bad` a seed diverges."""

    def __init__(self, bad: str = "", noise: float = 0.002) -> None:
        self.made: list[tuple[str, int]] = []
        self.bad, self.noise = bad, noise

    def __call__(self, asked: Grid, cells: dict[str, RunSpec] | None = None) -> dict[str, RunSpec]:
        if cells is None:
            specs = [self.spec(*row, seed) for seed in range(asked.seeds) for row in ROWS]
            cells = {self.key(spec): spec for spec in specs}
        cells = {self.key(spec): spec for spec in cells.values()}
        grids.write_manifest(asked, cells)
        for key, spec in cells.items():
            if not is_done(key):
                self.made.append((spec.method, spec.seed))
                noise = np.random.default_rng([spec.seed, len(spec.method)]).normal(0, self.noise)
                found = result(spec, key, round(ROWS[spec.method, spec.keep] + noise, 3), {})
                if spec.method == self.bad and spec.seed == 2:
                    found |= {"status": "DIVERGED", "reason": "nan", "metrics": {}}
                store.write_json(store.run_folder(key) / "result.json", found)
                store.write(store.run_folder(key) / "done", lambda file: file.touch())
        return cells

    @staticmethod
    def spec(method: str, keep: float, seed: int) -> RunSpec:
        return RunSpec(dataset="digits", model="cnn", method=method, keep=keep, seed=seed, recipe=RECIPE)

    @staticmethod
    def key(spec: RunSpec) -> str:
        return f"{[method for method, _ in ROWS].index(spec.method):08x}{spec.seed:08x}"

    def seeds(self) -> dict[str, int]:
        return pd.Series([method for method, _ in self.made]).value_counts().to_dict()


def test_only_open_rows_and_their_controls_get_more_seeds(home: Any) -> None:
    runner, told = Runner(), []
    asked = separation.planned(grid(), 12)
    assert asked.looks == [3, 6, 12]
    separation.run(asked, runner, told.append)
    seeds = runner.seeds()
    assert seeds["small_loss"] == 3, "it is worse than both controls at the first look"
    assert seeds["el2n"] == 12 == seeds["orderdp"] == seeds["uniform"]
    assert len(told) == 3
    board = boards.load("g")
    assert board.grid.looks == [3, 6, 12]
    assert board.table.set_index("method").at["small_loss", "verdict_uniform"] == "worse than random"
    assert not [found for found in board.findings if found.badge == "unequal seeds"], "by plan"


def test_it_ends_where_nothing_is_open_and_goes_on_where_it_was(home: Any) -> None:
    runner, told = Runner(noise=0), []
    separation.run(separation.planned(grid(delta=2), 12), runner, told.append)
    assert set(runner.seeds().values()) == {3}
    assert told == ["No comparison is open"]
    open_ones = Runner()
    asked = separation.planned(grid(name="h"), 12)
    separation.run(asked, open_ones, told.append)
    before = len(open_ones.made)
    separation.run(asked, open_ones, told.append)
    assert len(open_ones.made) == before, "all was done"


def test_a_row_with_diverged_seeds_gets_no_more(home: Any) -> None:
    runner = Runner(bad="el2n")
    separation.run(separation.planned(grid(), 6), runner, lambda line: None)
    assert runner.seeds()["el2n"] == 3
    assert runner.seeds()["orderdp"] == 6


def test_a_board_keeps_its_looks_whatever_is_run_later(home: Any) -> None:
    runner = Runner()
    separation.run(separation.planned(grid(), 6), runner, lambda line: None)
    before = boards.load("g").table
    runner(grid(seeds=5))  # seeds in between tell nothing more
    board = boards.load("g")
    assert board.grid.looks == [3, 6]
    columns = ["method", "difference_uniform", "difference_uniform_ci95", "verdict_uniform", "rank_low", "rank_high"]
    assert board.table[columns].equals(before[columns])
    with pytest.raises(UsageError, match="planned to be read at 3, 6 seeds, not at 3, 6, 12"):
        runner(separation.planned(grid(), 12))
    again = boards.unpack(boards.pack(board))
    assert again.table[columns].equals(before[columns])


def test_a_board_says_which_seeds_are_of_what(home: Any) -> None:
    runner = Runner()
    separation.run(separation.planned(grid(), 6), runner, lambda line: None)
    board = boards.load("g")
    assert set(board.runs["seed"]) == {0, 1, 2}, "datasets are compared by seeds that all rows have"
    seeds = board.table.set_index("method")["seeds"]
    assert (seeds["small_loss"], seeds["orderdp"]) == (3, 6)
    for looks, expected in (([3, 6], "read at 3 and 6 seeds, at each with 1/2"), ([3], "read at 3 seeds, whatever")):
        said = verdicts.looks_text(looks)
        assert expected in said
        assert said.endswith("ranks are of all seeds; the intervals of ranks, and what is said over datasets, are of "
                             "the first 3.")  # fmt: skip
    assert verdicts.looks_text([]) == ""


def test_looks_that_cannot_be() -> None:
    assert separation.planned(grid(seeds=5), None).looks == [5, 10, 20]
    assert separation.planned(grid(seeds=5), 12).looks == [5, 10, 12]
    assert separation.planned(grid(looks=[3, 7]), None).looks == [3, 7]
    for given, most in ((grid(seeds=2), None), (grid(seeds=5), 4), (grid(looks=[3, 7]), 9), (grid(looks=[4, 7]), None)):
        with pytest.raises(UsageError):
            separation.planned(given, most)
    with pytest.raises(ValueError, match="larger than the one before"):
        grid(looks=[3, 3])


def test_a_verdict_spends_its_share_of_alpha() -> None:
    rng = np.random.default_rng(0)
    one = stats.paired_difference(pd.Series(rng.normal(1, 1, 6)), pd.Series(np.zeros(6)))
    whole, third = (stats.compare({"a": replace(one, share=s)}, delta=3) for s in (1, 1 / 3))
    assert third["p"].iloc[0] == pytest.approx(3 * whole["p"].iloc[0])
    assert third["equivalence_p"].iloc[0] == pytest.approx(min(1, 3 * whole["equivalence_p"].iloc[0]))
    together = stats.compare({"a": one, "b": one, "c": one}, delta=3)
    assert third["half_width"].iloc[0] == pytest.approx(together["half_width"].iloc[0]), "as three comparisons do"


@pytest.mark.parametrize("spreads", ["normal", "unequal", "t"])
def test_looks_together_say_something_false_in_at_most_5_percent_of_boards(spreads: str) -> None:
    false, found, seeds = power.separated_boards(np.random.default_rng(1), spreads, 1000, (5, 10, 20), shared=True)
    naive, most, _ = power.separated_boards(np.random.default_rng(1), spreads, 1000, (5, 10, 20), shared=False)
    assert false <= 0.05
    assert naive > 1.5 * false
    assert 0.9 * most < found < most
    assert seeds < 20


def test_the_simulated_looks_are_those_of_compare() -> None:
    values = np.random.default_rng(2).normal(0.3, 0.2, 10)
    one = replace(stats.paired_difference(pd.Series(values), pd.Series(np.zeros(10))), share=1 / 3)
    line = stats.compare({"a": one, "b": one}, delta=0.5).iloc[0]
    better, worse, equal = power.claims(values, 0.5, 2 * 3)
    assert line["verdict"].startswith("better") == better
    assert line["equivalence"].startswith("equivalent") == equal
    assert not worse


def test_only_whole_looks_count() -> None:
    for seeds, expected in (
        (range(3), 3),
        (range(5), 3),
        (range(6), 6),
        (range(9), 6),
        ([0, 1], 0),
        ([0, 1, 2, 4, 5], 3),
    ):
        assert stats.whole_looks(seeds, [3, 6]).sum() == expected
    assert stats.whole_looks(range(5), []).all()
    board = make({("full", 1.0): around(0.9, seeds=4), ("uniform", 0.5): around(0.8, seeds=4)})
    found = measured.measure("accuracy", board.results.values(), looks=[3, 6])
    assert {len(of_row) for of_row in found.values.values()} == {3}
    assert found.share == 0.5
