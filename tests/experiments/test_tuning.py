"""Tuning: exact ratios, validation only, seeds of its own, a budget that survives a kill, and what a study gives."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from dpbench import catalog, store
from dpbench.errors import RunFailed, UsageError
from dpbench.experiments import ladder, trials
from dpbench.experiments import plan as plans
from dpbench.experiments import tuning as tuning_
from dpbench.experiments.plan import SEED, Plan
from dpbench.grid_file import load_grid
from dpbench.reports import study as studies
from dpbench.spec import Grid
from dpbench.training import loading, runner

DATASET = "synthetic[n=100,n_test=50,d=16,classes=4]"  # 90 training samples, 10 for validation
GRID = """\
datasets: ["synthetic[n=100,n_test=50,d=16,classes=4]"]
models: ["mlp[width=8,depth=1]"]
methods: [full]
keep: [0.3]
seeds: 2
recipe: {epochs: 2, batch_size: 16, lr: 0.1}
"""
TWO_PARAMS = """
    class Two(PruningMethod):
        share: float | None = param(None, low=0.2, high=0.9)
        shift: int = param(1, low=0, high=5)

        def select(self, epoch):
            return Selection((torch.arange(self.task.k) + self.shift * epoch) % self.task.n)
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(GRID)
    return path


@pytest.fixture
def plan(home: Path, grid: Path) -> Callable[..., Plan]:
    """Give `plan(method, ...)`: a study of a few seconds."""

    def make(method: str = "orderdp", **changes: Any) -> Plan:
        base: Grid = load_grid(str(grid))
        options = {"dataset": DATASET, "model": base.models[0], "keep": 0.3, "trials": 4, "seeds": 2, "grid": base}
        return Plan(method=method, **(options | changes))

    return make


def carry_out(plan: Plan) -> optuna.Study:
    """Do a study's trials in this process."""
    for slot in range(plan.trials):
        tuning_.do(tuning_.Job(plan, slot))
    return trials.open_study(plan)


def test_every_decomposition_has_exactly_the_same_prune_ratio(plan):
    study = carry_out(plan(keep=0.37))
    for trial in study.trials:
        assert 0.37 <= trial.params["explore"] <= 1
        kept = round(0.37 * 90)
        assert trial.user_attrs["prune_ratio"] == [pytest.approx(1 - kept / 90, abs=1e-12)] * 2
    assert set(study.trials[0].params) == {"explore"}  # the score is fixed unless asked for


def test_other_parameters_are_searched_when_asked(plan):
    assert set(plan(params=("score", "explore")).space(0.3)) == {"score", "explore"}
    assert set(plan("orderdp[explore=0.5]", params=("floor",)).space(0.3)) == {"floor"}
    with pytest.raises(UsageError, match="'nothing' cannot be searched; it declares explore, score"):
        plan(params=("nothing",))


def test_the_objective_reads_no_test_accuracy(plan, monkeypatch, tmp_path):
    before = [trial.value for trial in carry_out(plan(trials=3)).trials]
    real = runner.evaluate

    def blind(learner: Any, loader: Any) -> Any:
        return (0.0, 99.0) if len(loader) == 50 else real(learner, loader)

    monkeypatch.setenv("DPBENCH_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(runner, "evaluate", blind)
    assert [trial.value for trial in carry_out(plan(trials=3)).trials] == before


def test_tuning_and_final_seeds_are_disjoint(plan):
    one = plan(trials=2)
    study = carry_out(one)
    tuning = {store.read_json(path)["spec"]["seed"] for path in (store.home() / "runs").glob("*/result.json")}
    assert tuning == {SEED, SEED + 1}
    (path,) = studies.write_grids(one, study)
    assert not tuning & {spec.seed for spec in load_grid(str(path)).runs()}


def test_the_value_is_the_mean_validation_accuracy_of_the_seeds(plan):
    trial = carry_out(plan(trials=1)).trials[0]
    results = [store.read_json(path) for path in (store.home() / "runs").glob("*/result.json")]
    accuracies = [result["metrics"]["accuracy_validation"] for result in results]
    assert trial.value == pytest.approx(sum(accuracies) / 2)
    assert sorted(trial.user_attrs["accuracy_validation"]) == sorted(accuracies)


def test_a_plug_in_is_tuned_with_no_further_code(plan, plugin):
    path = plugin(TWO_PARAMS)
    study = carry_out(plan(path, trials=3))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    for trial in study.trials:
        assert 0.2 <= trial.params["share"] <= 0.9
        assert trial.params["shift"] in range(6)
    grid = load_grid(str(studies.write_grids(plan(path, trials=3), study)[0]))
    assert any(text.startswith(f"{path}[share=") for text in grid.methods)  # another process finds the file
    assert len(grid.runs()) == 2 * 5


@pytest.mark.parametrize("method", ["uniform", "full"])
def test_a_method_without_parameters_is_refused(plan, method):
    with pytest.raises(UsageError, match="to tune"):
        plan(method)


def test_every_built_in_method_with_parameters_has_a_space(plan):
    names = [name for name in catalog.names("methods") if name != "subset" and plans.declared(name)]
    assert "uniform" not in names
    assert {"orderdp", "infobatch", "ies"} <= set(names)
    for name in names:
        assert plan(name).space(0.3)


def test_pruned_trials_come_on_top_and_leave_no_failed_run(plan, monkeypatch):
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: True)
    one = plan(trials=2)
    study = carry_out(one)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED, TrialState.PRUNED, TrialState.COMPLETE] * 2
    assert [trial.user_attrs["samples_backward"] for trial in study.trials[:3]] == [27, 27, 27 * 2 * 2]  # epochs, seeds
    assert len(list((store.home() / "runs").glob("*/result.json"))) == 2 * 2  # those of the complete trials
    found = studies.summary(one, study)
    assert (found["trials"], found["pruned"], found["failed"]) == (2, 4, 0)


