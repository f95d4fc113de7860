"""The command line. Imports of torch and MLflow wait until a command needs them, so that help is quick."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import unicodedata
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dpbench import __version__
from dpbench.cli import complete
from dpbench.errors import RunFailed, UsageError, redact

if TYPE_CHECKING:
    import torch

    from dpbench.analysis.board import Board
    from dpbench.orderdp.theory import Explained
    from dpbench.reports.screen import Wanted
    from dpbench.spec import Grid

app = typer.Typer(
    name="dpbench",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Compare data-pruning methods: exact accounting, paired seeds, a leaderboard in MLflow.

**Examples**

- `dpbench run quick`: nine methods on small digits, a few minutes
- `dpbench ui quick`: its leaderboard in the MLflow UI
- `dpbench run quick --method my_method.py`: your own method beside them
- `dpbench run --method "orderdp[explore=0.9]" --dataset digits --keep 0.3`: a grid of your own
- `dpbench list methods`: what there is

Results are kept under `$DPBENCH_HOME` (`.dpbench/` in the current folder). What is done is not run again.
""",
)
MUCH = 1e8  # bytes of proxy records that are worth a line
ARGUMENT = 4096  # characters, as long as a path may be
Misused: Any = typer.BadParameter.__mro__[2]  # ClickException, of the Click that this Typer brings or depends on
out = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
err = Console(stderr=True, highlight=False)


class Listed(StrEnum):
    """What can be listed."""

    methods = "methods"
    datasets = "datasets"
    models = "models"
    grids = "grids"


class Kind(StrEnum):
    """What methods decide on."""

    static = "static"
    epoch = "epoch"
    batch = "batch"


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


def _grid_name(name: str | None) -> str | None:
    """Check what names a grid's files."""
    from dpbench.spec import check_name

    try:
        return name and check_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _wanted(wide: bool, columns: str | None, sort: str | None, every: bool, notes: bool) -> Wanted:
    """What is to be shown; a column that there is not is told before any work."""
    from dpbench.reports.screen import Wanted

    names = tuple(name.strip() for name in (columns or "").split(",") if name.strip())
    return Wanted(wide, names, sort or "", every, notes)


Wide = Annotated[bool, typer.Option("--wide", help="Show all columns.")]
Columns = Annotated[
    str | None, typer.Option("--columns", help="Show these columns: a,b,...", autocompletion=complete.columns)
]
Sort = Annotated[
    str | None,
    typer.Option("--sort", help="Sort by this column, the best first; -NAME the worst.", autocompletion=complete.sort),
]
Every = Annotated[bool, typer.Option("--all", help="Show all rows, however many.")]
Notes = Annotated[bool, typer.Option("--notes", help="Show all that is to know about the rows.")]
TrackingUri = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="MLflow server or database. Default: MLFLOW_TRACKING_URI, else SQLite."),
]


cache = typer.Typer(no_args_is_help=True, help="List or clear the proxy records, which static methods share.")
app.add_typer(cache, name="cache")


