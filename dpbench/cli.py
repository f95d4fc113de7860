"""The command line. Imports of torch and MLflow wait until a command needs them, so that help is quick."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from dpbench.errors import RunFailed, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from dpbench.spec import Grid

app = typer.Typer(
    name="dpbench",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Compare data-pruning methods: exact accounting, paired seeds, a leaderboard in MLflow.

**Examples**

- `dpbench run quick`: eight methods on small digits, a few minutes
- `dpbench ui quick`: its leaderboard in the MLflow UI
- `dpbench run quick --method my_method.py`: your own method beside them
- `dpbench run --method "orderdp[explore=0.9]" --dataset digits --keep 0.3`: a grid of your own
- `dpbench list methods`: what there is

Results are kept under `$DPBENCH_HOME` (`.dpbench/` in the current folder). What is done is not run again.
""",
)
out = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
err = Console(stderr=True, highlight=False)


class Kind(StrEnum):
    """What can be listed."""

    methods = "methods"
    datasets = "datasets"
    models = "models"
    grids = "grids"


class Format(StrEnum):
    """How a leaderboard is printed."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"


def _complete(kind: str) -> Any:
    """Shell completion from the catalog."""

    def names(incomplete: str) -> list[str]:
        from dpbench import catalog

        return [name for name in getattr(catalog, f"{kind}_names")() if name.startswith(incomplete)]

    return names


TrackingUri = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="MLflow server or database. Default: MLFLOW_TRACKING_URI, else SQLite."),
]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Options before the command."""


@app.command()
def run(
    grid: Annotated[
        str | None, typer.Argument(help="A built-in grid, or a file.yaml.", autocompletion=_complete("grid"))
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="A method: name, name[key=value,...], file.py or file.py:Class. Adds to GRID.",
            autocompletion=_complete("method"),
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Run only these methods of GRID.", autocompletion=_complete("method")),
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="Instead of GRID's.", autocompletion=_complete("dataset"))
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Instead of GRID's.", autocompletion=_complete("model"))
    ] = None,
    keep: Annotated[
        list[float] | None, typer.Option("--keep", help="Share of the samples kept, in (0, 1]. Instead of GRID's.")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Number of seeds. Instead of GRID's.")] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Parallel runs. Default: one a core, one on a GPU.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each run.")] = 1,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu or cuda. Default: cuda where there is one.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of a grid made from options. Default: custom.")
    ] = None,
    tracking_uri: TrackingUri = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Folder with the dataset's files.")] = None,
) -> None:
    """Run a grid, or continue it, and print its leaderboard.

    Without GRID the options describe a grid of their own with the recipe of `quick`:

    - `dpbench run quick`
    - `dpbench run quick --only orderdp --only uniform --jobs 1`
    - `dpbench run --method my_method.py --method uniform --keep 0.3 --keep 0.5 --seeds 3 --name mine`
    """
    from dpbench import grid as grids
    from dpbench import runner
    from dpbench.track import Tracker, check_reachable, default_uri

    asked = _grid(grid, method or [], only or [], dataset, model, keep, seeds, name)
    check_reachable(tracking_uri or default_uri())
    try:
        import torch

        on = torch.device(device) if device else runner.default_device()
        torch.empty(0, device=on)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {str(error).splitlines()[0]}") from None
    _single_threaded(threads)
    cells = grids.run_grid(asked, err, jobs, threads, on, data_root)
    table = _publish(asked.name, Tracker(tracking_uri))
    _show(table)
    results = grids.results(cells)
    failed = [result for result in results.values() if result["status"] == "FAILED"]
    out.print(
        f"Open it in the MLflow UI:  [bold]dpbench ui {asked.name}[/]"
        + (f" --tracking-uri {tracking_uri}" if tracking_uri else "")
    )
    if failed:
        raise RunFailed(
            f"{len(failed)} of {len(cells)} runs failed; the others are kept, the same command tries these again"
        )


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with all that is known.")] = False,
) -> None:
    """List methods, datasets, models or grids, with their parameters."""
    from dpbench import describe

    rows = describe.rows(kind.value)
    out.print_json(json.dumps(rows)) if as_json else out.print(describe.table(rows))


