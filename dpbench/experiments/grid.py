"""Run a grid: what is not done yet, in parallel, and recorded under the grid's name."""

from __future__ import annotations

import difflib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rich.console import Console
from rich.markup import escape

from dpbench import catalog, store, tuned
from dpbench.claims import Registered, merged, register
from dpbench.errors import RunFailed, UsageError
from dpbench.experiments import controls, gang
from dpbench.experiments.executors import AT_ONCE, Executor, Worker, run_all
from dpbench.experiments.jobs import Job, do
from dpbench.experiments.progress import Running
from dpbench.processes import cores
from dpbench.recipe import Recipe
from dpbench.setting import Setting
from dpbench.spec import Grid, RunSpec
from dpbench.training.results import RunResult, is_done, read_result

if TYPE_CHECKING:  # torch takes seconds to import, and whoever shows a board does without
    import torch

    from dpbench.training.proxy import Request

NOT_RUN = "not run: "  # how the reason of a run begins that was left out
CELL_TIMEOUT_S = 24 * 3600.0  # a run that takes longer hangs, unless the user says otherwise


class Manifest(NamedTuple):
    """A grid, its cells, and the controls at realised cost that it was given beside them, by hash; and its claims."""

    grid: Grid
    cells: dict[str, RunSpec]
    controls: dict[str, RunSpec]
    claims: tuple[Registered, ...] = ()  # the last one counts

    def save(self) -> None:
        """Write it where `read_manifest` reads it."""
        parts = {"cells": self.cells, "controls": self.controls}
        content = {name: {key: spec.model_dump() for key, spec in part.items()} for name, part in parts.items()}
        registered = {"claims": [one.model_dump() for one in self.claims]} if self.claims else {}
        store.write_json(manifest_path(self.grid.name), {"grid": self.grid.model_dump()} | content | registered)


M = TypeVar("M", Manifest, Manifest | None)


def manifest_path(name: str) -> Path:
    """Where the cells of a grid are listed."""
    return store.home() / "grids" / f"{name}.json"


def write_manifest(grid: Grid, cells: dict[str, RunSpec], claims: str | None = None) -> Manifest:
    """List the grid's cells by hash, register the text of its claims, and return the manifest with all of them.

    A tuned grid has the claims of the grid that it is the tuned track of, since their date: the two share runs.
    Cells of earlier commands stay in the grid (methods that were added, other seeds) while recipe, data and what tuning
    found are the same and no new cell takes their place, as one with a changed source does.
    """
    specs = set(cells.values())
    data = {spec.dataset: spec.data for spec in specs}
    fixed = find_manifest(name) if (name := tuned.base(grid.name)) else None

    def listed(old: Manifest | None) -> Manifest:
        before, beside = (old.cells, old.controls) if old and old.grid.tuned == grid.tuned else ({}, {})
        recipes = {spec.recipe for spec in specs}  # one of which a control at realised cost has
        kept = {key: spec for key, spec in before.items() if spec not in specs and _fits(spec, grid, data)}
        controls_ = {key: spec for key, spec in beside.items() if _fits(spec, grid, data, recipes)}
        settled = grid.looked_at_as(old.grid if old else None)
        known = merged(old.claims if old else (), fixed.claims if fixed else ())
        return Manifest(settled, cells | kept, controls_, register(known, claims, time.time()))

    return _change(grid.name, find_manifest, listed)


def _fits(spec: RunSpec, grid: Grid, data: dict[str, str], recipes: Collection[Recipe] = ()) -> bool:
    """Whether a run was made with the grid's present settings, or one of the recipes, and of its dataset's data."""
    same_data = data.get(spec.dataset, spec.data) == spec.data
    same_recipe = spec.recipe == grid.recipe_at(spec.row) or spec.recipe in recipes
    same = all(getattr(spec, name) == getattr(grid, name) for name in Setting.model_fields)
    return same_data and same_recipe and same


def list_controls(name: str, plan: Callable[[Manifest], dict[str, RunSpec]]) -> dict[str, RunSpec]:
    """Make what `plan` finds the controls of the grid's manifest; return them."""
    return _change(name, read_manifest, lambda old: old._replace(controls=plan(old))).controls


def all_controls(manifest: Manifest) -> dict[str, RunSpec]:
    """The controls at realised cost of all that is finished by now, by whichever command."""
    return controls.plan(manifest.cells, results(manifest.cells))


