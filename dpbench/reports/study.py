"""What a study gives: its best configuration as a grid, figures, a summary, and its trials in MLflow."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from dpbench import catalog, store
from dpbench.errors import Untracked
from dpbench.experiments.executors import Executor
from dpbench.experiments.ladder import accuracy, best, mean, rates_that_work
from dpbench.experiments.plan import SEED, Plan, of_recipe, slug
from dpbench.experiments.trials import counted, ended, spent
from dpbench.experiments.tuning import tune
from dpbench.reports.tracking import Tracker
from dpbench.spec import canonical
from dpbench.tuned import Tuned


@dataclass(frozen=True)
class Outcome:
    """A study that was carried out: its numbers and the grids of its best configurations."""

    summary: dict[str, Any]
    grids: list[Path]


def run(plan: Plan, jobs: int, tracking_uri: str | None, console: Console, executor: Executor | None = None) -> Outcome:
    """Carry out a study; write and send what it gives. MLflow's failure is a warning."""
    study = carry_out([plan], jobs, plan.name, console, executor)[plan.name]
    grids = write_grids(plan, study)
    with console.status("drawing, and sending to MLflow"):
        files = [*figures(plan, study), *grids]
        try:
            publish(plan, study, Tracker(tracking_uri), files)
        except Untracked as error:
            text = f"warning: {error}; the same command sends the study again"
            console.print(text, style="yellow", markup=False, soft_wrap=True)
    return Outcome(summary(plan, study), grids)


def carry_out(
    plans: Sequence[Plan], jobs: int, title: str, console: Console, executor: Executor | None = None
) -> dict[str, optuna.Study]:
    """Carry out the studies and return them by name; one bar shows the trials of all."""
    studies: dict[str, optuna.Study] = {}
    done: dict[str, int] = {}
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console) as progress:
        bar = progress.add_task(title, total=sum(plan.trials for plan in plans))
        for plan, study in tune(plans, jobs, executor):
            studies[plan.name], done[plan.name] = study, len(counted(study))
            row = f", {plan.method} keep={plan.keep:g}" if len(plans) > 1 else ""
            progress.update(bar, completed=sum(done.values()), description=escape(title + row))
    return studies