@app.command()
def leaderboard(
    grid: Annotated[str, typer.Argument(help="A grid that was run here.")],
    form: Annotated[Format, typer.Option("--format", "-f", help="How to print it.")] = Format.table,
    tracking_uri: TrackingUri = None,
) -> None:
    """Print the leaderboard of a grid, and send it, with runs not sent yet, to MLflow."""
    from dpbench import leaderboard as boards
    from dpbench.track import Tracker

    boards.of_grid(grid)  # an unknown grid is told before a database is made
    table = _publish(grid, Tracker(tracking_uri))
    if form is Format.table:
        _show(table)
    else:
        print(boards.render(table, form.value), end="" if form is Format.csv else "\n")


@app.command()
def ui(
    grid: Annotated[str | None, typer.Argument(help="Open on this grid's leaderboard.")] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    tracking_uri: TrackingUri = None,
) -> None:
    """Start the MLflow UI on this machine only, telemetry off, opened on the leaderboard. Ctrl-C ends it."""
    from dpbench import ui as page

    page.serve(grid, port, browser, tracking_uri, out)


def _grid(
    name: str | None,
    methods: list[str],
    only: list[str],
    dataset: list[str] | None,
    model: list[str] | None,
    keep: list[float] | None,
    seeds: int | None,
    own_name: str | None,
) -> Grid:
    """Build the grid that the options describe."""
    from dpbench import catalog
    from dpbench.spec import Grid, canonical, load_grid

    if name is None and not methods:
        raise UsageError("name a grid (try: dpbench run quick), or give at least one --method")
    if name is None and only:
        raise UsageError("--only restricts a GRID; without one, list the methods by --method")
    if name is not None and own_name is not None:
        raise UsageError("--name is for a grid made from options; a GRID has its name")
    base = load_grid(name or "quick")
    chosen = list(dict.fromkeys(canonical(text) for text in (base.methods if name else []) + methods))
    if only:
        wanted = [canonical(text) for text in only]
        absent = [text for text in wanted if text not in chosen]
        if absent:
            raise UsageError(f"--only {absent[0]}: not in the grid {base.name}; it has {', '.join(chosen)}")
        chosen = wanted
    changes: dict[str, Any] = {
        "name": base.name if name else (own_name or "custom"),
        "methods": chosen,
        "datasets": dataset or (base.datasets if name else ["digits"]),
        "models": model or base.models,
        "keep": keep or base.keep,
        "seeds": base.seeds if seeds is None else seeds,
    }
    if not all(character.isalnum() or character in "._-" for character in changes["name"]) or changes[
        "name"
    ].startswith("."):
        raise UsageError(f"--name {changes['name']!r}: letters, digits, '-', '_' and '.' only")
    for share in changes["keep"]:
        if not 0 < share <= 1:
            raise UsageError(f"--keep {share:g} is outside (0, 1]; it is the share of the samples that is kept")
    if changes["seeds"] < 1:
        raise UsageError(f"--seeds {changes['seeds']}: at least 1 is needed")
    for text in changes["datasets"]:
        catalog.load_dataset(text)
    for text in changes["models"]:
        catalog.check_model(text)
    return Grid.model_validate(base.model_dump() | changes)


def _publish(grid: str, tracker: Any) -> pd.DataFrame:
    """Send a grid's runs and its leaderboard to MLflow; return the leaderboard."""
    from dpbench import leaderboard as boards

    table, results = boards.of_grid(grid)
    with err.status("sending results to MLflow"):
        experiment = tracker.send_runs(grid, results.values())
        tracker.send_leaderboard(grid, experiment, table, boards.render(table, "markdown"), boards.files(table, grid))
    return table


def _show(table: pd.DataFrame) -> None:
    from dpbench import leaderboard as boards

    for view in boards.rich_tables(table):
        out.print(view)


def _single_threaded(threads: int) -> None:
    """Workers inherit this: numerical libraries that spin on shared cores slow each other down many times."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)


def _end(message: str, code: int) -> NoReturn:
    err.print(f"[bold red]dpbench:[/] {message}", soft_wrap=True, markup=True)
    sys.exit(code)


def main() -> None:
    """Run the command line; errors end in one line, exit code 2 for usage and 1 for failed runs."""
    from rich.markup import escape

    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")  # it is understood anywhere on the line
    try:
        app()
    except (UsageError, RunFailed) as error:
        if debug:
            raise
        _end(escape(str(error)), 2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        _end("stopped; finished runs are kept, the same command continues", 130)
    except Exception as error:
        if debug:
            raise
        _end(escape(f"{type(error).__name__}: {' '.join(str(error).split())} (--debug shows the traceback)"), 1)


if __name__ == "__main__":
    main()
