"""Serve the MLflow UI on this machine, opened on a leaderboard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import webbrowser
from contextlib import suppress

from rich.console import Console

from dpbench import store, track
from dpbench.errors import UsageError

SECONDS_TO_START = 60.0


def serve(grid: str | None, port: int, browser: bool, tracking_uri: str | None, console: Console) -> None:
    """Start the server on 127.0.0.1, print and open the page, and wait until Ctrl-C.

    A tracking server that runs already is only opened.
    """
    tracker = track.Tracker(tracking_uri)
    experiment = None
    if grid is not None:
        found = tracker.client.get_experiment_by_name(f"{grid} leaderboard")
        if found is None:
            raise UsageError(f"no leaderboard of {grid!r} in {tracker.uri}; make it by: dpbench run {grid}")
        experiment = str(found.experiment_id)
    remote = tracker.uri.startswith(("http://", "https://"))
    server = tracker.uri.rstrip("/") if remote else f"http://127.0.0.1:{port}"
    page = track.address(server, experiment) if experiment else f"{server}/#/experiments?workflowType=machine_learning"
    if remote:
        _open(page, browser, console)
        return
    if track.is_serving(port):
        raise UsageError(f"port {port} is in use; give another by --port")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracker.uri]
    command += [
        "--default-artifact-root",
        str(store.home() / "artifacts"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    silent = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=silent, stderr=silent, start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated command takes its server along too
    try:
        track.wait_until_serving(port, SECONDS_TO_START, lambda: process.poll() is None)
        _open(page, browser, console)
        process.wait()
    except KeyboardInterrupt:
        console.print("stopped")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # MLflow's own process does not pass it on to its workers
        process.wait()


def _open(page: str, browser: bool, console: Console) -> None:
    console.print(f"The MLflow UI: {page}", soft_wrap=True)
    if browser:
        webbrowser.open(page)
