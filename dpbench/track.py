"""MLflow: results are sent from the run folders, and can be sent again; the leaderboard is an experiment too."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from dpbench import render, store, verdicts
from dpbench.errors import RunFailed, UsageError
from dpbench.leaderboard import records

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Metric

VIEW = "leaderboard"  # the key of the saved view
COLUMNS = (  # the leaderboard's columns that are visible without a click
    "metrics.`rank`",
    "params.`method`",
    "params.`keep`",
    "tags.`accuracy`",
    "tags.`to random`",
    "tags.`at its cost`",
    "metrics.`prune_ratio`",
    "metrics.`time_total_s`",
    "metrics.`jaccard_epochs`",
    "metrics.`gradient_cosine`",
)
WIDTHS = {  # so that all fit a laptop's screen
    "attributes.`Run Name`": 60,  # method and keep have columns of their own
    "runDateAndNestInfo": 50,
    "metrics.`rank`": 60,
    "params.`method`": 115,
    "params.`keep`": 50,
    "params.`seed`": 50,
    "tags.`accuracy`": 95,
    "tags.`to random`": 110,
    "tags.`at its cost`": 110,
}
RUN_COLUMNS = (
    "params.`method`",
    "params.`keep`",
    "params.`seed`",
    "metrics.`accuracy`",
    "metrics.`prune_ratio`",
    "metrics.`forward_saving`",
    "metrics.`time_total_s`",
    "metrics.`jaccard_epochs`",
    "metrics.`gradient_cosine`",
)
CURVES = ("accuracy", "accuracy_validation", "loss_test", "loss_train", "gradient_norm")  # the last value is the run's
CURVES_OF_MEANS = ["prune_ratio", "jaccard_epochs", "jaccard_epochs_chance", "gradient_cosine", "gradient_norm_ratio"]
CURVES_OF_MEANS += ["gradient_cosine_surrogate", "gradient_norm_ratio_surrogate"]


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite file in the results' folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.home() / 'mlflow.db'}"


def check_reachable(uri: str) -> None:
    """Refuse a server that does not answer, at once rather than after MLflow's minutes of retries."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        address = urlsplit(uri)
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the tracking server {uri} cannot be reached: {error}; start it, or give another --tracking-uri"
        ) from None