def _change(name: str, read: Callable[[str], M], change: Callable[[M], Manifest]) -> Manifest:
    """Change a grid's manifest; one that stays the same is not written, so that a finished grid needs no place."""
    old = read(name)
    if (same := change(old)) == old:
        return same
    with locked(name):
        manifest = change(read(name))
        manifest.save()
    return manifest


def locked(name: str) -> AbstractContextManager[None]:
    """Hold a grid's manifest, so that several commands that add to it lose nothing of each other's."""
    return store.locked(manifest_path(name).with_name(f".{name}.lock"))


def find_manifest(name: str) -> Manifest | None:
    """The manifest of a grid, None if there is none, or none that can be read."""
    return store.read_json(manifest_path(name), parse_manifest)


def read_manifest(name: str) -> Manifest:
    """Read a grid that was run here, and its cells by hash."""
    manifest = find_manifest(name)
    if manifest is None:
        known = sorted(path.stem for path in manifest_path("x").parent.glob("*.json"))
        near = difflib.get_close_matches(name, [*known, *catalog.names("grids")], n=1)
        hint = f"grids that were: {', '.join(known)}" if known and name not in near else f"try: dpbench run {name}"
        hint = f"did you mean {near[0]}?" if near and name not in near else hint
        raise UsageError(f"no grid {name!r} was run under {store.home()}; {hint}")
    if not manifest.cells:
        raise UsageError(f"the grid {name!r} was run by another version of dpbench; try: dpbench run {name}")
    return manifest


def parse_manifest(content: dict[str, Any]) -> Manifest:
    """Validate what `Manifest.save` wrote, without runs that are written as another version does; ValueError."""
    grid = Grid.model_validate(content["grid"])
    claims = tuple(Registered.model_validate(one) for one in content.get("claims", []))
    return Manifest(grid, _runs(content["cells"]), _runs(content.get("controls", {})), claims)


def _runs(part: dict[str, Any]) -> dict[str, RunSpec]:
    found = {}
    for key, content in part.items():
        if not store.HASH.fullmatch(key):
            raise ValueError(f"{key!r} is no hash of a run")
        try:
            found[key] = RunSpec.model_validate(content)
        except ValueError:
            continue
    return found


def last() -> str:
    """The grid that was run last, of those that can be read."""
    paths = list(manifest_path("x").parent.glob("*.json"))
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        if find_manifest(path.stem) is not None:
            return path.stem
    raise UsageError(f"no grid was run under {store.home()}; name one by --grid, or try: dpbench run quick")


def results(cells: dict[str, RunSpec]) -> dict[str, RunResult]:
    """The results that are there, by hash, the failed ones too; not those of other runs than the cells are."""
    found = {key: read_result(key) for key in cells}
    return {
        key: result
        for key, result in found.items()
        if result is not None and RunSpec.model_validate(result["spec"]) == cells[key]
    }


def default_jobs(device: torch.device | None) -> int:
    """One worker a core; one a GPU where there are any, each with its own; AT_ONCE where they are of a cluster."""
    if device is None:
        return AT_ONCE
    if device.type == "cuda":
        import torch

        return torch.cuda.device_count() if device.index is None else 1
    return cores()


def run_grid(
    grid: Grid,
    console: Console,
    jobs: int | None = None,
    threads: int = 1,
    device: torch.device | None = None,
    data_root: Path | None = None,
    cell_timeout_s: float = CELL_TIMEOUT_S,
    executor: Executor | None = None,
    claims: str | None = None,
    cells: dict[str, RunSpec] | None = None,
) -> dict[str, RunSpec]:
    """Run the grid's cells that are not done, then the controls at realised cost; return both, by hash.

    The text of its `claims` is registered before anything is run. `cells` are others than all of the grid. `executor`
    does the work; `run_all`, the default, in processes of this machine. Results lie in the runs' folders. Ctrl-C stops
    the workers and is raised again: what is finished is kept, and the same command goes on from the checkpoints.
    """
    from dpbench.training import loading

    if cells is None:
        cells = {spec.hash: spec for spec in grid.runs(loading.fingerprints(grid.datasets, data_root))}
    for method in {spec.method: None for key, spec in cells.items() if not is_done(key)}:
        catalog.load_method(method).ready()
    write_manifest(grid, cells, claims)
    more = partial(list_controls, grid.name, all_controls)
    return run_cells(grid.name, cells, more, console, jobs, threads, device, data_root, cell_timeout_s, executor)


