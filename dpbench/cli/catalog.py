"""The catalog: `dpbench list`, `show`, and `check`, which tests whether a method follows the interface."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from typing import Annotated

import typer

from dpbench.cli import complete
from dpbench.cli.terminal import out, program
from dpbench.errors import RunFailed, UsageError
from dpbench.processes import single_threaded


class Listed(StrEnum):
    """What can be listed."""

    methods = "methods"
    datasets = "datasets"
    models = "models"
    grids = "grids"
    subsets = "subsets"


class Kind(StrEnum):
    """What methods decide on."""

    static = "static"
    epoch = "epoch"
    batch = "batch"


def list_(
    what: Annotated[Listed, typer.Argument(metavar="KIND", help="methods, datasets, models, grids or subsets.")],
    kind: Annotated[
        Kind | None, typer.Option("--kind", help="Only methods that choose once, by epoch or batch.")
    ] = None,
    search: Annotated[
        str | None, typer.Option("--search", help="Only those whose text contains all these words.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with all details.")] = False,
) -> None:
    """List methods, datasets, models, grids or published subsets, one line each; `dpbench show NAME` shows the rest.

    - `dpbench list methods --kind static --search margin`
    """
    from dpbench import catalog
    from dpbench.reports import listing

    if kind and what is not Listed.methods:
        raise UsageError(f"--kind {kind.value} is for methods; {what.value} have no kind")
    rows = listing.rows(what.value, kind and kind.value, search)
    if as_json:
        out.print_json(json.dumps(rows, default=str))
        return
    if rows:
        out.print(listing.table(what.value, rows, out.width))
    of = f"{len(rows)} {what.value}" + (f" of {len(catalog.names(what.value))}" if kind or search else "")
    out.print(f"{of}; {program()} show NAME shows more about one", style="dim", soft_wrap=True)


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A method, dataset, model, grid, subset; file.py, file.yaml.", autocompletion=complete.anything
        ),
    ],
) -> None:
    """Show all about one method, dataset, model, grid or subset: parameters, paper, cost, file.

    - `dpbench show orderdp`
    - `dpbench show quick`
    """
    from dpbench.reports import listing

    out.print(listing.show(name))


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

    name = catalog.resolve("methods", method)
    catalog.load_method(name).ready()
    single_threaded(1)
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