def _version(asked: bool) -> None:
    if asked:
        print(f"dpbench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


@app.command()
def run(
    grid: Annotated[
        str | None, typer.Argument(help="A built-in grid, or a file.yaml.", autocompletion=complete.grid)
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="A method: name, name[key=value,...], file.py or file.py:Class. Adds to GRID.",
            autocompletion=complete.method,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", help="Run only these methods of GRID, and what is added.", autocompletion=complete.method
        ),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="A subset to train on, as another method: a file of `dpbench subset`, or a list of positions among "
            "the dataset's own training samples, .npy or text.",
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="Instead of GRID's.", autocompletion=complete.dataset)
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Instead of GRID's.", autocompletion=complete.model)
    ] = None,
    keep: Annotated[
        list[float] | None, typer.Option("--keep", help="Share of the samples kept, in (0, 1]. Instead of GRID's.")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Number of seeds. Instead of GRID's.")] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Parallel runs. Default: one a core, one on a GPU.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, max=1024, help="Threads of each run.")] = 1,
    device: Annotated[
        str | None,
        typer.Option("--device", help="cpu or cuda. Default: cuda where there is one.", autocompletion=complete.device),
    ] = None,
    cell_timeout: Annotated[
        float | None,
        typer.Option(
            "--cell-timeout", min=1, max=1e8, help="Seconds after which a run is killed and has failed. Default: a day."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of a grid made from options. Default: custom.", callback=_grid_name),
    ] = None,
    tracking_uri: TrackingUri = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Folder with the dataset's files.")] = None,
    wide: Wide = False,
    columns: Columns = None,
    sort: Sort = None,
    every: Every = False,
    notes: Notes = False,
) -> None:
    """Run a grid, or continue it, and print its leaderboard.

    Without GRID the options describe a grid of their own with the recipe of `quick`:

    - `dpbench run quick`
    - `dpbench run quick --only orderdp --only uniform --jobs 1`
    - `dpbench run --method my_method.py --method uniform --keep 0.3 --keep 0.5 --seeds 3 --name mine`
    - `dpbench run --from subset.npz --method uniform --seeds 3`
    """
    from dpbench.analysis import board as boards
    from dpbench.experiments import grid as grids
    from dpbench.experiments import unchanged
    from dpbench.reports import screen, send, tracking

    wanted = _wanted(wide, columns, sort, every, notes)
    of = {"method": method, "only": only, "dataset": dataset, "model": model, "keep": keep, "seeds": seeds}
    command = unchanged.command(grid, **of, name=name, data_root=data_root)
    known = None if files or device else unchanged.find(command)
    if known:
        tracking.check(tracking_uri)
        asked_name, cells = known
    else:
        asked = _grid(grid, method or [], only or [], files or [], dataset, model, keep, seeds, name, data_root)
        on = _device(device)
        _single_threaded(threads)
        tracking.check(tracking_uri)
        timeout = cell_timeout or grids.CELL_TIMEOUT_S
        data = None if files else unchanged.data(asked.datasets, data_root)
        asked_name, cells = asked.name, list(grids.run_grid(asked, err, jobs, threads, on, data_root, timeout))
        unchanged.remember(command, asked_name, cells, data)
    board = boards.load(asked_name, data_root)
    out.print(screen.screen(board, out.width, wanted))
    if not known:
        _tell_of_records()
    results = board.results | board.controls
    failed = [key for key in cells if results.get(key, {}).get("status") == "FAILED"]
    _tell_what_next(board, tracking_uri)
    send.publish(board, tracking_uri, err)
    if failed:
        raise RunFailed(
            f"{len(failed)} of {len(cells)} runs failed; the others are kept, the same command tries these again"
        )


@app.command("list")
def list_(
    what: Annotated[Listed, typer.Argument(metavar="KIND", help="methods, datasets, models or grids.")],
    kind: Annotated[
        Kind | None, typer.Option("--kind", help="Only methods that choose once, by epoch or batch.")
    ] = None,
    search: Annotated[str | None, typer.Option("--search", help="Only those in which all these words are.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with all that is known.")] = False,
) -> None:
    """List methods, datasets, models or grids, one line each; `dpbench show NAME` tells the rest.

    - `dpbench list methods --kind static --search margin`
    """
    from dpbench.reports import listing

    if kind and what is not Listed.methods:
        raise UsageError(f"--kind {kind.value} is for methods; {what.value} have no kind")
    rows = listing.rows(what.value, kind and kind.value, search)
    if as_json:
        out.print_json(json.dumps(rows, default=str))
        return
    if rows:
        out.print(listing.table(what.value, rows, out.width))
    of = f"{len(rows)} {what.value}" + (f" of {len(listing.names(what.value))}" if kind or search else "")
    out.print(f"{of}; {_program()} show NAME tells more of one", style="dim", soft_wrap=True)


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(help="A method, dataset, model or grid; file.py, file.yaml.", autocompletion=complete.anything),
    ],
) -> None:
    """Show what is known of one method, dataset, model or grid: parameters, paper, cost, file.

    - `dpbench show orderdp`
    - `dpbench show quick`
    """
    from dpbench.reports import listing

    out.print(listing.show(name))