def test_the_default_is_told_by_its_configuration(plan):
    one = plan(trials=2)
    study = trials.open_study(one)
    for explore in (0.5, 0.8):
        study.enqueue_trial({"explore": explore})
    values = [trial.value for trial in carry_out(one).trials]
    assert studies.summary(one, study)["default"] == values[1]
    assert studies.summary(plan("orderdp[score=entropy]", trials=2), study)["default"] is None


def test_an_orphan_that_had_suggested_nothing_keeps_its_place_in_line(plan):
    study = trials.open_study(plan())
    study.enqueue_trial({"explore": 0.5})
    study.ask()  # and dies
    trials.fail_orphans(study, nameless=True)
    assert study.ask().suggest_float("explore", 0.3, 1.0) == 0.5


def test_a_failing_method_is_counted_once_with_its_reason(plan, plugin):
    path = plugin(
        """
        class Broken(PruningMethod):
            share: float = param(0.5, low=0.1, high=0.9)

            def select(self, epoch):
                raise ValueError("no such luck")
        """
    )
    study = carry_out(plan(path, trials=2))
    assert [trial.state for trial in trials.counted(study)] == [TrialState.FAIL] * 2
    assert all("no such luck" in trial.user_attrs["reason"] for trial in study.trials)
    assert ladder.best(study, plan(path, trials=2)) == []


@pytest.mark.parametrize("two", [False, True])
def test_a_trial_that_diverges_is_complete_and_the_worst(plan, two):
    one = plan(trials=1, two_objectives=two)
    recipe = one.grid.recipe.model_copy(update={"lr": 1e30})
    exploding = replace(one, grid=one.grid.model_copy(update={"recipe": recipe}))
    study = carry_out(exploding)
    (trial,) = study.trials
    assert (trial.state, trial.values) == (TrialState.COMPLETE, [0.0, 1.0] if two else [0.0])
    assert trial.user_attrs["reason"].startswith("the training loss became")
    found = studies.summary(exploding, study)
    assert (found["trials"], found["failed"], found["accuracy_validation"]) == (1, 0, 0.0)


def test_one_trial_too_many_is_not_counted(plan):
    one = plan(trials=2)
    study = carry_out(one)
    tuning_.do(tuning_.Job(one, 2))
    assert len(study.trials) == 3
    assert len(trials.counted(study)) == 2


def test_two_objectives_give_a_pareto_front_and_a_grid_for_each_point(plan):
    one = plan(two_objectives=True, trials=5)
    study = carry_out(one)
    for trial in study.trials:
        keep = trial.user_attrs["keep"]
        assert trial.params["explore"] >= keep - 1e-3
        assert trial.user_attrs["prune_ratio"] == [pytest.approx(1 - max(1, round(keep * 90)) / 90, abs=1e-12)] * 2
        assert trial.values[1] == pytest.approx(1 - trial.user_attrs["prune_ratio"][0])  # no cost but training
    front = ladder.best(study, one)
    assert [trial.values[1] for trial in front] == sorted((t.values[1] for t in front), reverse=True)
    paths = studies.write_grids(one, study)
    assert len(paths) == len(front)
    (found,) = load_grid(str(paths[0])).tuned
    assert (found.method, found.trials, found.recipe) == (front[0].user_attrs["method"], 5, {})


