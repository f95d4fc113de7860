"""`dpbench run`: the grid that the options describe, run or continued, and its leaderboard."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpbench.cli import ahead, complete
from dpbench.cli.options import (
    Columns,
    DataRoot,
    Every,
    ExecutorName,
    ExecutorOptions,
    Notes,
    Sort,
    TrackingUri,
    Wide,
    asked_executor,
    grid_name,
    wanted_columns,
)
from dpbench.cli.terminal import err, out, program, size, tell_what_next
from dpbench.errors import RunFailed, UsageError, check_keep
from dpbench.processes import rank_and_size, single_threaded

if TYPE_CHECKING:
    import torch

    from dpbench.reports.screen import Wanted
    from dpbench.spec import Grid

MUCH = 1e8  # bytes of proxy records that are worth a line


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
            "--only", help="Run only these methods of GRID, and those that are added.", autocompletion=complete.method
        ),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="A subset to train on, as another method: a file of `dpbench subset`, or a list of positions among "
            "the dataset's own training samples, .npy, .npz, .pt, .pkl or text.",
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="Instead of GRID's; may be a file.py.", autocompletion=complete.dataset),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="Instead of GRID's; may be a file.py or file.py:function.", autocompletion=complete.model
        ),
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
    executor: ExecutorName = None,
    executor_option: ExecutorOptions = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", min=1, max=1024, help="GPUs, or processes on the CPU, that share each run."),
    ] = None,
    sync_batchnorm: Annotated[
        bool, typer.Option("--sync-batchnorm", help="Normalise by the batch of all devices, not of each.")
    ] = False,
    cell_timeout: Annotated[
        float | None,
        typer.Option(
            "--cell-timeout",
            min=1,
            max=1e8,
            help="Seconds after which a run is killed and counts as failed. Default: a day.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of a grid made from options. Default: custom.", callback=grid_name),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run nothing: estimate time, memory and disk of what is not done.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Try every cell on a few small batches, apart from all results.")
    ] = False,
    list_commands: Annotated[
        bool, typer.Option("--list-commands", help="Run nothing: print one command for each cell that is not done.")
    ] = False,
    until_separated: Annotated[
        bool,
        typer.Option(
            "--until-separated",
            help="Add seeds to rows that are neither separated from a control nor shown to be like it: twice as many, "
            "and so on. Verdicts then share their 5 % among these looks.",
        ),
    ] = False,
    max_seeds: Annotated[
        int | None,
        typer.Option("--max-seeds", min=3, help="The most seeds of --until-separated. Default: four times the grid's."),
    ] = None,
    cell: Annotated[
        str | None, typer.Option("--cell", help="Run this cell alone, a hash that --list-commands has printed.")
    ] = None,
    tracking_uri: TrackingUri = None,
    data_root: DataRoot = None,
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
    - `dpbench run quick --until-separated --max-seeds 20`
    """
    from dpbench import claims
    from dpbench.analysis import separation
    from dpbench.experiments import grid as grids
    from dpbench.experiments import launched, unchanged
    from dpbench.grid_file import load_grid
    from dpbench.reports import tracking

    other = [given for given in (dry_run, smoke, list_commands, cell) if given]
    if len(other) > 1:
        raise UsageError("of --dry-run, --smoke, --list-commands and --cell give one")
    if until_separated and other:
        raise UsageError("--until-separated runs a grid; of --dry-run, --smoke, --list-commands and --cell give none")
    if max_seeds and not until_separated:
        raise UsageError("--max-seeds is the limit of --until-separated; without it, give --seeds")
    if smoke and files:
        raise UsageError("--smoke shrinks the data, which the lists of --from would not fit; leave --from out")
    wanted = wanted_columns(wide, columns, sort, every, notes)
    rank, size = rank_and_size()
    if size > 1 and (devices or size) != size:
        raise UsageError(f"--devices {devices}: torchrun has started {size} processes; leave --devices out")
    if size > 1 and (dry_run or smoke or list_commands):
        raise UsageError("--dry-run, --smoke and --list-commands need one process; leave torchrun out")
    if size > 1 and (cell_timeout or (jobs or 1) > 1):
        raise UsageError("--cell-timeout and --jobs are for processes that dpbench starts; use --devices, not torchrun")
    devices = size if size > 1 else devices
    of = {"method": method, "only": only, "dataset": dataset, "model": model, "keep": keep, "seeds": seeds}
    of |= {"devices": devices, "sync_batchnorm": sync_batchnorm}
    command = unchanged.command(grid, **of, name=name, data_root=data_root)
    known = None if files or device or other or until_separated or size > 1 else unchanged.find(command)
    if known:
        tracking.check(tracking_uri)
        asked_name, cells = known
    else:
        claimed = claims.read(grid, load_grid(grid)) if grid else None
        spread = {"devices": devices} if devices else {}
        spread |= {"sync_batchnorm": True} if sync_batchnorm else {}
        asked = _grid(grid, method or [], only or [], files or [], dataset, model, keep, seeds, name, data_root, spread)
        single_threaded(threads)
        if rank:
            return launched.follow(_device(device), threads, data_root)
        with launched.leading():  # whatever ends this process, the other ranks hear of it
            tracking.check(tracking_uri)
            timeout = cell_timeout or grids.CELL_TIMEOUT_S
            if dry_run:
                return ahead.dry_run(asked, jobs, threads, _device(device), data_root, executor)
            if smoke:
                return ahead.smoke(asked, jobs, _device(device), data_root)
            if list_commands:
                return ahead.list_commands(asked, data_root, claimed)
            data = None if files else unchanged.data(asked.datasets, data_root)
            engine = asked_executor(asked.executor, executor, executor_option or [])
            if engine and device:
                raise UsageError(
                    "--device is for this machine; ask for GPUs by --executor-option, for instance num_gpus=1"
                )
            if engine and size > 1:
                raise UsageError("an executor starts its processes itself; leave torchrun out, and give --devices")
            run_grid = partial(
                grids.run_grid,
                console=err,
                jobs=jobs,
                threads=threads,
                device=None if engine else _device(device),
                data_root=data_root,
                cell_timeout_s=timeout,
                executor=engine,
                claims=claimed,
            )
            if cell:
                return ahead.cell(asked, cell, threads, _device(device), data_root, timeout)
            if until_separated:
                made = separation.run(separation.planned(asked, max_seeds), run_grid, partial(err.print, style="dim"))
            else:
                made = run_grid(asked)
        asked_name, cells = asked.name, list(made)
        if not until_separated:
            unchanged.remember(command, asked_name, cells, data)
    show(asked_name, cells, wanted, tracking_uri, data_root, ran=not known)