class Tracker:
    """A tracking server, or a local database."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or default_uri()
        check_reachable(self.uri)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # importing MLflow sets their levels
            logging.getLogger(name).setLevel(logging.WARNING)

        try:
            if self.uri.startswith("sqlite:///"):
                Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self.client: MlflowClient = MlflowClient(tracking_uri=self.uri)
            self.client.search_experiments(max_results=1)  # creates a new database
        except Exception as error:  # a bad address, a missing driver, a file that is no database
            raise UsageError(f"cannot track to {self.uri}: {' '.join(str(error).split())}") from None

    def experiment(self, name: str, columns: Iterable[str], order: str, ascending: bool, note: str = "") -> str:
        """Return the id of an experiment, made if it is new, with its saved view and description."""
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        if found is not None:
            key = found.experiment_id
        else:
            local = self.uri.startswith("sqlite:")
            location = str(store.home() / "artifacts" / name) if local else None
            key = self.client.create_experiment(name, artifact_location=location)
        view = {
            "selectedColumns": list(columns),
            "columnOrder": ["attributes.`Run Name`", *columns, "duration", "runDateAndNestInfo"],
            "columnWidths": WIDTHS | {column: WIDTHS.get(column, 76) for column in columns},
            "orderByKey": order,
            "orderByAsc": ascending,
            "searchFilter": "",
            "viewMaximized": False,
            "runListHidden": False,
        }
        self.client.set_experiment_tag(key, f"mlflow.sharedViewState.{VIEW}", json.dumps(view))
        self.client.set_experiment_tag(key, "mlflow.experimentKind", "custom_model_development")
        if note:
            self.client.set_experiment_tag(key, "mlflow.note.content", note)
        return str(key)

    def sent(self, experiment: str) -> dict[tuple[str, str], str]:
        """The runs that are there: (hash, status) to run id."""
        found: dict[tuple[str, str], str] = {}
        token = None
        while True:
            page = self.client.search_runs([experiment], max_results=1000, page_token=token)
            for run in page:
                found[(run.data.tags.get("dpbench.hash", ""), run.info.status)] = run.info.run_id
            token = page.token
            if not token:
                return found

    def send_runs(self, grid: str, results: Iterable[dict[str, Any]]) -> str:
        """Send the results that are not there yet, in the place of older tries; return the id of the experiment."""
        experiment = self.experiment(grid, RUN_COLUMNS, "metrics.`accuracy`", False, f"The runs of the grid `{grid}`.")
        sent = self.sent(experiment)
        for result in results:
            if (result["hash"], result["status"]) in sent:
                continue
            for (key, _), run_id in sent.items():
                if key == result["hash"]:
                    self.client.delete_run(run_id)
            self._send_run(experiment, grid, result)
        return experiment

    def _send_run(self, experiment: str, grid: str, result: dict[str, Any]) -> None:
        """Log one run: parameters, metrics in one batch, curves, and its files as artifacts."""
        from mlflow.entities import Param, RunTag

        spec, started = result["spec"], int(result["started"] * 1000)
        title = f"{spec['method']} keep={spec['keep']:g} seed={spec['seed']}"
        tags = {"dpbench.hash": result["hash"], "dpbench.grid": grid}
        if result["status"] == "FAILED":
            tags |= {"dpbench.reason": result["reason"], "mlflow.note.content": f"**Failed:** {result['reason']}"}
        run = self.client.create_run(experiment, start_time=started, run_name=title, tags=tags)
        params = {name: spec[name] for name in ("method", "dataset", "model", "keep", "seed")}
        params |= {"budget": spec["budget"]["unit"], "hash": result["hash"]} | result["environment"]
        params |= {f"recipe.{key}": value for key, value in spec["recipe"].items()}
        params |= {f"method.{key}": value for key, value in result.get("hyperparameters", {}).items()}
        self.client.log_batch(
            run.info.run_id,
            metrics=_metrics(result, started),
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag("mlflow.source.name", "dpbench")],
        )
        folder = store.run_folder(result["hash"])
        for name in ("result.json", "selections.npz", "traceback.txt"):
            if (folder / name).is_file():
                self.client.log_artifact(run.info.run_id, str(folder / name))
        self.client.set_terminated(run.info.run_id, result["status"], int(result.get("ended", time.time()) * 1000))

    def send_leaderboard(
        self, grid: str, runs_experiment: str, table: pd.DataFrame, note: str, files: Iterable[Path]
    ) -> str:
        """Write the leaderboard's experiment, one run a row, rows that are there updated in place; return its id.

        The files are artifacts of one row, which keeps them as long as it is there; the description links to them.
        """
        from mlflow.entities import Metric, Param, RunTag

        experiment = self.experiment(f"{grid} leaderboard", COLUMNS, "metrics.`rank`", True)
        rows = {
            run.data.tags.get("dpbench.row", ""): run
            for run in self.client.search_runs([experiment], max_results=50_000)
        }
        now = int(time.time() * 1000)
        keys = {}
        for row in records(table):
            params = {name: str(row[name]) for name in ("method", "dataset", "model", "keep", "kind")}
            key = json.dumps(params)
            query = " and ".join(f"params.{name} = '{params[name]}'" for name in ("method", "dataset", "model", "keep"))
            link = f"#/experiments/{runs_experiment}/runs?searchFilter={quote(query)}"
            text = f"[The runs of this row]({link})" + (f"\n\n**Failed:** {row['reason']}" if row["reason"] else "")
            old = rows.pop(key, None)
            if old is None:
                name = f"{row['method']} keep={row['keep']:g}"
                run_id = self.client.create_run(experiment, run_name=name, tags={"dpbench.row": key}).info.run_id
                self.client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])
            else:
                run_id = old.info.run_id
            metrics = [
                Metric(str(name), round(float(value), 4), now, 0)
                for name, value in row.items()
                if isinstance(value, int | float) and not isinstance(value, bool) and name != "keep" and value == value
            ]
            keys[key] = run_id
            texts = {"mlflow.note.content": text, "accuracy": render.accuracy(row)}
            texts["to random"] = render.difference(row, "uniform")
            texts["at its cost"] = render.difference(row, verdicts.AT_COST)
            verdict = ("verdict_uniform", f"verdict_{verdicts.AT_COST}", "verdict_full", "equivalence_full")
            texts |= {name: row[name] for name in verdict if row[name]}
            self.client.log_batch(run_id, metrics=metrics, tags=[RunTag(name, value) for name, value in texts.items()])
            self.client.set_terminated(run_id, "FINISHED" if row["seeds"] else "FAILED")
        for old in rows.values():
            self.client.delete_run(old.info.run_id)
        self._attach(experiment, list(keys.values()), note, files)
        return experiment

    def _attach(self, experiment: str, runs: list[str], note: str, files: Iterable[Path]) -> None:
        """Log the files to the run that has them already, else to the first, and link to it in the description."""
        old = self.client.get_experiment(experiment).tags.get("dpbench.files", "")
        run = old if old in runs else runs[0]
        for file in files:
            self.client.log_artifact(run, str(file))
        link = f"[Figures, the page as one HTML file, and tables](#/experiments/{experiment}/runs/{run}/artifacts)"
        self.client.set_experiment_tag(experiment, "dpbench.files", run)
        self.client.set_experiment_tag(experiment, "mlflow.note.content", f"{link}\n\n{note}")


def _metrics(result: dict[str, Any], timestamp: int) -> list[Metric]:
    """The run's metrics, with the epoch as step."""
    from mlflow.entities import Metric

    records = result.get("epochs", [])
    final = len(records)
    metrics = [
        Metric(name, value, timestamp, final)
        for name, value in result.get("metrics", {}).items()
        if value is not None and name not in CURVES
    ]
    for record in records:
        for name, value in record.items():
            if value is None:
                continue
            if name in CURVES:
                metrics.append(Metric(name, value, timestamp, record["epoch"] + 1))
            elif name in CURVES_OF_MEANS:
                metrics.append(Metric(f"{name}_by_epoch", value, timestamp, record["epoch"] + 1))
    return metrics


def address(server: str, experiment: str) -> str:
    """The page of an experiment in the UI with its saved view: its columns visible, its order set."""
    view = f"viewStateShareKey={VIEW}&compareRunsMode=TABLE&workflowType=machine_learning"
    return f"{server}/#/experiments/{experiment}/runs?{view}"


def is_serving(port: int) -> bool:
    """Whether something answers on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until_serving(port: int, seconds: float, alive: Any) -> None:
    """Wait for the UI's server to answer on this machine."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not alive():
            raise RunFailed("the MLflow server ended at once; is the port in use? try --port")
        if is_serving(port):
            return
        time.sleep(0.2)
    raise RunFailed(f"the MLflow server did not answer within {seconds:.0f} s")
