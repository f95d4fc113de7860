"""Send a grid's runs to MLflow, each with its parameters, metrics, curves and files."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dpbench import store
from dpbench.analysis import gallery
from dpbench.analysis.table import Line
from dpbench.errors import RunFailed, UsageError
from dpbench.reports.tracking import CONTENT, NOTE, RUN_COLUMNS, SENDER, Tracker, digest, fit, sender
from dpbench.training.measures import MEASURES
from dpbench.training.results import RunResult, is_finished

if TYPE_CHECKING:
    from mlflow.entities import Metric

MOST_PICTURES = 500  # runs of a grid, lest sending takes minutes for them; the rows have theirs


def send_runs(
    tracker: Tracker, grid: str, results: Iterable[RunResult], data_root: Path | None = None
) -> tuple[str, int]:
    """Send the results that are not there, in the place of older tries; return the experiment's id and their number.

    Each has a picture of the samples that it used most and least, in a grid of at most MOST_PICTURES runs.
    """
    # by dataset, since the pictures need its data
    results = sorted(results, key=lambda one: str(one["spec"]["dataset"]))
    several = several_of(result["spec"] for result in results)
    note = f"The runs of the grid `{grid}`."
    experiment = tracker.experiment(grid, RUN_COLUMNS, "metrics.`accuracy`", False, note)
    there, count = tracker.runs(experiment, "dpbench.hash"), 0
    for result in results:
        content, old = digest(result), there.get(result["hash"], [])
        whole = [run for run in old if run.data.tags.get(CONTENT) == content and run.info.status != "RUNNING"]
        if not whole:
            title = f"{title_of(result['spec'])} seed {result['spec']['seed']}{where_of(result['spec'], several)}"
            _send_run(tracker, experiment, grid, result, content, title, data_root, len(results) <= MOST_PICTURES)
            count += 1
        tracker.remove([run for run in old if run not in whole[:1]])
    return experiment, count


def several_of(rows: Iterable[Line]) -> list[str]:
    """Which of dataset and model differ between rows or runs: only these need to be named."""
    named = {(row["dataset"], row["model"]) for row in rows}
    return [name for i, name in enumerate(("dataset", "model")) if len({names[i] for names in named}) > 1]


def title_of(row: Line) -> str:
    """For instance "orderdp 0.3"."""
    return f"{row['method']} {row['keep']:g}"


def where_of(row: Line, several: list[str]) -> str:
    """For instance " on digits, cnn", empty where the grid has one dataset and model."""
    return f" on {', '.join(row[name] for name in several)}" if several else ""


def _send_run(
    tracker: Tracker,
    experiment: str,
    grid: str,
    result: RunResult,
    content: str,
    title: str,
    data_root: Path | None,
    pictured: bool,
) -> None:
    """Log one run: parameters, metrics, curves, and its files as artifacts. Its status comes last: then it is whole."""
    spec, started = result["spec"], int(result["started"] * 1000)
    tags = {"dpbench.hash": result["hash"], "dpbench.grid": grid, SENDER: sender()}
    run_id = tracker.client.create_run(experiment, started, tags, fit(title)).info.run_id
    tags = {CONTENT: content, "status": result["status"], "mlflow.source.name": "dpbench"}
    if reason := result.get("reason"):
        tags |= {"dpbench.reason": reason, NOTE: f"**{result['status'].capitalize()}:** {reason}"}
    params = {name: spec[name] for name in ("method", "dataset", "model", "keep", "seed")}
    params |= {"budget": spec["budget"]["unit"], "hash": result["hash"]} | result["environment"]
    params |= {f"recipe.{key}": value for key, value in spec["recipe"].items()}
    params |= {f"method.{key}": value for key, value in result.get("hyperparameters", {}).items()}
    tracker.log(run_id, tags, params, _metrics(result, started))
    folder = store.run_folder(result["hash"])
    for name in ("result.json", "selections.npz", "predictions.npz", "traceback.txt"):
        if (folder / name).is_file():
            tracker.client.log_artifact(run_id, str(folder / name))
    if pictured and is_finished(result):
        with suppress(UsageError, RunFailed):  # its data is not here, which the board's note tells
            if shown := tracker.picture(run_id, partial(gallery.sheet_of_run, result, data_root)):
                tracker.log(run_id, {NOTE: shown})
    status = "FAILED" if result["status"] == "FAILED" else "FINISHED"  # MLflow has no word for a run that diverged
    tracker.client.set_terminated(run_id, status, int((result.get("ended") or time.time()) * 1000))


def _metrics(result: RunResult, timestamp: int) -> list[Metric]:
    """The run's metrics, with the epoch as step."""
    from mlflow.entities import Metric

    records = result.get("epochs", [])
    final = len(records)
    curves = {one.name for one in MEASURES if one.by_epoch == "last"}  # the last value is the run's
    others = {one.name for one in MEASURES if one.by_epoch in ("mean", "total")}
    metrics = [
        Metric(name, value, timestamp, final) for name, value in result.get("metrics", {}).items() if name not in curves
    ]
    for epoch, record in enumerate(records, 1):
        for name, value in record.items():
            if name in curves:  # NaN is a gap, lest an older epoch's value stand for the run
                metrics.append(Metric(name, value, timestamp, epoch))
            elif name in others and not math.isnan(value):
                metrics.append(Metric(f"{name}_by_epoch", value, timestamp, epoch))
    return metrics
