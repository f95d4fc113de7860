"""OrderDP's theory and experiments: `dpbench explain`, `theory` and `figure4`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dpbench.cli import complete
from dpbench.cli.options import check_writable, grid_name
from dpbench.cli.terminal import err, out
from dpbench.errors import UsageError
from dpbench.processes import single_threaded

if TYPE_CHECKING:
    from dpbench.orderdp.explain import Explained


def explain(
    method: Annotated[
        str,
        typer.Argument(
            help="orderdp, the only method whose theory is implemented.", autocompletion=lambda: ["orderdp"]
        ),
    ],
    n: Annotated[int, typer.Option("--n", min=1, max=10**9, help="Number of samples.")],
    keep: Annotated[float, typer.Option("--keep", help="Share of the samples kept, q / n.")],
    explore: Annotated[float, typer.Option("--explore", help="Share of the samples that are candidates, s / n.")] = 0.8,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the probability of every rank shown.")] = False,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw it to this PNG, PDF or SVG file.")] = None,
) -> None:
    """Explain what a method does to n samples: how often each rank is kept, and which loss that minimises."""
    from dpbench import store
    from dpbench.orderdp import explain as explained

    if method != "orderdp":
        raise UsageError(f"cannot explain {method!r}; theory is known for orderdp")
    try:
        found = explained.explain(n, explore, keep)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if figure is not None:
        if figure.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise UsageError(f"--figure {figure}: the name ends in .png, .pdf or .svg")
        check_writable("--figure", figure)
        form = figure.suffix.lower()[1:]
        store.write(figure, lambda file: explained.figure(found).savefig(file, format=form))
    if explore < keep:
        said = f"explore = {explore:g} is below keep = {keep:g} and counts as that, as in a run: uniform sampling"
        err.print(said, style="yellow")
    print(json.dumps(explained.report(found))) if as_json else out.print(_numbers(found))


def theory_(
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter runs that take seconds; too short to show the rates.")
    ] = False,
    to: Annotated[Path | None, typer.Option("--to", help="Folder. Default: theory/ under $DPBENCH_HOME.")] = None,
) -> None:
    """Run OrderDP's theorems as experiments; write figures, numbers as JSON, and a page that says what held.

    The page has the runs of the grid `theory` too, where that was run: `dpbench run theory`.
    """
    single_threaded(1)
    from dpbench import store
    from dpbench.experiments import grid as grids
    from dpbench.orderdp import experiments, page, two_forms

    folder = to or store.home() / "theory"
    check_writable("--to", folder / "README.md")
    was_run = grids.manifest_path(two_forms.GRID).is_file()
    results = grids.results(grids.read_manifest(two_forms.GRID).cells) if was_run else {}
    with err.status("theorems") as status:
        found = experiments.run(
            folder, experiments.QUICK if quick else experiments.FULL, status.update, results.values()
        )
    for name, numbers in found.items():
        out.print(f"{name:<15}", page.VERDICTS[numbers["held"]])
    out.print(f"The page: {escape(str(folder / 'README.md'))}", soft_wrap=True)


def figure4(
    grid: Annotated[
        str,
        typer.Argument(
            help="A grid that was run here, with several values of orderdp's explore.",
            callback=grid_name,
            autocompletion=complete.run_grid,
        ),
    ] = "figure4",
    to: Annotated[Path | None, typer.Option("--to", help="Folder. Default: figure4/GRID/ under $DPBENCH_HOME.")] = None,
) -> None:
    """Test whether the decomposition of a prune ratio into s/n and q/s matters; draw it. First: dpbench run GRID."""
    from dpbench import store
    from dpbench.orderdp import figure4 as tested

    folder = to or store.home() / "figure4" / grid
    check_writable("--to", folder / "README.md")
    for statement in tested.write(grid, folder):
        out.print(statement.text, soft_wrap=True)
    out.print(f"The figure: {escape(str(folder / 'figure4.png'))}", soft_wrap=True)


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
