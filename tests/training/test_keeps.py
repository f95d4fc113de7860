"""Keep schedules: exact sums, their shapes, and what a method, the ledger and a board make of them."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpbench import catalog
from dpbench.beside import REFUSALS, SHAPES
from dpbench.errors import UsageError
from dpbench.grid_file import read_grid
from dpbench.method import Task
from dpbench.spec import RunSpec
from dpbench.training.keeps import schedule

GRID = """
datasets: ["synthetic[n=100,n_test=50,d=16,classes=4]"]
models: ["mlp[width=8,depth=1]"]
methods: [full, uniform, orderdp, ucb]
keep: {keep}
seeds: 1
recipe: {{epochs: 4, batch_size: 16, lr: 0.1}}
"""


@given(st.integers(5, 500), st.integers(1, 40), st.floats(0.2, 1.0), st.sampled_from(SHAPES))
def test_the_mean_is_exact(n: int, epochs: int, keep: float, shape: str) -> None:
    counts = schedule(shape, Task(n, epochs, 16, keep))
    assert len(counts) == epochs
    assert all(1 <= count <= n for count in counts)
    assert sum(counts) == max(epochs, round(keep * n * epochs)) or min(counts) == 1


def test_the_shapes() -> None:
    task = Task(1000, 5, 16, 0.5)
    assert schedule("rising", task) == [250, 375, 500, 625, 750]
    assert schedule("falling", task) == [750, 625, 500, 375, 250]
    assert schedule("oscillating", Task(1000, 4, 16, 0.6)) == [400, 800, 400, 800]
    assert schedule("rising", Task(1000, 1, 16, 0.5)) == [500]


@pytest.mark.parametrize("method", ["uniform_epoch", "orderdp", "epsilon_greedy", "bls[of=orderdp]"])
def test_a_run_keeps_what_the_schedule_says(run: Any, spec: Callable[..., RunSpec], method: str) -> None:
    name, _, params = method.partition("[")
    wanted = spec(f"{name}[{params.rstrip(']')},keep_schedule=rising]", keep=0.5)
    assert wanted.method.endswith("keep_schedule=rising]")
    result = run(wanted)
    assert result["status"] != "FAILED", result["reason"]
    used = [record["samples_backward"] for record in result["epochs"]]
    assert used == schedule("rising", Task(90, 4, 16, 0.5)) == [22, 38, 52, 68]
    assert result["metrics"]["prune_ratio"] == 1 - 180 / 360
    assert result["hyperparameters"]["keep_schedule"] == "rising"


def scheduled() -> list[str]:
    """The methods that take a keep schedule."""
    names = [name for name in catalog.names("methods") if name not in ("subset", "deepcore")]
    return [name for name in names if REFUSALS["keep_schedule"](catalog.load_method(name), name) is None]


@pytest.mark.parametrize("method", scheduled())
def test_every_method_that_takes_a_schedule_follows_it(run: Any, spec: Callable[..., RunSpec], method: str) -> None:
    used = []
    for shape in ("rising", "falling"):
        result = run(spec(f"{method}[keep_schedule={shape}]", keep=0.5, epochs=7))
        assert result["status"] != "FAILED", result["reason"]
        used.append([record["samples_backward"] for record in result["epochs"]])
    assert used[0] != used[1]
    first = next(i for i, (a, b) in enumerate(zip(*used, strict=True)) if a != b)
    assert (used[0][first] < used[1][first]) == (first < 3), "the rising share is the smaller one at first"


def test_a_number_is_hashed_as_before(spec: Callable[..., RunSpec]) -> None:
    plain = spec("orderdp", keep=0.5)
    assert plain.identity["spec"].keys() == RunSpec.model_fields.keys() - {"shifts", "devices", "sync_batchnorm"}
    assert plain.identity["spec"]["keep"] == 0.5
    assert spec("orderdp[keep_schedule=falling]", keep=0.5).hash != plain.hash


def test_a_grid_names_its_rows_so() -> None:
    grid = read_grid(GRID.format(keep="[0.3, {mean: 0.5, shape: oscillating}]"), "g.yaml", "g")
    assert grid.rows() == [
        ("full", 1.0),
        ("uniform", 0.3),
        ("uniform", 0.5),  # it chooses once, and keeps the mean
        ("orderdp", 0.3),
        ("orderdp[keep_schedule=oscillating]", 0.5),
        ("ucb", 0.3),
        ("ucb[keep_schedule=oscillating]", 0.5),
    ]
    assert type(grid).model_validate(grid.model_dump()) == grid
    alone = read_grid(GRID.format(keep="{mean: 0.5, shape: constant}"), "g.yaml", "g")
    assert [keep for _, keep in alone.rows()] == [1.0, 0.5, 0.5, 0.5]
    assert alone.rows()[2] == ("orderdp", 0.5)
    for keep, message in (
        ("{mean: 2, shape: rising}", "mean"),
        ("{mean: 0.5, shape: up}", "shape"),
        ("[]", "no share"),
    ):
        with pytest.raises(UsageError, match=message):
            read_grid(GRID.format(keep=keep), "g.yaml", "g")


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("uniform[keep_schedule=rising]", "keep_schedule is not for this method, it chooses once"),
        ("ucb[period=3,keep_schedule=rising]", "it chooses every few epochs"),
        ("full_short[keep_schedule=rising]", "it chooses once"),
        ("importance_sampling[keep_schedule=rising]", "it sets its share once"),
        ("orderdp[keep_schedule=up]", "'up' is not one of rising, falling, oscillating"),
        ("orderdp[keep_schedule=3]", "keep_schedule = 3 is not text"),
    ],
)
def test_who_cannot_follow_says_so(method: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        catalog.load_method(method)
