"""`dpbench submit`, `dpbench verify` and `dpbench log`: results that others can check, and what came of it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from dpbench.cli.options import DataRoot, RunHere, check_writable
from dpbench.cli.terminal import err, out, size
from dpbench.errors import RunFailed
from dpbench.processes import check_alone


def submit(
    grid: RunHere,
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle to write, as results.zip.")],
) -> None:
    """Write a grid's results as one file that others can check: a bundle.

    It holds the grid, specs, results, predictions, selections, the source of methods, datasets and models, versions,
    and the sha256 of each part. Others check it by `dpbench verify FILE` and take it in by `dpbench merge FILE`.
    """
    from dpbench.experiments import bundle, history

    check_writable("--output", output)
    written = bundle.write(grid, output)
    if output.is_file():
        history.add("submitted", grid=grid, file=str(output), sha256=history.sha256(output))
    out.print(f"{output}: {written.runs} runs, {size(output.stat().st_size)}", markup=False, soft_wrap=True)
    if written.missing:
        err.print(f"{written.missing} cells have no result yet and are not in it", style="yellow")
    if written.without_source:
        what = ", ".join(written.without_source)
        err.print(f"without the source of {what}: it was changed since, or is no code", markup=False, soft_wrap=True)


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bundle of `dpbench submit`.")],
    cells: Annotated[int, typer.Option("--cells", min=0, help="How many runs to make again.")] = 3,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Draw the runs by this seed. Default: one at random.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Parallel runs. Default: one a core.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Check a bundle: hashes and structure of all, then some of its runs, drawn at random, by making them again.

    On a CPU they must agree exactly but for times and memory; on a GPU, whose sums are not reproducible, within an
    interval. The exit code is 1 unless all is sound and each run drawn agrees. No code of the bundle is run: runs of
    other code than what is installed here are named, and not made again.
    """
    from dpbench.experiments import history
    from dpbench.experiments import verify as checks

    check_alone("dpbench verify")
    drawn_by = secrets.randbelow(2**31) if seed is None else seed
    found = checks.verify(file, cells, drawn_by, err, jobs, data_root)
    for fault in found.faults:
        out.print(f"wrong: {fault}", markup=False, soft_wrap=True)
    words = {True: "agrees", False: "DOES NOT AGREE", None: "not run again"}
    for verdict in found.verdicts:
        out.print(f"{verdict.title}: {words[verdict.agrees]}: {verdict.why}", markup=False, soft_wrap=True)
    made = {verdict.run: verdict.agrees for verdict in found.verdicts if verdict.agrees is not None}
    if made:
        history.add("verified", file=str(file), sha256=history.sha256(file), runs=made, **found.results)
    agreeing = sum(verdict.agrees is True for verdict in found.verdicts)
    told = f"{found.sound} sound runs; {agreeing} of {len(found.verdicts)} drawn by --seed {drawn_by} agree"
    if found.faults or agreeing < len(found.verdicts):
        raise RunFailed(f"{told}; {len(found.faults)} faults in the bundle")
    out.print(told)


def log() -> None:
    """Print the log of the results folder: bundles submitted, merged and verified, folders merged, boards packed.

    It is `$DPBENCH_HOME/log.jsonl`, one line of JSON each, to which lines are only ever added.
    """
    from dpbench.experiments import history

    for entry in history.entries():
        out.print(history.words(entry), markup=False, soft_wrap=True)
