"""MLflow's client: a server, or the SQLite file of the results' folder, which can be made again from that folder."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from filelock import FileLock, Timeout

from dpbench import store
from dpbench.errors import RunFailed, Untracked, UsageError, redact
from dpbench.reports import database
from dpbench.training.measures import MEASURES

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

VIEW = "leaderboard"  # the key of the saved view
VIEWED = f"viewStateShareKey={VIEW}&compareRunsMode=TABLE&workflowType=machine_learning"  # the saved view in a URL
LIMIT = 5000  # characters of a tag or parameter in every MLflow that may be installed
AT_ONCE = 1000  # metrics of one request
NOTE = "mlflow.note.content"  # the tag with the description of a run or an experiment
CONTENT = "dpbench.content"  # the tag with the digest of what was sent
SENDER = "dpbench.sender"
WAIT_S = 60.0  # for another dpbench that sends
COLUMNS = (  # the leaderboard's columns that are visible without a click
    "metrics.`rank`",
    "params.`method`",
    "params.`keep`",
    "tags.`accuracy`",
    "tags.`to random`",
    "tags.`at its cost`",
    *(f"metrics.`{one.name}`" for one in MEASURES if one.main),
)
WIDTHS = {  # so that all fit a laptop's screen
    "attributes.`Run Name`": 60,  # method and keep have columns of their own
    "runDateAndNestInfo": 50,
    "metrics.`rank`": 46,
    "params.`method`": 125,
    "params.`keep`": 45,
    "params.`seed`": 50,
    "tags.`accuracy`": 108,
    "tags.`to random`": 128,
    "tags.`at its cost`": 128,
}
RUN_COLUMNS = (
    "params.`method`",
    "params.`keep`",
    "params.`seed`",
    "metrics.`accuracy`",
    *(f"metrics.`{one.name}`" for one in MEASURES if one.main and one.derive is None),
)


def fit(text: str, limit: int = LIMIT) -> str:
    """A text that MLflow takes; what is longer lies whole in the run's files."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def reason(error: BaseException) -> str:
    """What MLflow or its database complains of, in one line without SQL and passwords."""
    text = re.split(r"\[SQL:|\(Background on this error", str(error) or type(error).__name__)[0]
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full or "disk is full" in text or "disk I/O error" in text:
        folder = next(parent for parent in (store.home(), *store.home().parents) if parent.is_dir())
        text += f" ({shutil.disk_usage(folder).free / 1e6:,.1f} MB are free in {folder})"
    return fit(redact(" ".join(text.split())), 500)


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
        reach = f"the tracking server {redact(uri)} cannot be reached: {error}"
        raise Untracked(f"{reach}; start it, or give another --tracking-uri") from None


def check(tracking_uri: str | None) -> None:
    """Refuse a --tracking-uri that cannot be used, before any work; without one nothing is asked of MLflow yet."""
    if tracking_uri is not None:
        try:
            Tracker(tracking_uri)
        except Untracked as error:
            raise UsageError(str(error)) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow's own lines and warnings from the screen."""
    for name, level in (("mlflow", logging.CRITICAL), ("alembic", logging.ERROR), ("urllib3", logging.ERROR)):
        logging.getLogger(name).setLevel(level)
    with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        yield


