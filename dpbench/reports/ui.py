"""Serve the MLflow UI on this machine, opened on a leaderboard."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import webbrowser
from contextlib import suppress

from rich.console import Console

from dpbench import store
from dpbench.errors import RunFailed, UsageError
from dpbench.experiments import grid as grids
from dpbench.reports import send, tracking

SECONDS_TO_START = 180.0  # a server that ends is told at once; on a busy machine one takes minutes


def serve(grid: str | None, port: int, browser: bool, tracking_uri: str | None, console: Console) -> None:
    """Start the server on 127.0.0.1, print and open the page, and wait until Ctrl-C.

    A tracking server that runs already is only opened. A grid that was run but is not in MLflow yet is sent first.
    """
    tracking.check(tracking_uri)
    tracker = tracking.Tracker(tracking_uri)
    if tracker.mended:
        console.print(tracker.mended, style="yellow", markup=False, soft_wrap=True)
    experiment = None
    if grid is not None:
        found = tracker.client.get_experiment_by_name(f"{grid} leaderboard")
        if found is None and grids.manifest_path(grid).is_file():
            send.send(grid, tracking_uri, console)
            found = tracker.client.get_experiment_by_name(f"{grid} leaderboard")
        if found is None:
            raise UsageError(f"no leaderboard of {grid!r} in {tracker.name}; make it by: dpbench run {grid}")
        experiment = str(found.experiment_id)
    remote = tracker.uri.startswith(("http://", "https://"))
    server = _without_password(tracker.uri) if remote else f"http://127.0.0.1:{port}"
    page = (
        tracking.address(server, experiment) if experiment else f"{server}/#/experiments?workflowType=machine_learning"
    )
    if remote:
        _open(page, browser, console)
        return
    if tracking.is_serving(port):
        raise UsageError(f"port {port} is in use; give another by --port")
    root = tracker.database.parent if tracker.database else store.home()
    command = [sys.executable, "-m", "mlflow", "server", "--default-artifact-root", (root / "artifacts").as_uri()]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    environment["MLFLOW_BACKEND_STORE_URI"] = tracker.uri  # not on the command line, which everybody can read
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated command takes its server along too
        try:
            tracking.wait_until_serving(port, SECONDS_TO_START, lambda: process.poll() is None)
            _open(page, browser, console)
            process.wait()
        except KeyboardInterrupt:
            console.print("stopped")
        except RunFailed as error:
            said.seek(0)
            raise RunFailed(f"{error}{_complaint(said.read().decode(errors='replace'))}") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # MLflow's own process does not pass it on to its workers
            process.wait()


def _without_password(uri: str) -> str:
    """The address that a browser is sent to; it asks for the user itself."""
    scheme, rest = uri.rstrip("/").split("://", 1)
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _complaint(log: str) -> str:
    """The last error in what the server said, if there is one."""
    lines = [line for line in log.splitlines() if re.match(r"[\w.]*(Error|Exception)\b|Error:", line.strip())]
    return f": {tracking.reason(RuntimeError(lines[-1]))}" if lines else ""


def _open(page: str, browser: bool, console: Console) -> None:
    console.print(f"The MLflow UI: {page}", soft_wrap=True)
    console.print(
        'Choose "Model training" at the top left once; MLflow then keeps to it on every page.', soft_wrap=True
    )
    if browser:
        webbrowser.open(page)
