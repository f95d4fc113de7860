"""The MLflow UI in a browser: the leaderboard and the runs, readable without a click, on this machine only."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dpbench.errors import UsageError
from dpbench.reports import tracking, ui

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--no-first-run",
]  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def served(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int, Path]]:
    """`dpbench ui tiny`: the address it prints, its port, and its home."""
    home, port = tmp_path_factory.mktemp("ui") / "home", free_port()
    shutil.copytree(finished.home, home)
    process = subprocess.Popen(
        [sys.executable, "-m", "dpbench.cli", "ui", "tiny", "--no-browser", "--port", str(port)],
        env=os.environ | {"DPBENCH_HOME": str(home)},
        cwd=home,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # printed when the server answers
        assert line.startswith("The MLflow UI: "), line
        yield line.split()[-1], port, home
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def page(served: Any) -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1600, "height": 1000})
        opened.set_default_timeout(120_000)
        yield opened
        browser.close()


def read_table(page: Any, address: str, columns: tuple[str, ...], picture: Path) -> tuple[list[str], list[list[str]]]:
    """Open a page; return the header and the rows of its table of runs, as they are shown without a click."""
    page.goto(address)
    page.locator(".ag-cell", has_text="uniform_epoch").first.wait_for()
    for column in columns:
        page.locator(".ag-header-cell", has_text=column.split("`")[1]).first.wait_for()
    page.screenshot(path=picture)
    texts = page.evaluate(
        """() => {
            const text = cell => [cell.getAttribute('col-id'), cell.innerText.trim()];
            const cells = (root, name) => [...root.querySelectorAll(name)].map(text);
            const rows = {};
            for (const row of document.querySelectorAll('.ag-row'))
                rows[row.getAttribute('row-index')] = [...(rows[row.getAttribute('row-index')] || []),
                                                       ...cells(row, '.ag-cell')];
            return {header: cells(document, '.ag-header-cell'), rows};
        }"""
    )
    header = dict(texts["header"])
    rows = [dict(texts["rows"][key]) for key in sorted(texts["rows"], key=int)]
    names = list(header)
    return [header[name] for name in names], [[row.get(name, "") for name in names] for row in rows]


def column(header: list[str], rows: list[list[str]], name: str) -> list[str]:
    [at] = [i for i, title in enumerate(header) if title.strip() == name]
    return [row[at] for row in rows]


def test_the_leaderboard_is_shown_sorted_without_a_click(served: Any, page: Any, tmp_path: Path) -> None:
    header, rows = read_table(page, served[0], tracking.COLUMNS, tmp_path / "leaderboard.png")
    shown = {name.strip() for name in header}
    accuracy = next(name for name in ("accuracy", "accuracy_mean") if name in shown)
    ranks = [int(float(text)) for text in column(header, rows, "rank")]
    assert len(ranks) >= 10
    places = list(zip(map(float, column(header, rows, "keep")), ranks, strict=True))
    assert places == sorted(places), "by keep, and by rank within it"
    assert ranks[0] == 1
    assert {"full", "orderdp[explore=0.9]", "hardest"} & set(column(header, rows, "method"))
    assert all(re.match(r"\d+(\.\d+)?", text) for text in column(header, rows, accuracy))
    assert all(re.fullmatch(r"0(\.\d+)?", text) for text in column(header, rows, "prune_ratio"))
    assert (tmp_path / "leaderboard.png").stat().st_size > 10_000


def test_the_runs_are_shown_with_method_accuracy_and_prune_ratio(served: Any, page: Any, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    _, port, home = served
    experiment = MlflowClient(f"sqlite:///{home / 'mlflow.db'}").get_experiment_by_name("tiny").experiment_id
    address = tracking.address(f"http://127.0.0.1:{port}", experiment)
    header, rows = read_table(page, address, tracking.RUN_COLUMNS, tmp_path / "runs.png")
    accuracies = [float(text) for text in column(header, rows, "accuracy")]
    assert len(accuracies) >= 10
    assert accuracies == sorted(accuracies, reverse=True)
    assert all(column(header, rows, "method"))
    assert all(0 <= float(text) < 1 for text in column(header, rows, "prune_ratio"))


def test_it_listens_on_this_machine_only(served: Any) -> None:
    _, port, _ = served
    listening = "0A"
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == listening and int(address.split(":")[1], 16) == port:
                found.append(address.split(":")[0])
    assert found == ["0100007F"], "127.0.0.1"


def test_a_port_in_use_is_told(served: Any) -> None:
    _, port, home = served
    with pytest.raises(UsageError, match=f"port {port} is in use; give another by --port"):
        ui.serve("tiny", port, False, f"sqlite:///{home / 'mlflow.db'}", Console())