class Tracker:
    """A tracking server or database; `name` is its URI without passwords, `mended` tells of a database made again."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or default_uri()
        self.name, self.mended = redact(self.uri), ""
        own = store.home() / "mlflow.db"
        given = uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.database = database.path_of(self.uri) if given else own
        self.lock = Path(f"{self.database or own}.lock")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        with self._told():
            check_reachable(self.uri)
            from mlflow import MlflowClient

            with quiet():  # importing MLflow sets the levels of its loggers
                if self.database:
                    self.lock.parent.mkdir(parents=True, exist_ok=True)
                    with FileLock(self.lock, timeout=WAIT_S):
                        self.mended = database.prepare(self.database, own=self.database == own)
                    self.uri = database.url(self.database)
                self.client: MlflowClient = MlflowClient(tracking_uri=self.uri)
                self.client.search_experiments(max_results=1)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Be the only one that sends from this folder; whatever goes wrong is raised as Untracked."""
        with self._told():
            self.lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.lock.with_suffix(".sending"), timeout=WAIT_S), quiet():
                yield

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raise every exception as one line: a bad address, a missing driver, a file that is no database, ..."""
        try:
            yield
        except Untracked:
            raise
        except Timeout:
            raise Untracked(f"cannot track to {self.name}: another dpbench has been at it for {WAIT_S:.0f} s") from None
        except Exception as error:
            raise Untracked(f"cannot track to {self.name}: {reason(error)}") from error

    def experiment(self, name: str, columns: Iterable[str], order: str, ascending: bool, note: str = "") -> str:
        """Return the id of an experiment, made if it is new, with its saved view and description."""
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        if found is not None:
            key = found.experiment_id
        else:
            location = database.artifacts(self.database, name) if self.database else None
            key = self.client.create_experiment(name, artifact_location=location)
        view = {
            "selectedColumns": list(columns),
            "columnOrder": ["attributes.`Run Name`", *columns, "duration", "runDateAndNestInfo"],
            "columnWidths": WIDTHS | {column: WIDTHS.get(column, 64) for column in columns},
            "orderByKey": order,
            "orderByAsc": ascending,
            "searchFilter": "",
            "viewMaximized": False,
            "runListHidden": False,
        }
        self.client.set_experiment_tag(key, database.VIEW, json.dumps(view))
        self.client.set_experiment_tag(key, "mlflow.experimentKind", "custom_model_development")
        if note:
            self.client.set_experiment_tag(key, NOTE, fit(note))
        return str(key)

    def runs(self, experiment: str, tag: str) -> dict[str, list[Run]]:
        """The runs that are there, by the value of a tag, the oldest first."""
        found: dict[str, list[Run]] = {}
        token = None
        while True:
            page = self.client.search_runs([experiment], max_results=1000, page_token=token, order_by=["start_time"])
            for run in page:
                found.setdefault(run.data.tags.get(tag, ""), []).append(run)
            token = page.token
            if not token:
                return found

    def remove(self, runs: Iterable[Run]) -> None:
        """Delete runs that have no place any more, but none that another machine may be sending."""
        for run in runs:
            half_sent_elsewhere = run.info.status == "RUNNING" and run.data.tags.get(SENDER, sender()) != sender()
            if self.database or not half_sent_elsewhere:
                self.client.delete_run(run.info.run_id)

    def picture(self, run_id: str, draw: Callable[[Path], bool]) -> str:
        """Log the picture of samples that `draw` writes, if it does; return the text that shows it."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "samples.png"
            if not draw(file):
                return ""
            self.client.log_artifact(run_id, str(file))
        return f"Samples used most and least:\n\n{image(run_id, file.name)}"

    def log(
        self,
        run_id: str,
        tags: dict[str, str],
        params: dict[str, Any] | None = None,
        metrics: Sequence[Metric] = (),
    ) -> None:
        """Log by as few requests as MLflow's limits allow, long texts cut."""
        from mlflow.entities import Param, RunTag

        marks = [RunTag(name, fit(text)) for name, text in tags.items()]
        texts = [Param(name, fit(str(value))) for name, value in (params or {}).items()]
        self.client.log_batch(run_id, tags=marks, params=texts)
        for start in range(0, len(metrics), AT_ONCE):
            self.client.log_batch(run_id, metrics=metrics[start : start + AT_ONCE])


def sender() -> str:
    """Name this results folder on this machine, from which only one process sends at a time."""
    return digest([socket.gethostname(), str(store.home())])


def digest(content: Any) -> str:
    """A short name for content that can be written as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def image(run_id: str, name: str) -> str:
    """Markdown by which the UI shows an artifact."""
    return f"![{name}](get-artifact?path={quote(name)}&run_uuid={run_id})"


def address(server: str, experiment: str) -> str:
    """The page of an experiment in the UI with its saved view: its columns visible, its order set."""
    return f"{server}/#/experiments/{experiment}/runs?{VIEWED}"


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