@app.command()
def subset(
    method: Annotated[
        str,
        typer.Argument(
            help="A static method: name, name[key=value,...], file.py or file.py:Class.",
            autocompletion=complete.method,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz file to write.")],
    dataset: Annotated[
        str, typer.Option("--dataset", help="What to choose from.", autocompletion=complete.dataset)
    ] = "digits",
    keep: Annotated[float, typer.Option("--keep", help="Share of the samples kept, in (0, 1].")] = 0.3,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**31 - 1, help="The selection is that of this seed's runs.")
    ] = 0,
    model: Annotated[
        str | None, typer.Option("--model", help="Instead of the grid's first.", autocompletion=complete.model)
    ] = None,
    grid: Annotated[
        str, typer.Option("--grid", help="A grid whose recipe is taken.", autocompletion=complete.grid)
    ] = "quick",
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Folder with the dataset's files.")] = None,
) -> None:
    """Write the subset that a static method chooses: indices, scores, weights, configuration and hash in one .npz file.

    `indices` count the samples that dpbench trains on; `positions[indices]` those of the dataset's own training set, in
    its own order. Train on it by `dpbench run --from FILE`.

    - `dpbench subset el2n --dataset fashion_mnist --grid fashion_mnist --keep 0.3 -o el2n.npz`
    """
    from dpbench import catalog, store
    from dpbench.experiments import subsets
    from dpbench.spec import RunSpec, canonical, load_grid
    from dpbench.training import runner

    _check_keep(keep)
    if output.suffix != ".npz":
        raise UsageError(f"--output {output}: the name ends in .npz")
    _check_writable("--output", output)
    _single_threaded(1)
    base = load_grid(grid)
    spec = RunSpec(
        dataset=dataset,
        model=model or base.models[0],
        method=canonical(method),
        keep=keep,
        seed=seed,
        recipe=base.recipe,
        probe=base.probe,
        data=runner.fingerprints([dataset], data_root)[dataset],
    )
    found = subsets.choose(spec, runner.default_device(), data_root)
    store.write_selections(output, found)
    own = catalog.load_method(spec.method).keep
    if own is not None and own != keep:
        out.print(
            escape(f"{spec.method} keeps its own share of the samples, {own:g}; --keep is not used"), soft_wrap=True
        )
    out.print(f"{len(found.epochs[0]):,} of {found.n:,} samples, hash {found.digest}: {output}", soft_wrap=True)


@app.command()
def check(
    method: Annotated[
        str,
        typer.Argument(
            help="A method: name, name[key=value,...], file.py or file.py:Class.", autocompletion=complete.method
        ),
    ],
) -> None:
    """Run the conformance battery on a method: is its selection valid, seeded, resumable, safe at the edges?"""
    from dpbench import catalog
    from dpbench.experiments.executors import run_all
    from dpbench.training import conformance

    name = catalog.resolve(method)
    catalog.load_method(name).ready()
    _single_threaded(1)
    os.environ.setdefault("DPBENCH_SELECT_HOURS", "0.05")  # a quadratic method refuses rather than run for hours
    [(_, found)] = run_all(conformance.examine, [name], workers=1)
    if isinstance(found, BaseException):
        raise RunFailed(f"{name}: {found}") from found
    report, measured = found
    for title, findings in report.items():
        out.print(f"{title:<14}", "[red]FAILED[/]" if findings else "ok")
        for finding in findings:
            out.print("  ", finding, markup=False, soft_wrap=True)
    if any(report.values()):
        raise RunFailed(f"{name} fails {sum(map(bool, report.values()))} of {len(report)} checks")
    out.print(f"select at n = 1,000,000: {measured}", markup=False, soft_wrap=True)


