"""What is advised at a keep follows from verdicts alone, and claims are counted over boards."""

from dataclasses import replace

import pytest
from synthetic_board import around, costing, make

from dpbench.analysis.board import Board
from dpbench.claims import Registered
from dpbench.grid_file import change_grid
from dpbench.reports import advice


def board(dataset: str, **at: float) -> Board:
    """Rows at keep 0.3 of these accuracies, beside full training at 95 %; `orderdp` as tuning found it."""
    rows = {("full", 1.0): around(0.95)} | {(name, 0.3): around(mean, 0.01) for name, mean in at.items()}
    made = make(
        {("orderdp[explore=0.5]" if name == "orderdp" else name, keep): row for (name, keep), row in rows.items()},
        datasets=(dataset,),
    )
    entry = {"method": "orderdp", "dataset": dataset, "model": "cnn", "keep": 0.3, "chosen": "orderdp[explore=0.5]"}
    found = {"recipe": {}, "trials": 9, "spent": 1, "rates": [0.1, 0.1]}
    return replace(made, grid=change_grid(made.grid, {"tuned": [entry | found]}))


TUNED = [
    board("digits", uniform_epoch=0.90, orderdp=0.92, infobatch=0.93, el2n=0.85),
    board("letters", uniform_epoch=0.90, orderdp=0.95, infobatch=0.88, el2n=0.90),
]


def test_advised_is_what_wins_somewhere_and_loses_nowhere() -> None:
    said, table = advice.told(TUNED, TUNED[:1], 0.3)
    assert said.startswith(
        "Use `orderdp`: tuned, it is better than random per epoch at its own cost on 2 of 2 datasets and worse on none."
        " From full training it differs by -3.00 to +0.00 points: equivalent within the grid's margin on 1 of 2 "
        "datasets, worse on 1. It costs 0.30 of full training. Random per epoch costs 0.30 at this keep. "
        "From full training it differs by -5.00 points: equivalent within the grid's margin on 0 of 2 datasets, "
        "worse on 2."
    )
    assert "At the recipe's own rate it is better than random per epoch at its own cost on 1 of 1 dataset" in said
    assert said.endswith(
        "Worse than random per epoch at their own cost, and better nowhere, are `el2n` (1 of 2 datasets)."
    )
    lines = {line.split(" | ")[0]: line for line in table.splitlines()}
    assert lines["| `orderdp`"].endswith("| 0.30 | 2 ▲ 0 ▼ of 2 | 1 ▲ 0 ▼ of 1 |")
    assert lines["| `infobatch`"].endswith("| 0.30 | 1 ▲ 1 ▼ of 2 | 1 ▲ 0 ▼ of 1 |")
    assert lines["| `el2n`"].endswith("| 0.30 | 0 ▲ 1 ▼ of 2 | 0 ▲ 1 ▼ of 1 |")


def test_of_as_many_wins_the_smaller_loss_decides() -> None:
    rows = advice._rows([board("digits", uniform_epoch=0.90, orderdp=0.92, infobatch=0.93)], 0.3)
    assert advice.advised(rows).method == "infobatch"


def test_random_is_advised_where_nothing_beats_it() -> None:
    said, _ = advice.told([board("digits", uniform_epoch=0.90, orderdp=0.90, infobatch=0.85)], [], 0.3)
    assert said.startswith("Use random per epoch, `uniform_epoch`: of the methods that are nowhere worse than it")
    assert "`infobatch` (1 of 1 dataset)" in said


def test_where_nothing_beats_random_what_is_more_often_equivalent_to_full_is_advised() -> None:
    rows = {("full", 1.0): around(0.95), ("uniform_epoch", 0.3): around(0.949, 0.4)}
    rows |= {("orderdp", 0.3): around(0.9495, 0.04), ("infobatch", 0.3): around(0.949, 0.04)}
    said, _ = advice.told([make(rows)], [], 0.3)
    assert said.startswith(
        "Use `orderdp`: tuned, it is equivalent to full training on more datasets than random per epoch, and nowhere"
    )
    assert "equivalent within the grid's margin on 1 of 1 dataset, worse on 0. It costs 0.30" in said
    rows[("uniform_epoch", 0.3)] = around(0.949, 0.04)
    said, _ = advice.told([make(rows)], [], 0.3)
    assert said.startswith("Use random per epoch"), "it is equivalent, too"


def test_of_what_is_as_often_equivalent_the_cheapest_is_advised() -> None:
    rows = {("full", 1.0): around(0.95), ("uniform_epoch", 0.3): around(0.949, 0.4)}
    rows |= {("orderdp", 0.3): around(0.9495, 0.04), ("a", 0.3): around(0.9499, 0.04)}
    made = make(rows, metrics={"a": costing(0.6)}, controls={0.6: around(0.949, 0.4)})
    assert advice.advised(advice._rows([made], 0.3)).method == "orderdp"


def test_what_costs_as_much_as_full_training_is_not_advised() -> None:
    rows = {("full", 1.0): around(0.95), ("uniform_epoch", 0.3): around(0.90), ("a", 0.3): around(0.95)}
    for cost, advised in ((0.9, "a"), (1.0, "uniform_epoch")):
        made = make(rows, metrics={"a": costing(cost)}, controls={cost: around(0.93)})
        assert advice.advised(advice._rows([made], 0.3)).method == advised


def test_nothing_is_advised_where_nothing_has_whole_rows() -> None:
    lost = [*around(0.99, seeds=4), ("diverged", "the loss became nan")]
    said, _ = advice.told([make({("full", 1.0): around(0.95), ("orderdp", 0.3): lost})], [], 0.3)
    assert said.startswith("Nothing is advised")


def test_what_has_diverged_counts_for_nothing() -> None:
    lost = [*around(0.99, seeds=4), ("diverged", "the loss became nan")]
    rows = {("full", 1.0): around(0.95), ("uniform_epoch", 0.3): around(0.9), ("orderdp", 0.3): lost}
    said, table = advice.told([make(rows)], [], 0.3)
    assert said.startswith("Use random per epoch")
    assert "diverged 1/5" in table


def test_a_keep_without_rows() -> None:
    assert advice.told(TUNED, TUNED, 0.7) == ["No stored board of the tuned track has rows at keep 0.7."]


@pytest.mark.parametrize(("date", "late"), [(-1.0, "0 of them"), (None, "2 of them")])
def test_claims_are_counted_over_boards(date: float | None, late: str) -> None:
    text = "- {text: OrderDP wins, test: better, methods: [orderdp], keep: [0.3], against: uniform_epoch}"
    registered = (Registered(text=text, date=date),)
    grids = [change_grid(one.grid, {"name": name}) for one, name in zip(TUNED, ("won", "lost"), strict=True)]
    lost = board("letters", uniform_epoch=0.90, orderdp=0.80)
    stored = [replace(one, grid=grid, registered=registered) for one, grid in zip((TUNED[0], lost), grids, strict=True)]
    head, table = advice.claims_of(stored)
    star = "" if date is not None else "*"
    assert head.startswith(f"Of 2 claims on 2 boards: 1 held, 1 refuted, 0 open. {late}")
    assert table.splitlines()[-1] == f"| OrderDP wins | `won`{star} | `lost`{star} | - |"