def run_cells(
    title: str,
    cells: dict[str, RunSpec],
    more: Callable[[], dict[str, RunSpec]],
    console: Console,
    jobs: int | None,
    threads: int,
    device: torch.device | None,
    data_root: Path | None,
    cell_timeout_s: float,
    executor: Executor | None = None,
) -> dict[str, RunSpec]:
    """Run those of the cells that are not done, then what there is `more` to do by their results; return all."""
    from dpbench.training import runner

    if executor is None:
        device, devices = device or runner.default_device(), max((spec.devices for spec in cells.values()), default=1)
        alone = run_all if device.index is None else partial(run_all, start=Worker)  # which sees all GPUs
        jobs, executor = gang.of(devices, device, jobs, threads) if devices > 1 else (jobs, alone)
    progress = Running(title, console)  # it starts with the first run
    try:
        _run(cells, progress, jobs, threads, device, data_root, cell_timeout_s, executor)
        added = more()
        _run(added, progress, jobs, threads, device, data_root, cell_timeout_s, executor)
    finally:
        if progress.live.is_started:
            progress.stop()
    return cells | added


def _run(
    cells: dict[str, RunSpec],
    progress: Running,
    jobs: int | None,
    threads: int,
    device: torch.device | None,
    data_root: Path | None,
    cell_timeout_s: float,
    executor: Executor,
) -> None:
    """Run the cells that are not done, and the proxies they need."""
    from dpbench.training import proxy, runner

    todo = [spec for key, spec in cells.items() if not is_done(key)]
    if not todo:
        return
    wanted: dict[str, list[Request]] = defaultdict(list)
    for spec in todo:
        for request in proxy.requests(spec):
            if request.missing() and request not in wanted[request.hash]:
                wanted[request.hash].append(request)
    # Proxies go first; then the runs that need none, so that the others seldom wait for them.
    todo.sort(key=lambda spec: bool(proxy.requests(spec)))
    work: list[RunSpec | list[Request]] = [requests for requests in wanted.values() if requests]
    work += todo
    told: set[str] = set()
    workers = min(jobs or default_jobs(device), len(work))
    queue = [Job(item, str(device) if device else None, data_root) for item in work]
    shares = {id(job): job.work.keep if isinstance(job.work, RunSpec) else 1.0 for job in queue}
    progress.plan(shares, len(todo), workers)
    progress.start()
    ended = {spec.row[:3] for spec in set(cells.values()) - set(todo)}
    for job, outcome in _until_broken(queue, ended, workers, threads, cell_timeout_s, progress, executor):
        if not isinstance(job.work, RunSpec):
            progress.end(id(job), None)
            continue  # a proxy that failed fails again, with its reason, in the runs that need it
        if not isinstance(outcome, dict):
            outcome = runner.lost(job.work, outcome or RunFailed("its result is not in the folder of results"))
        if outcome["hash"] != job.work.hash:
            outcome = runner.lost(job.work, RunFailed("its code was changed while the grid ran; run it again"))
        status = outcome["status"]
        if status != "FINISHED" and outcome["reason"] not in told:
            told |= {outcome["reason"]} if outcome["reason"].startswith(NOT_RUN) else set()
            line = escape(f"{job.work.title}: {outcome['reason']}")
            progress.console.print(f"[red]{status}[/] {line}", soft_wrap=True)
        progress.end(id(job), status)


def _until_broken(
    jobs: list[Job],
    ended: set[tuple[str, str, str]],
    workers: int,
    threads: int,
    timeout_s: float,
    progress: Running,
    executor: Executor,
) -> Iterator[tuple[Job, Any]]:
    """Yield each job with its outcome, as the executor does; leave out the runs of a method whose code has failed.

    That is in the same data and model, where no run has `ended` well. They have failed with it; the next command tries
    them again.
    """
    broken: dict[tuple[str, str, str], str] = {}
    left_out: list[tuple[Job, RunFailed]] = []

    def offered() -> Iterator[Job]:
        for job in jobs:
            why = broken.get(job.work.row[:3]) if isinstance(job.work, RunSpec) else None
            if why is None:
                progress.begin(id(job), job.title)
                yield job
            else:
                left_out.append((job, RunFailed(NOT_RUN + why)))

    for job, outcome in executor(do, offered(), workers, threads, timeout_s):
        if isinstance(job.work, RunSpec) and isinstance(outcome, dict):
            row = job.work.row[:3]
            if outcome["status"] != "FAILED":
                ended.add(row)
            elif outcome.get("repeats") and row not in ended:
                broken.setdefault(row, f"seed {job.work.seed} failed by its own code: {outcome['reason']}")
        yield job, outcome
    yield from left_out