@app.command()
def leaderboard(
    grid: Annotated[
        str,
        typer.Argument(
            help="A grid that was run here, or one whose results are checked in.",
            callback=_grid_name,
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
    """Show the leaderboard of a grid, and send it, with runs not sent yet, to MLflow.

    `--format results` writes all results into one small file, as in `leaderboards/results/`, with pictures of samples.
    Figures (PNG, PDF), the HTML page and the tables also lie under `$DPBENCH_HOME/leaderboards/GRID`.
    """
    from dpbench import store
    from dpbench.analysis import board as boards
    from dpbench.reports import formats, screen, send, tracking

    wanted = _wanted(wide, columns, sort, every, notes)
    if form is Format.results and output is None:
        raise UsageError("--format results is not text: give a file by --output")
    if output:
        _check_writable("--output", output)
    board = boards.load(grid, data_root)  # an unknown grid is told before a database is made
    if board.checked_in:
        err.print(f"{grid} was not run here; these are the results that come with dpbench", style="yellow")
    else:
        tracking.check(tracking_uri)
    if form is Format.results:
        packed = boards.pack(board, pictures=True)
        assert output is not None
        store.write(output, lambda file: file.write_bytes(packed))
    elif form is not Format.table:
        text = formats.text(board, form.value)
        store.write(output, lambda file: file.write_text(text + "\n", encoding="utf-8")) if output else print(text)
    elif output:
        plain = Console(record=True, file=io.StringIO(), width=120)
        plain.print(screen.screen(board, plain.width, wanted))
        store.write(output, lambda file: file.write_text(plain.export_text(), encoding="utf-8"))
    else:
        out.print(screen.screen(board, out.width, wanted))
        _tell_what_next(board, tracking_uri)
    if not board.checked_in:
        sys.stdout.flush()  # whatever becomes of the tracker
        send.publish(board, tracking_uri, err)


@app.command()
def samples(
    grid: Annotated[
        str,
        typer.Argument(help="A grid that was run here.", callback=_grid_name, autocompletion=complete.run_grid),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="Only this method.", autocompletion=complete.method),
    ] = None,
    keep: Annotated[list[float] | None, typer.Option("--keep", help="Only rows that keep this share.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this CSV file, not to the screen.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Folder with the dataset's files.")] = None,
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
        _check_writable("--output", output)
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


@app.command()
def sync(
    grid: Annotated[
        str,
        typer.Argument(help="A grid that was run here.", callback=_grid_name, autocompletion=complete.run_grid),
    ],
    tracking_uri: TrackingUri = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Folder with the dataset's files.")] = None,
) -> None:
    """Send a grid's runs and leaderboard to MLflow: what is missing or has changed. It may be done any number of times.

    `run` and `leaderboard` do so too; this is for when they could not. The samples' pictures need the dataset's files.
    """
    from dpbench.analysis import board as boards
    from dpbench.reports import send, tracking

    if boards.load(grid, data_root).checked_in:
        raise UsageError(f"{grid} was not run here; there is nothing to send")
    tracking.check(tracking_uri)
    out.print(send.send(grid, tracking_uri, err, data_root), markup=False, soft_wrap=True)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A method.", autocompletion=complete.method)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.", autocompletion=complete.method)],
    grid: Annotated[
        str | None,
        typer.Option(
            "--grid",
            help="Default: the grid that was run last.",
            callback=_grid_name,
            autocompletion=complete.shown_grid,
        ),
    ] = None,
) -> None:
    """Compare two methods of a grid head to head: every measure, the paired difference, what they select alike."""
    from dpbench.analysis import board as boards
    from dpbench.experiments import grid as grids
    from dpbench.reports import comparison

    name = grid or grids.last()
    board = boards.load(name)
    a, b = (comparison.named(board, method) for method in (a, b))
    err.print(f"grid {name}" + (", from the results that come with dpbench" if board.checked_in else ""), style="dim")
    out.print(comparison.screen(board, a, b))


@app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Results folders of other machines.")],
) -> None:
    """Bring the runs of other results folders (`$DPBENCH_HOME` there) into this one.

    Runs that are here already are checked: equal ones are skipped, and where two disagree ours is kept and told.
    """
    from dpbench.experiments.merge import merge as merge_folders

    merged = merge_folders(folders)
    out.print(f"{merged.added} runs added, {merged.completed} finished there, {merged.duplicates} here already")
    for conflict in merged.conflicts:
        out.print("conflict:", conflict, markup=False, soft_wrap=True)
    if merged.conflicts:
        raise RunFailed(f"{len(merged.conflicts)} conflicts; what was here is kept")


@app.command()
def explain(
    method: Annotated[
        str,
        typer.Argument(help="orderdp: the method whose theory is known here.", autocompletion=lambda: ["orderdp"]),
    ],
    n: Annotated[int, typer.Option("--n", min=1, max=10**9, help="Number of samples.")],
    keep: Annotated[float, typer.Option("--keep", help="Share of the samples kept, q / n.")],
    explore: Annotated[float, typer.Option("--explore", help="Share of the samples that are candidates, s / n.")] = 0.8,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the probability of every rank shown.")] = False,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw it to this PNG, PDF or SVG file.")] = None,
) -> None:
    """Tell what a method does to n samples: how often each rank is kept, and which loss that minimises."""
    from dpbench import store
    from dpbench.orderdp import theory

    if method != "orderdp":
        raise UsageError(f"cannot explain {method!r}; theory is known for orderdp")
    try:
        found = theory.explain(n, explore, keep)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if figure is not None:
        if figure.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise UsageError(f"--figure {figure}: the name ends in .png, .pdf or .svg")
        _check_writable("--figure", figure)
        form = figure.suffix.lower()[1:]
        store.write(figure, lambda file: theory.figure(found).savefig(file, format=form))
    if explore < keep:
        said = f"explore = {explore:g} is below keep = {keep:g} and counts as that, as in a run: uniform sampling"
        err.print(said, style="yellow")
    print(json.dumps(theory.report(found))) if as_json else out.print(_numbers(found))


