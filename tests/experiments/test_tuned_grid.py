"""The tuned track of a grid: equal trials for all rows, the controls too, and one command that can be stopped."""

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from synthetic_board import result

from dpbench import catalog
from dpbench.analysis import board as boards
from dpbench.errors import UsageError
from dpbench.experiments import controls, trials, tuned_grid
from dpbench.experiments import grid as grids
from dpbench.experiments import tuning as tuning_
from dpbench.experiments.trials import open_study
from dpbench.grid_file import change_grid, load_grid, read_grid
from dpbench.spec import Grid, RunSpec
from dpbench.training import runner

GRID = """\
description: For the tests.
datasets: ["synthetic[n=100,n_test=50,d=16,classes=4]"]
models: ["mlp[width=8,depth=1]"]
methods: METHODS
keep: [0.3]
seeds: 3
recipe: {epochs: 2, batch_size: 16, lr: 0.1}
"""
EDGE = 0.05  # the rate from which the stand-in of a training diverges


def small(methods: str) -> Grid:
    return read_grid(GRID.replace("METHODS", methods), "g.yaml", "g")


def here(work: Callable[[Any], Any], jobs: Any, *_: Any) -> Iterator[tuple[Any, Any]]:
    """Do the jobs in this process."""
    for job in jobs:
        yield job, work(job)


def trained(spec: RunSpec, *_: Any, on_epoch: Callable[[Any], None]) -> dict[str, Any]:
    """What a training could give: the better the nearer the rate is to 0.03; InfoBatch costs 1 - r."""
    if spec.recipe.lr >= EDGE:
        return {"status": "DIVERGED", "reason": "the training loss became nan"}
    for _ in range(2):
        on_epoch({"samples_backward": 27, "accuracy_validation": 0.5})
    r = catalog.parse(spec.method)[1].get("r", 0.7)
    share = 1 - r if spec.method.startswith("infobatch") else spec.keep
    accuracy = 0.9 - 0.1 * abs(math.log(spec.recipe.lr / 0.03)) + 0.1 * share
    counts = {"samples_forward": 200 * share, "samples_backward": 200 * share, "prune_ratio": 1 - share}
    return result(spec, spec.hash, 0.5, {"accuracy_validation": accuracy, **counts})


@pytest.fixture
def tune(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Grid]:
    """Give `tune(grid, ...)`: the tuned grid, read from its file, by trials without a training."""
    monkeypatch.setattr(tuning_, "run_all", here)
    monkeypatch.setattr(runner, "run", trained)

    def carry_out(grid: Grid, **options: Any) -> Grid:
        plans = tuned_grid.plans(grid, **({"trials": 7, "seeds": 2, "recipe": ("lr",)} | options))
        studies = {plan.name: study for plan, study in tuning_.tune(plans, 1)}
        made = tuned_grid.tuned(grid, plans, studies)
        tuned_grid.write(made, tuned_grid.path(grid))
        found = load_grid(str(tuned_grid.path(grid)))
        assert found == made, "as it was written"
        return found

    return carry_out


def test_every_row_has_its_trials_and_a_stable_rate_that_enters_its_runs(tune: Callable[..., Grid]) -> None:
    grid = small("[full, full_short, uniform, orderdp]")
    tuned = tune(grid)
    assert (tuned.name, tuned.methods, tuned.seeds) == ("g_tuned", grid.methods, 3)
    assert [(one.method, one.keep, one.trials) for one in tuned.tuned] == [
        ("full", 1.0, 7),
        ("full_short", 0.3, 7),
        ("uniform", 0.3, 7),
        ("orderdp", 0.3, 7),
    ]
    for one in tuned.tuned:
        assert one.recipe["lr"] < EDGE < grid.recipe.lr, "it diverges at the recipe's own rate"
        assert one.rates == (0.03, 0.03)
        assert one.spent is not None
        assert one.spent >= 2 * 2 * 27 * 2  # two rungs of two seeds and two epochs end well
    fixed, found = grid.runs(), tuned.runs()
    assert [spec.recipe.lr for spec in found[:4]] == [one.recipe["lr"] for one in tuned.tuned]
    assert [catalog.parse(spec.method)[0] for spec in found[:4]] == grid.methods
    assert {spec.seed for spec in found} == {0, 1, 2}
    assert not {spec.hash for spec in fixed} & {spec.hash for spec in found}


