"""The options and checks that several commands share."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from dpbench.cli import complete
from dpbench.errors import UsageError

if TYPE_CHECKING:
    from dpbench.experiments.executors import Executor
    from dpbench.reports.screen import Wanted


def grid_name(name: str | None) -> str | None:
    """Check what names a grid's files."""
    from dpbench.spec import check_name

    try:
        return name and check_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from None


def wanted_columns(wide: bool, columns: str | None, sort: str | None, every: bool, notes: bool) -> Wanted:
    """What to show; UsageError for an unknown column, before any work."""
    from dpbench.reports.screen import Wanted

    names = tuple(name.strip() for name in (columns or "").split(",") if name.strip())
    return Wanted(wide, names, sort or "", every, notes)


def check_writable(option: str, output: Path) -> None:
    """Try to write before any work, in the nearest existing folder: permissions alone do not tell."""
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


def asked_executor(of_grid: dict[str, Any], name: str | None, given: list[str]) -> Executor | None:
    """What carries a grid out: as the options say, else as the grid does; None for this machine."""
    from dpbench.experiments import cluster

    options = {key: value for key, value in of_grid.items() if key != "use"} if name in (None, of_grid["use"]) else {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageError(f"--executor-option {text}: KEY=VALUE is needed")
        try:
            options[key.replace("-", "_")] = value if ":" in value else yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--executor-option {text}: {value!r} is no value; quote it as YAML does") from None
    return cluster.executor(name or of_grid["use"], options)


Wide = Annotated[bool, typer.Option("--wide", help="Show all columns.")]
Columns = Annotated[
    str | None, typer.Option("--columns", help="Show these columns: a,b,...", autocompletion=complete.columns)
]
Sort = Annotated[
    str | None,
    typer.Option("--sort", help="Sort by this column, the best first; -NAME the worst.", autocompletion=complete.sort),
]
Every = Annotated[bool, typer.Option("--all", help="Show all rows, however many.")]
Notes = Annotated[bool, typer.Option("--notes", help="Show all notes about the rows.")]
TrackingUri = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="MLflow server or database. Default: MLFLOW_TRACKING_URI, else SQLite."),
]
DataRoot = Annotated[Path | None, typer.Option("--data-root", help="Folder with the dataset's files.")]
ExecutorName = Annotated[
    str | None, typer.Option("--executor", help="local, slurm or ray. Default: the grid's, else local.")
]
ExecutorOptions = Annotated[
    list[str] | None,
    typer.Option("--executor-option", help="KEY=VALUE for the executor, for instance partition=gpu, time=120."),
]
RunHere = Annotated[
    str, typer.Argument(help="A grid that was run here.", callback=grid_name, autocompletion=complete.run_grid)
]