@app.command()
def tune(
    method: Annotated[
        str | None,
        typer.Argument(
            help="A method: name, name[key=value,...] with what is fixed, file.py.", autocompletion=complete.method
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Tune every method that has parameters.")] = False,
    dataset: Annotated[
        str, typer.Option("--dataset", help="Where to tune.", autocompletion=complete.dataset)
    ] = "digits",
    model: Annotated[
        str | None, typer.Option("--model", help="Instead of the grid's first.", autocompletion=complete.model)
    ] = None,
    keep: Annotated[float, typer.Option("--keep", help="Share of the samples kept, in (0, 1].")] = 0.3,
    trials: Annotated[
        int, typer.Option("--trials", help="Trials of a study that are not pruned, earlier commands included.")
    ] = 30,
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds of a trial, from 1000 on.")] = 3,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", help="Search only these parameters.", autocompletion=complete.param),
    ] = None,
    both: Annotated[
        bool, typer.Option("--two-objectives", help="Search keep too, for accuracy and cost: a Pareto front.")
    ] = False,
    grid: Annotated[
        str,
        typer.Option("--grid", help="A grid whose recipe, budget and seeds are taken.", autocompletion=complete.grid),
    ] = "quick",
    storage: Annotated[
        str | None, typer.Option("--storage", help="A database's URL, or a journal's path. Default: in $DPBENCH_HOME.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Parallel trials. Default: one a core, one on a GPU.")
    ] = None,
    tracking_uri: TrackingUri = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Folder with the dataset's files.")] = None,
) -> None:
    """Tune a method's declared parameters by Optuna, or continue; write the best configuration as a grid.

    Trials see the validation samples only, with seeds that no grid uses; for OrderDP they are the decompositions of one
    prune ratio, explore in [keep, 1]. Several machines share a study through a database:

    Pruned trials do not count: they come on top, at most two for each.

    - `dpbench tune orderdp --dataset digits --keep 0.3 --trials 30`
    - `dpbench tune my_method.py --param start --trials 20`
    - `dpbench tune orderdp --storage postgresql+psycopg://user@server/optuna` (after `pip install "psycopg[binary]"`)
    """
    if every == (method is not None):
        raise UsageError("name a method to tune, or give --all")
    _single_threaded(1)
    from dpbench import catalog
    from dpbench.experiments import grid as grids
    from dpbench.experiments.tuning import Plan, tunable
    from dpbench.reports import study as studies
    from dpbench.reports import tracking
    from dpbench.spec import load_grid
    from dpbench.training import runner

    base, device = load_grid(grid), runner.default_device()
    plans = [
        Plan(
            method=name,
            dataset=dataset,
            model=model or base.models[0],
            keep=keep,
            trials=trials,
            seeds=seeds,
            grid=base,
            params=tuple(param or ()),
            two_objectives=both,
            storage=storage,
            data_root=data_root,
            device=str(device),
        )
        for name in (tunable() if every else [method or ""])
    ]
    if method:
        catalog.load_method(catalog.resolve(method)).ready()
    tracking.check(tracking_uri)
    found = studies.run(plans, jobs or grids.default_jobs(device), tracking_uri, err)
    out.print(studies.table(found))
    for study in found:
        for file in study.grids[:1]:
            out.print(
                f"Final figures, fresh seeds, test set:  [bold]dpbench run[/] {escape(str(file))}", soft_wrap=True
            )
        if len(study.grids) > 1:
            out.print(f"The other {len(study.grids) - 1} points of the Pareto front: pareto-*.yaml beside it")
    lost = sum(max(0, trials - study.summary["trials"] + study.summary["failed"]) for study in found)
    if lost:
        reason = next(filter(None, (study.summary["reason"] for study in found)), "their workers died")
        raise RunFailed(f"{lost} of {trials * len(plans)} trials failed: {reason}")


