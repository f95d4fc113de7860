"""Files of claims: what they may say, what is wrong with them in one line, and when they were first seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpbench import catalog, claims
from dpbench.claims import Registered, merged, register
from dpbench.errors import UsageError
from dpbench.experiments import grid as grids
from dpbench.grid_file import load_grid

GRID = """
datasets: [digits]
models: [cnn]
methods: [full, uniform, "el2n[at_epoch=4]"]
keep: [0.3, 0.5]
seeds: 1
recipe: {epochs: 8, batch_size: 16, lr: 0.1}
"""
CLAIM = """
- text: It is better
  test: better
  methods: ["el2n[at_epoch=4]"]
  keep: [0.3]
  against: uniform
"""


def read(tmp_path: Path, text: str) -> str | None:
    (tmp_path / "g.yaml").write_text(GRID)
    (tmp_path / "g.claims.yaml").write_text(text)
    return claims.read(str(tmp_path / "g.yaml"), load_grid(str(tmp_path / "g.yaml")))


def test_claims_stand_beside_their_grid(tmp_path: Path) -> None:
    assert read(tmp_path, CLAIM) == CLAIM
    (tmp_path / "g.claims.yaml").unlink()
    assert claims.read(str(tmp_path / "g.yaml"), load_grid(str(tmp_path / "g.yaml"))) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("el2n[at_epoch=4]", "el3n", "claims.yaml: claim 1: unknown method 'el3n'"),
        ("el2n[at_epoch=4]", "el2n", "claim 1: el2n is not in the grid g; it has full, uniform, el2n[at_epoch=4]"),
        ("el2n[at_epoch=4]", "random", "claim 1: random is not in the grid g; write uniform"),
        ("[0.3]", "[0.7]", "claim 1: keep 0.7 is not in the grid g; it has 0.3, 0.5"),
        ("against: uniform", "against: infobatch", "claim 1: infobatch is not in the grid g"),
        ("keep: [0.3]", "datasets: [cifar10]", "claim 1: the dataset cifar10 is not in the grid g; it has digits"),
        ("test: better", "test: best", "claims.yaml:3: 0.test: input should be 'better', 'equivalent' or 'order-pre"),
        ("test: better", "test: equivalent", "claims.yaml:2: 0: margin is missing"),
        ("test: better", "test: order-predicts-order", "claims.yaml:2: 0: order-predicts-order compares datasets"),
        ("  against: uniform", "  at_cost: true", "claims.yaml:2: 0: better compares methods, or all of a kind, with"),
        ("keep: [0.3]", "at_cost: true", "claims.yaml:2: 0: at_cost goes with against: uniform_epoch"),
        ("keep: [0.3]", "measure: loss", "claims.yaml:5: 0.measure: input should be 'accuracy'"),
        ("keep: [0.3]", "keeps: [0.3]", "claims.yaml:5: unknown key 0.keeps; did you mean keep?"),
        ("- text: It is better", "-", "claims.yaml:3: 0.text is missing"),
        (CLAIM, "text: one", "claims.yaml: a list of claims is needed, each with text, test, methods"),
        (CLAIM, "- [", "claims.yaml:1: not YAML"),
    ],
)
def test_a_fault_is_told_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError) as told:
        read(tmp_path, CLAIM.replace(old, new))
    assert message in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_the_claims_of_dpbench_fit_their_grids() -> None:
    found = [name for name in catalog.names("grids") if claims.read(name, load_grid(name))]
    assert {"quick", "fashion_mnist", "static_quick", "modalities"} <= set(found)
    assert not [name for name in catalog.names("grids") if "claims" in name], "a file of claims is no grid"


def test_the_first_date_counts_and_the_last_text() -> None:
    first = register((), "a", 1.0)
    assert register(first, "a", 2.0) == first
    assert register(first, None, 2.0) == first, "a file that is gone takes no claim back"
    second = register(first, "b", 3.0)
    assert [(one.text, one.date) for one in second] == [("a", 1.0), ("b", 3.0)]
    assert [(one.text, one.date) for one in register(second, "a", 4.0)] == [("b", 3.0), ("a", 1.0)]


def test_merged_claims_keep_their_earlier_date_and_ours_stays_the_last() -> None:
    ours = (Registered(date=5.0, text="a"), Registered(date=6.0, text="b"))
    theirs = (Registered(date=7.0, text="c"), Registered(date=4.0, text="b"), Registered(date=9.0, text="a"))
    assert [(one.text, one.date) for one in merged(ours, theirs)] == [("c", 7.0), ("a", 5.0), ("b", 4.0)]
    assert merged((), theirs) == theirs
    [undated] = merged((Registered(date=5.0, text="a"),), (Registered(date=None, text="a"),))
    assert undated.date == 5.0, "one that was not registered is not the earlier"


def test_of_a_stranger_only_claims_are_taken() -> None:
    good = Registered(date=1.0, text=CLAIM)
    texts = ("- [", "{}", "- {text: x}", "[]", "- " + "{" * 90)
    assert claims.readable([*(Registered(date=1.0, text=text) for text in texts), good]) == (good,)
    for date in (float("nan"), float("inf"), 1e300):
        with pytest.raises(ValueError, match="date"):
            Registered(date=date, text=CLAIM)


def test_a_manifest_keeps_the_claims_of_the_command_that_first_had_them(home: Path) -> None:
    grid = load_grid("quick")
    cells = {"0" * 16: grid.runs()[0]}
    [seen] = grids.write_manifest(grid, cells, CLAIM).claims
    assert grids.write_manifest(grid, cells, CLAIM).claims == (seen,) == grids.read_manifest("quick").claims
    assert [one.text for one in grids.write_manifest(grid, cells, "other").claims] == [CLAIM, "other"]


def test_claims_of_a_tuned_grid_have_the_date_of_the_grid_whose_runs_it_shares(home: Path) -> None:
    grid = load_grid("quick")
    tuned, cells = grid.model_copy(update={"name": "quick_tuned"}), {"0" * 16: grid.runs()[0]}
    [alone] = grids.write_manifest(tuned, cells, CLAIM).claims
    [first] = grids.write_manifest(grid, cells, CLAIM).claims
    manifest = grids.read_manifest("quick")
    manifest._replace(claims=(first.model_copy(update={"date": alone.date - 5}),)).save()
    [now] = grids.write_manifest(tuned, cells, CLAIM).claims
    assert now.date == alone.date - 5
    assert grids.read_manifest("quick").claims[0].date == alone.date - 5, "which is left as it is"


def test_a_built_in_tuned_grid_has_the_claims_of_its_grid() -> None:
    assert claims.of_file("quick_tuned") == claims.of_file("quick") is not None
    assert claims.of_file("figure4") is None