def test_a_half_written_line_of_the_journal_is_cut_off(plan):
    one = plan(trials=1)
    carry_out(one)
    path = trials.journal(one)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 4, "wor')
    trials.mend(path)
    assert path.read_bytes() == whole


def test_a_study_in_a_database(plan, tmp_path):
    one = plan(trials=2, storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(trials.counted(carry_out(one))) == 2
    with pytest.raises(UsageError, match="cannot keep the study in nonsense://"):
        trials.open_study(plan(storage="nonsense://here"))


def test_a_journal_that_cannot_be_written_tells_why_and_how_much_is_free(plan, home):
    home.mkdir(exist_ok=True)
    (home / "tune").write_text("in the way")
    with pytest.raises(RunFailed, match=r"journal\.log could not be written: .*; [\d,.]+ MB are free in"):
        trials.open_study(plan())


def finished(path: Path, name: str) -> int:
    """How many trials the study of another process has finished."""
    try:
        study = optuna.load_study(
            study_name=name, storage=optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        )
    except (KeyError, ValueError):
        return 0
    return len(trials.counted(study))


def test_killed_and_started_again_it_ends_with_exactly_its_trials(tracked_home, grid, plan):
    one = plan(trials=7)
    arguments = ["tune", "orderdp", "--dataset", DATASET, "--keep", "0.3", "--trials", "7", "--seeds", "2"]
    command = [sys.executable, "-m", "dpbench.cli", *arguments, "--grid", str(grid), "--jobs", "2"]
    surroundings = {"cwd": tracked_home.parent, "env": os.environ | {"DPBENCH_HOME": str(tracked_home)}}
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **surroundings)
    path = one.folder / "journal.log"
    end = time.monotonic() + 300  # for a loaded machine
    while not path.is_file() or finished(path, one.name) < 2:
        assert first.poll() is None, "it ended before it was killed"
        assert time.monotonic() < end, "too slow"
        time.sleep(0.3)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = subprocess.run(command, capture_output=True, text=True, **surroundings)
    assert second.returncode == 0, second.stderr
    assert f"dpbench run {one.folder / 'best.yaml'}" in second.stdout.replace("\n", "")

    study = optuna.load_study(
        study_name=one.name, storage=optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    )
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 7
    cut_off = states.count(TrialState.FAIL)
    assert cut_off <= 2  # at most what the two workers were at
    assert len(states) == 7 + states.count(TrialState.PRUNED) + cut_off

    # the best configuration's grid runs
    best = load_grid(str(one.folder / "best.yaml"))
    assert "orderdp" in best.methods or any(text.startswith("orderdp[") for text in best.methods)
    data = loading.fingerprints(best.datasets, None)
    spec = next(spec for spec in best.runs(data) if spec.method.startswith("orderdp"))
    assert runner.run(spec, torch.device("cpu"))["status"] == "FINISHED"

    # trials are children of the study's run
    from dpbench.reports.tracking import Tracker

    client = Tracker(f"sqlite:///{tracked_home / 'mlflow.db'}").client
    experiment = client.get_experiment_by_name(f"tune orderdp {plans.slug(DATASET)}")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(trials.ended(study))
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"best.yaml", "figures"} <= artifacts
    assert catalog.parse("orderdp")[0] in parent.info.run_name


LOG = """
    class Log(PruningMethod):
        rate: float = param(0.1, low=0, high=1, log=True)

        def select(self, epoch):
            return Selection(torch.arange(self.task.k))
"""


def test_a_logarithm_from_zero_is_told_where_it_is_declared(plan, plugin):
    with pytest.raises(UsageError, match=r"ValueError: param\(0\.1, low=0, high=1, log=True, .* has low above 0$"):
        plan(plugin(LOG))


@pytest.mark.parametrize("option", ["trials", "seeds"])
@pytest.mark.parametrize("value", [0, -1, 10_001, 10**20])
def test_a_number_of_trials_or_seeds_that_is_none(plan, option, value):
    with pytest.raises(UsageError, match=f"--{option} {value}: a number from 1 to 10,000"):
        plan(**{option: value})


@pytest.mark.parametrize("where", ["", "/"])
def test_a_folder_is_no_journal(plan, tmp_path, where):
    for path in (f"{tmp_path}{where}", "/", "."):
        with pytest.raises(UsageError, match=r"is a folder; give a database's URL or the path of a file"):
            list(tuning_.tune([plan(storage=path)], 1))


def test_a_study_of_any_names_has_an_ascii_folder():
    assert plans.slug("\u00e9t\u00e9-digits[n=1]") == "t-digits-n-1"