def show(
    name: str, cells: list[str], wanted: Wanted, tracking_uri: str | None, data_root: Path | None, ran: bool = True
) -> None:
    """Print the board of a grid that has these cells, and send it; RunFailed if some of them failed."""
    from dpbench.analysis import board as boards
    from dpbench.reports import screen, send

    board = boards.load(name, data_root)
    out.print(screen.screen(board, out.width, wanted))
    if ran:
        _tell_of_records()
    results = board.results | board.controls
    failed = [key for key in cells if (one := results.get(key)) and one["status"] == "FAILED"]
    tell_what_next(board, tracking_uri)
    send.publish(board, tracking_uri, err)
    if failed:
        raise RunFailed(
            f"{len(failed)} of {len(cells)} runs failed; the others are kept; run the same command to try again"
        )


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
    spread: dict[str, Any],
) -> Grid:
    """Build the grid that the options describe; `spread` are those for several devices."""
    from dpbench import catalog
    from dpbench.grid_file import change_grid, load_grid
    from dpbench.spec import canonical

    if name is None and not methods and not files:
        raise UsageError("name a grid (try: dpbench run quick), or give at least one --method or --from")
    if name is None and only:
        raise UsageError("--only restricts a GRID; without one, list the methods by --method")
    if name is not None and own_name is not None:
        raise UsageError("--name is for a grid made from options; a GRID has its name")
    base = load_grid(name or "quick")
    datasets = [catalog.resolve("datasets", text) for text in dataset or (base.datasets if name else ["digits"])]
    datasets = list(dict.fromkeys(datasets))
    if files:
        subsets = _subsets(files, datasets, data_root)
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
    models = [catalog.resolve("models", text) for text in model or catalog.fitting(base.models, datasets)]
    changes: dict[str, Any] = {
        "name": base.name if name else (own_name or "custom"),
        "methods": chosen,
        "datasets": datasets,
        "models": list(dict.fromkeys(models)),
        "keep": list(dict.fromkeys(keep or base.keep)),
        "keep_schedules": [] if keep else base.keep_schedules,
        "seeds": base.seeds if seeds is None else seeds,
        **spread,
    }
    for share in changes["keep"]:
        check_keep(share, f"--keep {share:g}")
    if changes["seeds"] < 1:
        raise UsageError(f"--seeds {changes['seeds']}: at least 1 is needed")
    for text in changes["models"]:
        catalog.check_model(text)
    return change_grid(base, changes)


def _subsets(files: list[Path], datasets: list[str], data_root: Path | None) -> dict[str, float]:
    """Import files of subsets; return the method and the share of the samples of each."""
    from dpbench import catalog
    from dpbench.experiments import subsets
    from dpbench.training import loading

    if len(datasets) > 1:
        raise UsageError(f"--from is for one dataset, not for {', '.join(datasets)}; say which by --dataset")
    [dataset], taken = datasets, {}
    for file in files:
        method, left_out = subsets.take_in(file, dataset, loading.load_data(dataset, data_root))
        taken[method] = catalog.load_method(method).requires().fixed_keep or 1.0
        if left_out:
            err.print(f"{file}: {left_out} of its samples are not trained on here and left out", style="yellow")
    return taken


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


def _tell_of_records() -> None:
    """Print the size of the proxy records if they are large."""
    from dpbench.training import proxy

    taken = sum(record.size for record in proxy.records())
    if taken >= MUCH:
        out.print(f"Proxy records take {size(taken)}; delete them:  [bold]{program()} cache clear[/]", soft_wrap=True)
