"""Commands about results: leaderboard, samples, comparison, merge, sync, MLflow."""

from __future__ import annotations

import hashlib
import io
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dpbench.cli import complete
from dpbench.cli.options import (
    Columns,
    DataRoot,
    Every,
    Notes,
    RunHere,
    Sort,
    TrackingUri,
    Wide,
    check_writable,
    grid_name,
    wanted_columns,
)
from dpbench.cli.terminal import err, out, tell_what_next
from dpbench.errors import RunFailed, UsageError


class Format(StrEnum):
    """How a leaderboard is printed."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"
    html = "html"
    summary = "summary"
    results = "results"


def leaderboard(
    grid: Annotated[
        str,
        typer.Argument(
            help="A grid that was run here, or one whose results are checked in.",
            callback=grid_name,
            autocompletion=complete.shown_grid,
        ),
    ],
    form: Annotated[Format, typer.Option("--format", "-f", help="How to write it.")] = Format.table,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file, not to the screen.")
    ] = None,
    tracking_uri: TrackingUri = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder with the dataset's files, for pictures of samples.")
    ] = None,
    wide: Wide = False,
    columns: Columns = None,
    sort: Sort = None,
    every: Every = False,
    notes: Notes = False,
) -> None:
    """Show the leaderboard of a grid; send it and the runs that are not in MLflow yet to MLflow.

    `--format results` writes all results into one small file, as in `leaderboards/results/`, with pictures of samples.
    Figures (PNG, PDF), the HTML page and the tables also lie under `$DPBENCH_HOME/leaderboards/GRID`.
    """
    from dpbench import store
    from dpbench.analysis import board as boards
    from dpbench.experiments import history
    from dpbench.reports import formats, screen, send, tracking

    wanted = wanted_columns(wide, columns, sort, every, notes)
    if form is Format.results and output is None:
        raise UsageError("--format results is not text: give a file by --output")
    if output:
        check_writable("--output", output)
    board = boards.load(grid, data_root)  # an unknown grid is told before a database is made
    if board.checked_in:
        err.print(f"{grid} was not run here; these are the results that come with dpbench", style="yellow")
    else:
        tracking.check(tracking_uri)
    if form is Format.results:
        packed = boards.pack(board, pictures=True)
        assert output is not None
        store.write(output, lambda file: file.write_bytes(packed))
        if not board.checked_in:
            history.add("packed", grid=grid, file=str(output), sha256=hashlib.sha256(packed).hexdigest())
    elif form is not Format.table:
        text = formats.text(board, form.value)
        store.write(output, lambda file: file.write_text(text + "\n", encoding="utf-8")) if output else print(text)
    elif output:
        plain = Console(record=True, file=io.StringIO(), width=120)
        plain.print(screen.screen(board, plain.width, wanted))
        store.write(output, lambda file: file.write_text(plain.export_text(), encoding="utf-8"))
    else:
        out.print(screen.screen(board, out.width, wanted))
        tell_what_next(board, tracking_uri)
    if not board.checked_in:
        sys.stdout.flush()  # whatever becomes of the tracker
        send.publish(board, tracking_uri, err)


def samples(
    grid: RunHere,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="Only this method.", autocompletion=complete.method),
    ] = None,
    keep: Annotated[list[float] | None, typer.Option("--keep", help="Only rows that keep this share.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this CSV file, not to the screen.")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Write how often each row used each training sample, as CSV: sample, file name, times used, score, label.

    `sample` is the sample's place in the dataset's own training set; `times used` counts epochs, mean over the seeds.
    The leaderboard's page shows pictures of those used most and least.

    - `dpbench samples quick --method el2n --keep 0.3 -o el2n.csv`
    """
    from dpbench import store
    from dpbench.analysis import usage
    from dpbench.experiments import grid as grids
    from dpbench.reports import comparison

    if output:
        check_writable("--output", output)
    cells = grids.read_manifest(grid).cells
    methods = [comparison.among({spec.method for spec in cells.values()}, grid, text) for text in method or []]
    shares = sorted({spec.keep for spec in cells.values()})
    for share in keep or []:
        if share not in shares:
            raise UsageError(f"--keep {share:g}: not in the grid {grid}; it has {', '.join(f'{x:g}' for x in shares)}")
    wanted = {
        key: spec
        for key, spec in cells.items()
        if (not methods or spec.method in methods) and (not keep or spec.keep in keep)
    }
    results = grids.results(wanted)
    lines = usage.csv(usage.of_results(results.values()), data_root)
    store.write(output, lambda file: usage.write(file, lines)) if output else sys.stdout.writelines(lines)


