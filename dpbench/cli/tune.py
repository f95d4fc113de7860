"""`dpbench tune`: search a method's declared parameters."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from dpbench.cli import complete
from dpbench.cli.options import DataRoot, TrackingUri, single_threaded
from dpbench.cli.terminal import err, out
from dpbench.errors import RunFailed, UsageError


def tune(
    method: Annotated[
        str | None,
        typer.Argument(
            help="A method: name, name[key=value,...] with fixed values, file.py.", autocompletion=complete.method
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Tune every method that has parameters.")] = False,
    dataset: Annotated[
        str, typer.Option("--dataset", help="The dataset to tune on.", autocompletion=complete.dataset)
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
        typer.Option("--grid", help="The grid whose recipe, budget and seeds are used.", autocompletion=complete.grid),
    ] = "quick",
    storage: Annotated[
        str | None, typer.Option("--storage", help="A database's URL, or a journal's path. Default: in $DPBENCH_HOME.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Parallel trials. Default: one a core, one on a GPU.")
    ] = None,
    tracking_uri: TrackingUri = None,
    data_root: DataRoot = None,
) -> None:
    """Tune a method's declared parameters by Optuna, or continue; write the best configuration as a grid.

    Trials see the validation samples only, with seeds that no grid uses. Several machines share a study through a
    database:

    Pruned trials do not count: they come on top, at most two for each.

    - `dpbench tune orderdp --dataset digits --keep 0.3 --trials 30`
    - `dpbench tune my_method.py --param start --trials 20`
    - `dpbench tune orderdp --storage postgresql+psycopg://user@server/optuna` (after `pip install "psycopg[binary]"`)
    """
    if every == (method is not None):
        raise UsageError("name a method to tune, or give --all")
    single_threaded(1)
    from dpbench import catalog
    from dpbench.experiments import grid as grids
    from dpbench.experiments.plan import Plan, tunable
    from dpbench.grid_file import load_grid
    from dpbench.reports import study as studies
    from dpbench.reports import tracking
    from dpbench.training import runner

    base, device, dataset = load_grid(grid), runner.default_device(), catalog.resolve("datasets", dataset)
    plans = [
        Plan(
            method=name,
            dataset=dataset,
            model=catalog.resolve("models", model) if model else catalog.fitting(base.models, [dataset])[0],
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
        catalog.load_method(method).ready()
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
