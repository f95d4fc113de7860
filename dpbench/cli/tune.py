"""`dpbench tune`: search a method's declared parameters and values of the recipe, of one method or of a whole grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from dpbench.cli import complete
from dpbench.cli.options import DataRoot, ExecutorName, ExecutorOptions, TrackingUri, asked_executor
from dpbench.cli.terminal import err, out
from dpbench.errors import RunFailed, UsageError
from dpbench.processes import check_alone, single_threaded

if TYPE_CHECKING:
    from dpbench.experiments.executors import Executor
    from dpbench.spec import Grid


def tune(
    method: Annotated[
        str | None,
        typer.Argument(
            help="A method: name, name[key=value,...] with fixed values, file.py.", autocompletion=complete.method
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Tune every row of the grid, then run it as GRID_tuned.")
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="The dataset to tune on. Default: digits.", autocompletion=complete.dataset),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Instead of the grid's first.", autocompletion=complete.model)
    ] = None,
    keep: Annotated[
        float | None, typer.Option("--keep", help="Share of the samples kept, in (0, 1]. Default: 0.3.")
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", help="Trials of a study that are not pruned, earlier commands included.")
    ] = 30,
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds of a trial, from 1000 on.")] = 3,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", help="Search only these parameters.", autocompletion=complete.param),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", help="Values of the recipe to search, too: lr or lr,weight_decay. Default: none, with --all lr."
        ),
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
    executor: ExecutorName = None,
    executor_option: ExecutorOptions = None,
    tracking_uri: TrackingUri = None,
    data_root: DataRoot = None,
) -> None:
    """Tune a method's parameters, and values of the recipe, by Optuna, or continue; write the best ones as a grid.

    Trials see the validation samples only, with seeds that no grid uses. Several machines share a study through a
    database:

    Pruned trials do not count: they come on top, at most two for each.

    - `dpbench tune orderdp --dataset digits --keep 0.3 --trials 30`
    - `dpbench tune uniform --recipe lr`
    - `dpbench tune --grid quick --all`
    - `dpbench tune my_method.py --param start --trials 20`
    - `dpbench tune orderdp --executor slurm --executor-option partition=gpu`
    - `dpbench tune orderdp --storage postgresql+psycopg://user@server/optuna` (after `pip install "psycopg[binary]"`)
    """
    check_alone("dpbench tune")
    if every == (method is not None):
        raise UsageError("name a method to tune, or give --all")
    given = {"--dataset": dataset, "--model": model, "--keep": keep, "--param": param, "--two-objectives": both or None}
    if every and (other := [option for option, value in given.items() if value is not None]):
        raise UsageError(f"{other[0]} is for one method; --all tunes every row of the grid")
    single_threaded(1)
    from dpbench import catalog, claims
    from dpbench.experiments import grid as grids
    from dpbench.experiments.plan import Plan
    from dpbench.grid_file import load_grid
    from dpbench.reports import study as studies
    from dpbench.reports import tracking
    from dpbench.training import runner

    base = load_grid(grid)
    engine = asked_executor(base.executor, executor, executor_option or [])
    device = None if engine else runner.default_device()
    values = tuple(filter(None, ("lr" if every and recipe is None else recipe or "").replace(" ", "").split(",")))
    options: dict[str, Any] = {"trials": trials, "seeds": seeds, "recipe": values, "storage": storage}
    options |= {"data_root": data_root, "device": str(device) if device else None}
    jobs = jobs or grids.default_jobs(device)
    tracking.check(tracking_uri)
    if method is None:
        return _tune_all(base, claims.read(grid, base), options, jobs, engine, tracking_uri)
    dataset = catalog.resolve("datasets", dataset or "digits")
    plan = Plan(
        method=method,
        dataset=dataset,
        model=catalog.resolve("models", model) if model else catalog.fitting(base.models, [dataset])[0],
        keep=0.3 if keep is None else keep,
        grid=base,
        params=tuple(param or ()),
        two_objectives=both,
        **options,
    )
    catalog.load_method(method).ready()
    study = studies.run(plan, jobs, tracking_uri, err, engine)
    out.print(studies.table([study.summary]))
    for file in study.grids[:1]:
        out.print(f"Final figures, fresh seeds, test set:  [bold]dpbench run[/] {escape(str(file))}", soft_wrap=True)
    if len(study.grids) > 1:
        out.print(f"The other {len(study.grids) - 1} points of the Pareto front: pareto-*.yaml beside it")
    if lost := max(0, trials - study.summary["trials"] + study.summary["failed"]):
        raise RunFailed(f"{lost} of {trials} trials failed: {study.summary['reason'] or 'their workers died'}")


def _tune_all(
    base: Grid,
    claimed: str | None,
    options: dict[str, Any],
    jobs: int,
    engine: Executor | None,
    tracking_uri: str | None,
) -> None:
    """Tune each row of the grid, write the tuned grid, run it and show its board; each step goes on where it stopped.

    What is claimed of the grid is claimed of the tuned one, too.
    The studies are not drawn: `dpbench tune METHOD` with the same options does that with the same trials.
    """
    from dpbench import catalog
    from dpbench.cli.run import show
    from dpbench.experiments import grid as grids
    from dpbench.experiments import tuned_grid
    from dpbench.reports import study as studies
    from dpbench.reports.screen import Wanted

    for text in base.methods:
        catalog.load_method(text).ready()
    plans = tuned_grid.plans(base, **options)
    name, file, data_root = tuned_grid.name(base), tuned_grid.path(base), options["data_root"]
    found = studies.carry_out(plans, jobs, name, err, engine)
    summaries = [studies.summary(plan, found[plan.name]) for plan in plans]
    out.print(studies.table(summaries))
    if lost := sum(max(0, plan.trials - one["trials"]) for plan, one in zip(plans, summaries, strict=True)):
        raise RunFailed(f"{lost} trials were not made, their workers died; the same command goes on")
    tuned = tuned_grid.tuned(base, plans, found)
    tuned_grid.write(tuned, file)
    out.print(f"Run it again, on any machine:  [bold]dpbench run[/] {escape(str(file))}", soft_wrap=True)
    cells = grids.run_grid(tuned, err, jobs, data_root=data_root, executor=engine, claims=claimed)
    show(name, list(cells), Wanted(), tracking_uri, data_root)