@app.command("theory")
def theory_(
    quick: Annotated[bool, typer.Option("--quick", help="Shorter runs, in seconds; too short for the rates.")] = False,
    to: Annotated[Path | None, typer.Option("--to", help="Folder. Default: theory/ under $DPBENCH_HOME.")] = None,
) -> None:
    """Run OrderDP's theorems as experiments; write figures, numbers as JSON, and a page that says what held.

    The page has the runs of the grid `theory` too, where that was run: `dpbench run theory`.
    """
    _single_threaded(1)
    from dpbench import store
    from dpbench.experiments import grid as grids
    from dpbench.orderdp import experiments, two_forms

    folder = to or store.home() / "theory"
    _check_writable("--to", folder / "README.md")
    was_run = grids.manifest_path(two_forms.GRID).is_file()
    results = grids.results(grids.read_manifest(two_forms.GRID).cells) if was_run else {}
    with err.status("theorems") as status:
        found = experiments.run(
            folder, experiments.QUICK if quick else experiments.FULL, status.update, results.values()
        )
    for name, numbers in found.items():
        out.print(f"{name:<15}", {True: "held", False: "did not hold", None: "not decidable here"}[numbers["held"]])
    out.print(f"The page: {escape(str(folder / 'README.md'))}", soft_wrap=True)


@app.command()
def figure4(
    grid: Annotated[
        str,
        typer.Argument(
            help="A grid that was run here, with several explore of orderdp.",
            callback=_grid_name,
            autocompletion=complete.run_grid,
        ),
    ] = "figure4",
    to: Annotated[Path | None, typer.Option("--to", help="Folder. Default: figure4/GRID/ under $DPBENCH_HOME.")] = None,
) -> None:
    """Test whether the decomposition of a prune ratio into s/n and q/s matters; draw it. First: dpbench run GRID."""
    from dpbench import store
    from dpbench.orderdp import figure4 as tested

    folder = to or store.home() / "figure4" / grid
    _check_writable("--to", folder / "README.md")
    for statement in tested.write(grid, folder):
        out.print(statement.text, soft_wrap=True)
    out.print(f"The figure: {escape(str(folder / 'figure4.png'))}", soft_wrap=True)


@cache.command("list")
def cache_list() -> None:
    """List the proxy records, their trainings and their sizes."""
    from dpbench.training import proxy

    found = proxy.records()
    view = Table("record", "dataset", "model", "seed", "run", "epochs", "signals", "size", box=None)
    for record in found:
        of = record.training
        named = [str(of.get(name, "?")) for name in ("dataset", "model", "seed", "run")]
        numbers = (str(record.epochs), ", ".join(record.signals), _size(record.size))
        view.add_row(record.folder.name, *map(escape, named), *numbers)
    out.print(view) if found else None
    out.print(f"proxy records: {len(found)}, {_size(sum(record.size for record in found))}")


@cache.command("clear")
def cache_clear(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECORD...]", help="Default: all.", autocompletion=complete.record),
    ] = None,
) -> None:
    """Remove proxy records. Finished runs do not need them; a run that does makes its own again."""
    from dpbench.training import proxy

    found = {record.folder.name: record for record in proxy.records()}
    unknown = [name for name in names or [] if name not in found]
    if unknown:
        raise UsageError(f"no proxy record {unknown[0]!r}; dpbench cache list shows what there is")
    chosen = [found[name] for name in names or found]
    removed = [record for record in chosen if proxy.remove(record)]
    out.print(f"proxy records removed: {len(removed)}, {_size(sum(record.size for record in removed))}")
    kept = [record.folder.name for record in chosen if record not in removed]
    if kept:
        raise RunFailed(f"{', '.join(kept)}: in use by a run; kept")


