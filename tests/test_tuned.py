"""What tuning found for the rows of a grid, and the track that a board names."""

import pytest

from dpbench.errors import UsageError
from dpbench.grid_file import read_grid
from dpbench.spec import Grid
from dpbench.tuned import Tuned, track

GRID = """\
datasets: [digits]
models: [cnn]
methods: [full, uniform, orderdp]
keep: [0.3, 0.5]
seeds: 1
recipe: {epochs: 2, batch_size: 16, lr: 0.1}
"""


def read(tuned: str) -> Grid:
    return read_grid(f"{GRID}tuned: {tuned}", "g.yaml", "g")


def test_a_row_gets_what_was_found_for_it_and_no_other_does() -> None:
    grid = read('[{method: orderdp, keep: 0.3, chosen: "orderdp[explore=0.5]", recipe: {lr: 0.2}, trials: 9}]')
    found = {spec.row[2:]: spec.recipe.lr for spec in grid.runs()}
    assert found == {
        ("full", 1.0): 0.1,
        ("uniform", 0.3): 0.1,
        ("uniform", 0.5): 0.1,
        ("orderdp[explore=0.5]", 0.3): 0.2,
        ("orderdp", 0.5): 0.1,
    }
    assert grid.tuning(("digits", "cnn", "orderdp[explore=0.5]", 0.3)) == grid.tuned[0]
    assert grid.tuning(("digits", "cnn", "orderdp", 0.5)) is None
    assert grid.recipe_at(("digits", "cnn", "orderdp[explore=0.5]", 0.3)).lr == 0.2


def test_trials_alone_are_written_in_short_and_change_no_run() -> None:
    grid = read("{orderdp: 30}")
    assert grid.tuned == [Tuned(method="orderdp", trials=30)]
    assert [spec.hash for spec in grid.runs()] == [spec.hash for spec in read("[]").runs()]


def test_two_methods_of_one_name_are_refused_where_their_recipes_differ() -> None:
    text = "[{method: orderdp, keep: 0.3, chosen: uniform, recipe: {lr: LR}, trials: 9}]"
    assert len(read(text.replace("LR", "0.1")).runs()) == 4
    with pytest.raises(UsageError, match=r"two of the grid's methods are tuned to uniform at keep 0\.3"):
        read(text.replace("LR", "0.2")).runs()


def test_a_recipe_that_does_not_go_together_is_told() -> None:
    with pytest.raises(UsageError, match="lr: Input should be greater than 0"):
        read("[{method: full, recipe: {lr: 0}, trials: 9}]")


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([None, None], "fixed recipe"),
        ([None, (30, {})], "fixed recipe"),  # a method's parameters were tuned at the recipe of all
        ([(9, {"lr": 1}), (9, {"lr": 2})], "tuned (9 trials a row)"),
        ([(9, {"lr": 1}), (12, {"lr": 2})], "tuned (9-12 trials a row)"),
        ([(9, {"lr": 1}), None, None], "fixed recipe, but for 1 tuned of 3 rows"),
    ],
)
def test_the_track(rows: list[tuple[int, dict[str, float]] | None], text: str) -> None:
    assert track(row and Tuned(method="full", trials=row[0], recipe=row[1]) for row in rows) == text