def sync(
    grid: RunHere,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Send what is finished again and again, until all runs that are listed have ended."
        ),
    ] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two times.")] = 30.0,
    tracking_uri: TrackingUri = None,
    data_root: DataRoot = None,
) -> None:
    """Send what is missing or has changed of a grid's runs and leaderboard to MLflow. Repeating it does no harm.

    `run` and `leaderboard` do so too; this is for when they could not, and with `--watch` for a grid that runs on a
    cluster. A server that is gone is tried again. The samples' pictures need the dataset's files.
    """
    from dpbench.analysis import board as boards
    from dpbench.experiments.status import status
    from dpbench.reports import send, tracking

    if boards.load(grid, data_root).checked_in:
        raise UsageError(f"{grid} was not run here; there is nothing to send")
    tracking.check(tracking_uri)
    while True:
        try:
            sent = send.send(grid, tracking_uri, err, data_root)
            out.print(sent.line, markup=False, soft_wrap=True)
            if not watch or status(grid, sent.results).over:  # by what was sent: what has ended since is sent next time
                return
        except RunFailed as error:
            if not watch:
                raise
            err.print(f"{error}; trying again in {every:g} s", style="yellow", markup=False, soft_wrap=True)
        time.sleep(every)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A method.", autocompletion=complete.method)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.", autocompletion=complete.method)],
    grid: Annotated[
        str | None,
        typer.Option(
            "--grid",
            help="Default: the grid that was run last.",
            callback=grid_name,
            autocompletion=complete.shown_grid,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write to this CSV file in how many seeds each test sample is right."),
    ] = None,
) -> None:
    """Compare two methods of a grid head to head: every measure, the paired difference, how alike they select.

    Where the runs' predictions are here: also the difference for new test samples, McNemar's test, and the test samples
    that one gets wrong and the other right.
    """
    from dpbench import store
    from dpbench.analysis import board as boards
    from dpbench.experiments import grid as grids
    from dpbench.reports import comparison

    if output:
        check_writable("--output", output)
    name = grid or grids.last()
    board = boards.load(name)
    a, b = (comparison.named(board, method) for method in (a, b))
    err.print(f"grid {name}" + (", from the results that come with dpbench" if board.checked_in else ""), style="dim")
    out.print(comparison.screen(board, a, b))
    if output:
        text = comparison.csv(board, a, b)
        store.write(output, lambda file: file.write_text(text + "\n", encoding="utf-8"))


def merge(
    sources: Annotated[
        list[Path], typer.Argument(metavar="DIR|FILE...", help="Results folders of other machines, or bundles.")
    ],
) -> None:
    """Add the runs of other results folders (`$DPBENCH_HOME` on other machines), or of bundles, to this one.

    Runs that are here already are checked: equal ones are skipped, and where two disagree ours is kept and told.
    """
    from dpbench.experiments.merge import merge as merge_all

    merged = merge_all(sources)
    out.print(f"{merged.added} runs added, {merged.completed} finished there, {merged.duplicates} here already")
    for conflict in merged.conflicts:
        out.print("conflict:", conflict, markup=False, soft_wrap=True)
    if merged.conflicts:
        raise RunFailed(f"{len(merged.conflicts)} conflicts; what was here is kept")


def ui(
    grid: Annotated[
        str | None,
        typer.Argument(help="Open on this grid's leaderboard.", callback=grid_name, autocompletion=complete.run_grid),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    tracking_uri: TrackingUri = None,
) -> None:
    """Open the leaderboard in the MLflow UI, on this machine only, telemetry off. Ctrl-C ends it."""
    from dpbench.reports import ui as page

    page.serve(grid, port, browser, tracking_uri, out)