def table(summaries: Iterable[dict[str, Any]]) -> Table:
    """The studies side by side, for the terminal."""
    view = Table(title="Tuned on the validation samples", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("study of", "trials", "+ pruned", "failed", "backward", "time s", "default %", "best %"):
        view.add_column(name, justify="left" if name == "study of" else "right")
    view.add_column("best configuration", overflow="fold")
    for found in summaries:
        shares = [
            f"{100 * value:.2f}" if value is not None else "-"
            for value in (found["default"], found["accuracy_validation"])
        ]
        counts = [str(found[name]) for name in ("trials", "pruned", "failed")]
        spent = [f"{found['samples_backward']:,}", f"{found['seconds']:.0f}"]
        view.add_row(*map(escape, [found["method"], *counts, *spent, *shares, found["best"] or "-"]))
    return view


def default_trial(plan: Plan, study: optuna.Study) -> FrozenTrial | None:
    """The complete trial of the configuration that is tuned, as it was given."""
    done = (t for t in counted(study) if t.state == TrialState.COMPLETE and t.user_attrs["keep"] == plan.keep)
    own = of_recipe(plan.default)
    done = (t for t in done if t.user_attrs["recipe"] == own)
    return next((t for t in done if canonical(t.user_attrs["method"]) == canonical(plan.text({}))), None)


def write_grids(plan: Plan, study: optuna.Study) -> list[Path]:
    """Write best.yaml: the best configuration with its controls, to be run on the test set with fresh seeds.

    With two objectives best.yaml has the most accurate configuration, pareto-2.yaml and so on the others.
    """
    for old in plan.folder.glob("pareto-*.yaml"):
        with store.told(old):
            old.unlink()
    paths = []
    for place, trial in enumerate(best(study, plan), start=1):
        path = plan.folder / ("best.yaml" if place == 1 else f"pareto-{place}.yaml")
        methods = ["full", "uniform", "uniform_epoch", plan.text({}), trial.user_attrs["method"]]
        unique = {canonical(text): text for text in reversed(methods)}
        found = Tuned(
            method=canonical(trial.user_attrs["method"]),
            recipe=trial.user_attrs["recipe"],
            trials=len(counted(study)),
            spent=spent(study),
            rates=rates_that_work(study),
        )
        grid = plan.grid.model_copy(
            update={
                "name": plan.name if place == 1 else f"{plan.name}-{place}",
                "description": f"Tuned by {len(counted(study))} trials of {plan.seeds} seeds; these seeds are fresh.",
                "datasets": [catalog.elsewhere("datasets", plan.dataset)],
                "models": [catalog.elsewhere("models", plan.model)],
                "methods": list(reversed(unique.values())),
                "keep": [trial.user_attrs["keep"]],
                "tuned": [found],
            }
        )
        text = yaml.safe_dump(grid.model_dump(exclude_none=True), sort_keys=False, width=1000)
        store.write(path, lambda file: file.write_text(text))  # noqa: B023
        paths.append(path)
    return paths


def figures(plan: Plan, study: optuna.Study) -> list[Path]:
    """Draw Optuna's figures as PNG files."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as draw

    from dpbench.reports.panels import end_at

    paths = []
    accuracy = {"target": lambda t: t.values[0], "target_name": "validation accuracy"}
    wanted: dict[str, dict[str, Any]] = {"slice": accuracy, "edf": accuracy, "timeline": {}}
    if plan.two_objectives:
        wanted |= {"pareto_front": {"target_names": ["validation accuracy", "cost"]}}
    else:
        wanted |= {"optimization_history": accuracy, "intermediate_values": {}}
    if len(plan.space(plan.keep)) + plan.two_objectives > 1:
        wanted |= {"param_importances": accuracy, "parallel_coordinate": accuracy, "contour": accuracy}
    for name, options in wanted.items():
        try:
            with warnings.catch_warnings(action="ignore"):  # what is experimental, and what does not fit
                getattr(draw, f"plot_{name}")(study, **options)
                end_at(plt.gcf(), 1)
                path = plan.folder / "figures" / f"{name}.png"
                store.write(path, lambda file: plt.savefig(file, format="png", dpi=120, bbox_inches="tight"))
            paths.append(path)
        except (ValueError, RuntimeError):  # importances of values that are all equal, say, have no figure
            pass
        finally:
            plt.close("all")
    return paths


def publish(plan: Plan, study: optuna.Study, tracker: Tracker, files: Iterable[Path]) -> None:
    """Send the study to MLflow: one parent run, one child a trial, each once. Raises Untracked."""
    with tracker.sending():
        _publish(plan, study, tracker, files)


def _publish(plan: Plan, study: optuna.Study, tracker: Tracker, files: Iterable[Path]) -> None:
    from mlflow.entities import Metric

    client = tracker.client
    columns = ("metrics.`accuracy_validation`", "metrics.`cost`", "metrics.`prune_ratio`", "params.`method`")
    note = "Validation accuracy of tuning runs. Final figures come from the best configuration's grid."
    title = f"tune {plan.short} {slug(plan.dataset)}"
    experiment = tracker.experiment(title, columns, columns[0], False, note)
    sent = tracker.runs(experiment, "dpbench.study")
    if plan.name in sent:
        parent = sent[plan.name][0].info.run_id
    else:
        parent = client.create_run(experiment, run_name=plan.name, tags={"dpbench.study": plan.name}).info.run_id
    fixed = {"method": plan.method, "dataset": plan.dataset, "model": plan.model, "keep": plan.keep}
    fixed |= {"seeds": f"{SEED}..{SEED + plan.seeds - 1}", "params": ", ".join(plan.space(plan.keep))}
    tracker.log(parent, {}, fixed)
    states = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
    for trial in ended(study):
        key = f"{plan.name}/{trial.number}"
        old = sent.get(key, [])
        if any(run.info.status != "RUNNING" for run in old):
            continue
        for run in old:  # a command was killed while it sent it
            client.delete_run(run.info.run_id)
        began, done = (int(t.timestamp() * 1000) if t else 0 for t in (trial.datetime_start, trial.datetime_complete))
        tags = {"dpbench.study": key, "mlflow.parentRunId": parent}
        run_id = client.create_run(experiment, began, tags, f"trial {trial.number}").info.run_id
        params = {"method": trial.user_attrs.get("method", plan.method), "state": trial.state.name, **trial.params}
        params |= {"reason": trial.user_attrs["reason"]} if "reason" in trial.user_attrs else {}
        means = {
            name: mean(trial.user_attrs[name])
            for name in ("accuracy_validation", "cost", "prune_ratio")
            if name in trial.user_attrs
        }
        curve = [
            Metric("accuracy_validation_by_epoch", value, done, step)
            for step, value in trial.intermediate_values.items()
        ]
        tracker.log(run_id, {}, params, [Metric(name, value, done, 0) for name, value in means.items()] + curve)
        client.set_terminated(run_id, states[trial.state], done)
    for name, value in summary(plan, study).items():
        if isinstance(value, int | float):
            client.log_metric(parent, name, value)
    for file in files:
        client.log_artifact(parent, str(file), "figures" if file.suffix == ".png" else None)
    client.set_terminated(parent, "FINISHED")


def summary(plan: Plan, study: optuna.Study) -> dict[str, Any]:
    """The study in numbers: trials by state, the budget spent, the best validation accuracy and the default's."""
    trials, chosen, default = ended(study), best(study, plan), default_trial(plan, study)
    states = [t.state for t in trials]
    return {
        "method": plan.method,
        "trials": len(counted(study)),
        "pruned": states.count(TrialState.PRUNED),
        "failed": states.count(TrialState.FAIL),
        "samples_backward": spent(study),
        "seconds": sum(t.duration.total_seconds() for t in trials if t.duration),
        "default": accuracy(default) if default else None,
        "accuracy_validation": accuracy(chosen[0]) if chosen else None,
        "reason": next((t.user_attrs["reason"] for t in trials if t.state == TrialState.FAIL), ""),  # of a failed one
        "best": _configuration(chosen[0]) if chosen else None,
    }


def _configuration(trial: FrozenTrial) -> str:
    own = trial.user_attrs
    values = [f"{name}={value:g}" for name, value in own["recipe"].items()]
    return " ".join([canonical(own["method"]), f"keep={own['keep']:g}", *values])
