"""What `dpbench run` does with a grid other than running it: an estimate, a try, commands for its cells, one cell."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from dpbench.cli.terminal import err, out, program, size
from dpbench.errors import RunFailed

if TYPE_CHECKING:
    import torch

    from dpbench.experiments.estimate import Part
    from dpbench.spec import Grid


def dry_run(
    grid: Grid,
    jobs: int | None,
    threads: int,
    device: torch.device,
    data_root: Path | None,
    executor: str | None = None,
) -> None:
    """Print what is left to do of a grid, and what it will take."""
    import torch

    from dpbench import catalog
    from dpbench.experiments import estimate as estimates
    from dpbench.experiments import gang
    from dpbench.experiments import grid as grids

    devices = grid.devices
    if devices > 1 and (executor or grid.executor["use"]) == "local":
        jobs, _ = gang.of(devices, device, jobs, threads)
    torch.set_num_threads(threads)
    with err.status("reading the data") as status:
        found = estimates.estimate(grid, device, data_root, lambda line: status.update(line))
    cuda, whole = device.type == "cuda", found.whole
    left = found.cells - found.done
    out.print(f"{grid.name}: {found.cells:,} cells, {found.done:,} of them done, {left:,} to run")
    if not left:
        return
    view = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    for name in ("", "runs", "samples", "GPU time" if cuda else "core time"):
        view.add_column(name, justify="left" if not name else "right")

    def line(title: str, part: Part) -> None:
        seconds = part.seconds * (1 if cuda else threads) * devices
        view.add_row(title, f"{part.cells:,}", _count(part.samples), _hours(seconds))

    for (dataset, model), part in found.parts.items():
        line(f"{dataset}, {model}", part)
    line("controls at realised cost, at least", found.controls)
    line("proxy trainings", found.proxies)
    line("all", whole)
    out.print(view)
    workers = min(jobs or grids.default_jobs(device), left)
    of = f"{workers} {'worker' if workers == 1 else 'workers'}" + (f" of {threads} threads" if threads > 1 else "")
    of += f" on {devices} devices{' each' if workers > 1 else ''}" if devices > 1 else ""
    out.print(f"time     {_hours(whole.seconds / workers)} with {of}, if nothing else uses them")
    processes = workers * devices
    out.print(f"memory   {processes} x {size(round(found.memory * 2**20))}{' beside that of the GPU' if cuda else ''}")
    proxies, disk = size(round(found.proxy_bytes)), size(round(found.run_bytes + found.proxy_bytes))
    out.print(f"disk     {disk}, {proxies} of it proxy records")
    low, high = estimates.LIKELY
    out.print(
        f"Expect {low:g} to {high:g} times this time. It does not count the time in which methods choose samples, nor "
        "that some methods decide themselves how much to prune, often less than is asked, nor the controls that they "
        "then need. Samples are those sent backward.",
        style="dim",
    )
    if devices > 1:
        out.print(
            f"Several devices are not measured: one was, and its training and evaluation are divided by {found.share}, "
            "which leaves out what the devices send each other. Proxies, probes and starting a run are not divided.",
            style="yellow",
        )
    if found.made:
        made = dict.fromkeys(catalog.parse(text)[0] for text in found.made)
        out.print(f"Calibrated on made files, since their own are not here: {', '.join(made)}", style="yellow")


def _count(samples: float) -> str:
    return f"{samples / 1e9:,.2f} G" if samples >= 1e9 else f"{samples / 1e6:,.2f} M"


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def smoke(grid: Grid, jobs: int | None, device: torch.device, data_root: Path | None) -> None:
    """Try every cell of a grid on a few batches; a line for each that fails."""
    from dpbench.experiments import grid as grids
    from dpbench.experiments import smoke as smokes

    failed: list[str] = []
    cells = 0
    with err.status(f"trying {grid.name}") as status:
        tried = smokes.smoke([grid], jobs or grids.default_jobs(device), device, data_root)
        for number, (cells, one, why) in enumerate(tried, 1):
            status.update(f"trying {grid.name}: {number} of {cells} cells, {len(failed)} failed")
            failed += [f"{one.title}: {why}"] if why else []
    for text in failed:
        out.print(text, markup=False, soft_wrap=True)
    if failed:
        raise RunFailed(f"{len(failed)} of {cells} cells of {grid.name} fail on a few batches")
    out.print(f"{grid.name}: all {cells} cells run on a few batches")


def cell(grid: Grid, key: str, threads: int, device: torch.device, data_root: Path | None, timeout_s: float) -> None:
    """Run one cell of a grid that was listed, with the controls of its row after the row's last seed."""
    from dpbench.experiments import cells
    from dpbench.training.results import read_result

    for one in cells.run_cell(grid.name, key, err, threads, device, data_root, timeout_s):
        result = read_result(one)
        if result is None or result["status"] == "FAILED":
            raise RunFailed(f"the run {one} failed: {result['reason'] if result else 'it left no result'}")


PLUGINS = ("DPBENCH_PATH", "DPBENCH_DEEPCORE")  # where plug-ins lie


def list_commands(grid: Grid, data_root: Path | None, claims: str | None) -> None:
    """Print a command for each cell that is not done: this one's, with the cell in the place of --list-commands."""
    from dpbench import store
    from dpbench.experiments import cells

    found, count = cells.listed(grid, data_root, claims)
    given = [text for text in sys.argv[1:] if text != "--list-commands"]
    start = f"cd {shlex.quote(os.getcwd())} && "  # where relative paths lead on
    known = {"DPBENCH_HOME": str(store.home())} | {key: os.environ[key] for key in PLUGINS if key in os.environ}
    start += "".join(f"{key}={shlex.quote(value)} " for key, value in known.items())
    for key in found:
        print(start + shlex.join([*_called(), *given, "--cell", key]))
    err.print(f"{len(found)} of {count} cells are not done. Run these in any order, then this without --list-commands.")


def _called() -> list[str]:
    """The words that start this program from any folder."""
    if Path(sys.argv[0]).suffix == ".py":
        return [sys.executable, "-m", "dpbench.cli"]
    return ["dpbench" if program() == "dpbench" else os.path.abspath(program())]