def test_stopped_in_the_middle_it_goes_on_to_the_same_file(
    tune: Callable[..., Grid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = small("[uniform, orderdp]")
    tune(grid)
    whole = tuned_grid.path(grid).read_bytes()
    monkeypatch.setenv("DPBENCH_HOME", str(tmp_path / "other"))
    made = 0

    def stopped(*given: Any, **options: Any) -> dict[str, Any]:
        nonlocal made
        made += 1
        if made in (4, 19):
            raise SystemExit  # which leaves its trial running, as a kill does
        return trained(*given, **options)

    monkeypatch.setattr(trials, "_alive", lambda pid: False)
    monkeypatch.setattr(runner, "run", stopped)
    for _ in range(2):
        with pytest.raises(SystemExit):
            tune(grid)
    assert not tuned_grid.path(grid).exists()
    tune(grid)
    assert tuned_grid.path(grid).read_bytes() == whole


def test_accuracy_is_not_bought_by_pruning_less(tune: Callable[..., Grid]) -> None:
    grid = small("[infobatch]")
    (one,) = tune(grid, trials=12, seeds=1).tuned
    (plan,) = tuned_grid.plans(grid, trials=12, seeds=1, recipe=("lr",))
    refused = [t for t in open_study(plan).trials if "more than 0.32" in t.user_attrs.get("reason", "")]
    assert refused
    assert {t.values[0] for t in refused} == {0.0}
    assert catalog.parse(one.becomes)[1].get("r", 0.7) >= 0.7 - 0.02


def test_no_row_is_tuned_to_be_another_one(home: Path) -> None:
    plans = tuned_grid.plans(small("[infobatch, 'infobatch[match=cost]', uniform]"), trials=5, seeds=1, recipe=("lr",))
    assert [plan.method for plan in plans] == ["infobatch[match=epochs]", "infobatch[match=cost]", "uniform"]
    assert all("match" not in plan.space(0.3) for plan in plans)


def test_a_tuned_grid_is_not_tuned_again() -> None:
    with pytest.raises(UsageError, match="the grid g is tuned already"):
        tuned_grid.plans(change_grid(small("[uniform]"), {"tuned": {"uniform": 5}}))


def test_its_board_names_the_track_and_the_rates(tune: Callable[..., Grid], monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = tune(small("[full, uniform]"))
    monkeypatch.undo()
    cells = grids.run_grid(tuned, Console(file=io.StringIO()), jobs=1, executor=here)
    board = boards.load("g_tuned")
    assert board.cells.keys() == cells.keys()
    assert board.track == "tuned (7 trials a row)"
    assert board.table["lr"].tolist() == [tuned.tuned[1].recipe["lr"], tuned.tuned[0].recipe["lr"]]
    assert board.table["tuning_samples"].tolist() == [tuned.tuned[1].spent, tuned.tuned[0].spent]
    assert boards.unpack(boards.pack(board)).table["stability"].tolist() == [1.0, 1.0], "it needs no study"
    assert "unequal tuning" not in {found.badge for found in board.findings}


def test_the_cells_of_another_tuning_leave_the_grid(home: Path) -> None:
    grid = change_grid(small("[uniform]"), {"tuned": [{"method": "uniform", "recipe": {"lr": 0.2}, "trials": 5}]})
    again = change_grid(grid, {"tuned": [{"method": "uniform", "recipe": {"lr": 0.3}, "trials": 9}]})
    for one in (grid, change_grid(grid, {"seeds": 1}), again):
        cells = {spec.hash: spec for spec in one.runs()}
        listed = grids.write_manifest(one, cells).cells
        assert len(listed) == 3
    assert {spec.recipe.lr for spec in listed.values()} == {0.3}


def test_a_control_at_realised_cost_has_the_rate_that_was_tuned_for_random_per_epoch() -> None:
    rates = {0.3: 0.2, 0.6: 0.4}
    entries = [
        {"method": "uniform_epoch", "keep": keep, "recipe": {"lr": lr}, "trials": 5} for keep, lr in rates.items()
    ]
    entries += [{"method": "infobatch", "recipe": {"lr": 0.01}, "trials": 5}]
    grid = change_grid(small("[uniform_epoch, infobatch]"), {"keep": [0.3, 0.6], "seeds": 1, "tuned": entries})
    for cost, rate in ((0.4, 0.2), (0.5, 0.4)):
        cells = {
            spec.hash: spec for spec in grid.runs() if spec.row[2:] in (("uniform_epoch", 0.3), ("infobatch", 0.3))
        }
        cells |= {spec.hash: spec for spec in grid.runs() if spec.row[2:] == ("uniform_epoch", 0.6)}
        passes = {"samples_forward": 100 * 2 * cost, "samples_backward": 100 * 2 * cost}
        made = {key: result(spec, key, 0.9, passes) for key, spec in cells.items() if spec.method == "infobatch"}
        (control,) = controls.plan(cells, made).values()
        assert (control.method, control.keep, control.recipe.lr) == ("uniform_epoch", cost, rate)