@app.command()
def ui(
    grid: Annotated[
        str | None,
        typer.Argument(help="Open on this grid's leaderboard.", callback=_grid_name, autocompletion=complete.run_grid),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    tracking_uri: TrackingUri = None,
) -> None:
    """Start the MLflow UI on this machine only, telemetry off, opened on the leaderboard. Ctrl-C ends it."""
    from dpbench.reports import ui as page

    page.serve(grid, port, browser, tracking_uri, out)


def _grid(
    name: str | None,
    methods: list[str],
    only: list[str],
    files: list[Path],
    dataset: list[str] | None,
    model: list[str] | None,
    keep: list[float] | None,
    seeds: int | None,
    own_name: str | None,
    data_root: Path | None,
) -> Grid:
    """Build the grid that the options describe."""
    from dpbench import catalog
    from dpbench.spec import canonical, change_grid, load_grid

    if name is None and not methods and not files:
        raise UsageError("name a grid (try: dpbench run quick), or give at least one --method or --from")
    if name is None and only:
        raise UsageError("--only restricts a GRID; without one, list the methods by --method")
    if name is not None and own_name is not None:
        raise UsageError("--name is for a grid made from options; a GRID has its name")
    base = load_grid(name or "quick")
    if files:
        subsets = _subsets(files, dataset or (base.datasets if name else None), data_root)
        methods = methods + list(subsets)
        if name is None:
            keep = keep or list(subsets.values())
    added = [canonical(text) for text in methods]
    chosen = list(dict.fromkeys([canonical(text) for text in (base.methods if name else [])] + added))
    if only:
        wanted = [canonical(text) for text in only]
        absent = [text for text in wanted if text not in chosen]
        if absent:
            raise UsageError(f"--only {absent[0]}: not in the grid {base.name}; it has {', '.join(chosen)}")
        chosen = list(dict.fromkeys(wanted + added))
    changes: dict[str, Any] = {
        "name": base.name if name else (own_name or "custom"),
        "methods": chosen,
        "datasets": list(dict.fromkeys(dataset or (base.datasets if name else ["digits"]))),
        "models": list(dict.fromkeys(model or base.models)),
        "keep": list(dict.fromkeys(keep or base.keep)),
        "seeds": base.seeds if seeds is None else seeds,
    }
    for share in changes["keep"]:
        _check_keep(share)
    if changes["seeds"] < 1:
        raise UsageError(f"--seeds {changes['seeds']}: at least 1 is needed")
    for text in changes["datasets"]:
        catalog.load_dataset(text)
    for text in changes["models"]:
        catalog.check_model(text)
    return change_grid(base, changes)


def _device(name: str | None) -> torch.device:
    """The device of that name, else the default one, if it can be used."""
    import torch

    from dpbench.training import runner

    try:
        device = torch.device(name) if name else runner.default_device()
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def _tell_what_next(board: Board, tracking_uri: str | None) -> None:
    """Say where to look on from a board: what its best method uses, its page, MLflow; or how to make it here."""
    from dpbench import store
    from dpbench.reports import summary

    name, program = board.grid.name, f"[bold]{_program()}"
    if board.checked_in:
        out.print(f"Run it here:  {program} run {name}[/]", soft_wrap=True)
        return
    row = summary.suggested(board)
    of = escape(f" --method {shlex.quote(row['method'])} --keep {row['keep']:g}") if row else ""
    page = store.home() / "leaderboards" / name / f"{name}.html"
    near = os.path.relpath(page)
    where = escape(f" --tracking-uri {redact(tracking_uri)}") if tracking_uri else ""
    out.print(f"Page:     [bold]{escape(str(page) if near.startswith('..') else near)}[/]", soft_wrap=True)
    out.print(f"Samples:  {program} samples {name}{of}[/]", soft_wrap=True)
    out.print(f"MLflow:   {program} ui {name}[/]{where}", soft_wrap=True)


def _tell_of_records() -> None:
    """Say what proxy records take, where that is worth a line."""
    from dpbench.training import proxy

    size = sum(record.size for record in proxy.records())
    if size >= MUCH:
        out.print(f"Proxy records take {_size(size)}; they may go:  [bold]{_program()} cache clear[/]", soft_wrap=True)


def _check_keep(share: float) -> None:
    if not 0 < share <= 1:
        raise UsageError(f"--keep {share:g} is outside (0, 1]; it is the share of the samples that is kept")


def _check_writable(option: str, output: Path) -> None:
    """Try it before any work, in the nearest folder there is: permissions do not tell all."""
    try:
        if output.is_dir():
            raise UsageError(f"{option} {output} is a folder; give the path of a file")
        if output.exists() and not output.is_file():
            return  # a pipe or a device, written in place
        folder = next(parent for parent in output.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        where = error.filename or output.parent
        reason = f"cannot be written ({error.strerror}: {where}); give a path in a folder that you may write to"
        raise UsageError(f"{option} {output}: {reason}") from None


def _size(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


def _subsets(files: list[Path], datasets: list[str] | None, data_root: Path | None) -> dict[str, float]:
    """Take files of subsets in; return each one's method and the share of the samples that it keeps."""
    from dpbench import catalog
    from dpbench.experiments import subsets
    from dpbench.training import runner

    if len(datasets or ["digits"]) > 1:
        raise UsageError(f"--from is for one dataset, not for {', '.join(datasets or [])}; say which by --dataset")
    dataset = datasets[0] if datasets else "digits"
    taken = {}
    for file in files:
        method, left_out = subsets.take_in(file, dataset, runner.load_data(dataset, data_root))
        taken[method] = catalog.load_method(method).keep or 1.0
        if left_out:
            err.print(
                f"{file}: {left_out} of its samples are held out for validation here and left out", style="yellow"
            )
    return taken


def _numbers(found: Explained) -> Table:
    """What `explain` found, a few ranks of it, for the terminal."""
    view = Table(title=f"OrderDP: n = {found.n:,}, s = {found.s:,}, q = {found.q:,}", title_justify="left", box=None)
    for name in ("rank", "P kept", "Beta limit", "weight", "cumulative"):
        view.add_column(name, justify="right")
    shown = sorted({round(i * (len(found.ranks) - 1) / 10) for i in range(11)})
    for i in shown:
        numbers = (found.inclusion_probability[i], found.beta_limit[i])
        weights = (f"{found.surrogate_weight[i]:.3g}", f"{found.cumulative_weight[i]:.4f}")
        view.add_row(f"{found.ranks[i]:,}", *(f"{number:.4f}" for number in numbers), *weights)
    view.caption = "\n".join(
        [
            f"prune ratio {found.prune_ratio:.4f}, effective samples {found.effective_samples:,.1f}",
            *(f"the hardest {share:g} of the samples carry {weight:.4f}" for share, weight in found.tilt.items()),
            f"total variation to the plain loss {found.total_variation:.4f}, bias factor {found.bias_factor:.3g}",
        ]
    )
    view.caption_justify = "left"
    return view


def _program() -> str:
    """How this program is called here: by its name where that finds it, else by its path."""
    called = Path(sys.argv[0])
    found = shutil.which("dpbench")
    if called.name != "dpbench" or (found and Path(found).resolve() == called.resolve()):
        return "dpbench"
    return os.path.relpath(called)


def _single_threaded(threads: int) -> None:
    """Workers inherit this: numerical libraries that spin on shared cores slow each other down many times."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)


def _check_arguments(arguments: list[str]) -> None:
    """Refuse what no name, number or path has: it would be met again in file names, tables and messages."""
    for place, text in enumerate(arguments, start=1):
        if not text or re.fullmatch(r"--[\w-]+=", text):
            raise UsageError(f"argument {place} of the command line is empty{f': {text}' if text else ''}")
        if len(text) > ARGUMENT:
            raise UsageError(f"argument {place} of the command line has more than {ARGUMENT:,} characters")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
            raise UsageError(f"argument {place} of the command line has a character that is none of text: {text!r}")


def _end(message: str, code: int) -> NoReturn:
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in message)
    err.print(Text.assemble(("dpbench: ", "bold red"), shown), soft_wrap=True)
    sys.exit(code)


def main() -> None:
    """Run the command line; errors end in one line, exit code 2 for usage and 1 for failed runs."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")  # it is understood anywhere on the line
    try:
        _check_arguments(sys.argv[1:])
        code = app(prog_name="dpbench", standalone_mode=False)
    except (UsageError, RunFailed) as error:
        if debug:
            raise
        _end(str(error), 2 if isinstance(error, UsageError) else 1)
    except Misused as error:
        _end(*_misuse(error))
    except Exception as error:
        if debug:
            raise
        _end(*_accident(error))
    if code == 130:  # what Typer makes of Ctrl-C
        _end("stopped; finished runs are kept, the same command continues", 130)
    sys.exit(code)


def _misuse(error: Any) -> tuple[str, int]:
    """The line and exit code for what the parser of the command line refuses."""
    message = " ".join(error.format_message().replace(": Value error,", ":").split()).rstrip(".")
    message = message.replace("(Possible options: --help, ", "(Possible options: ")  # which is named below
    if type(error).__name__ == "NoArgsIsHelpError":  # the help has been shown
        sys.exit(2)
    command = error.ctx.command_path if error.ctx else "dpbench"
    return f"{message[:1].lower()}{message[1:]}; {command} --help tells what there is", 2


def _accident(error: Exception) -> tuple[str, int]:
    """The line and exit code for what nobody wrote a message for: trouble of the machine, else a bug."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{str(error.filename or 'a file')[:200]}: {error.strerror} (--debug shows the traceback)", 1
    if isinstance(error, MemoryError):
        return f"there is not enough memory{f': {text}' if text else ''} (--debug shows the traceback)", 1
    return f"a bug of dpbench, please report it: {type(error).__name__}: {text} (--debug shows the traceback)", 1
