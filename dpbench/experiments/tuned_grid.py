"""The tuned track of a grid: one study for each of its rows, the controls included, and the grid of what they found."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import yaml

from dpbench import catalog, store
from dpbench.errors import RunFailed, UsageError
from dpbench.experiments.ladder import best, rates_that_work
from dpbench.experiments.plan import Plan
from dpbench.experiments.trials import counted, spent
from dpbench.grid_file import change_grid
from dpbench.spec import Grid, RunSpec, canonical
from dpbench.tuned import SUFFIX, Tuned


def name(grid: Grid) -> str:
    """The name of the tuned grid."""
    return f"{grid.name}{SUFFIX}"


def path(grid: Grid) -> Path:
    """The file of the tuned grid."""
    return store.home() / "tune" / f"{name(grid)}.yaml"


def plans(grid: Grid, **options: Any) -> list[Plan]:
    """The study of each row, with the same options for all."""
    if grid.tuned:
        raise UsageError(f"the grid {grid.name} is tuned already")
    rows = _rows(grid)
    methods = [catalog.parse(spec.method) for spec in rows]
    return [
        Plan(
            method=_held(spec.method, methods),
            dataset=spec.dataset,
            model=spec.model,
            keep=spec.keep,
            grid=grid,
            **options,
        )
        for spec in rows
    ]


def _rows(grid: Grid) -> list[RunSpec]:
    return [spec for spec in grid.runs() if spec.seed == 0]


def _held(method: str, methods: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """The method with what other rows of the grid set of it held fixed, so that no row is tuned to be another one."""
    short, given = catalog.parse(method)
    own = catalog.load_method(method).hyperparameters()
    others = sorted({key for name, params in methods if name == short for key in params if own.get(key) is not None})
    return catalog.label(short, {key: own[key] for key in others} | given)


def tuned(grid: Grid, planned: list[Plan], studies: dict[str, optuna.Study]) -> Grid:
    """The grid with what the studies found for each row; RunFailed where one has no trial that ended."""
    found = []
    for spec, plan in zip(_rows(grid), planned, strict=True):
        study = studies[plan.name]
        chosen = best(study, plan)
        if not chosen:
            why = next((t.user_attrs["reason"] for t in study.trials if "reason" in t.user_attrs), "its workers died")
            raise RunFailed(f"no trial of {spec.method} at keep {spec.keep:g} has ended: {why}")
        method = canonical(chosen[0].user_attrs["method"])
        found.append(
            Tuned(
                method=spec.method,
                dataset=spec.dataset,
                model=spec.model,
                keep=spec.keep,
                chosen=method if method != spec.method else "",
                recipe=chosen[0].user_attrs["recipe"],
                trials=len(counted(study)),
                spent=spent(study),
                rates=rates_that_work(study),
            )
        )
    seeds = f"{planned[0].seeds} seed{'s' * (planned[0].seeds > 1)}"
    how = f"Each row tuned by {planned[0].trials} trials of {seeds}; these seeds are fresh."
    return change_grid(grid, {"name": name(grid), "description": f"{grid.description} {how}".strip(), "tuned": found})


def write(grid: Grid, file: Path) -> None:
    """Write a grid as another command can read it."""
    elsewhere = {
        f"{kind}s": [catalog.elsewhere(f"{kind}s", text) for text in getattr(grid, f"{kind}s")]
        for kind in ("dataset", "model", "method")
    }
    content = {"name": grid.name} | grid.model_dump(mode="json", exclude_defaults=True) | elsewhere
    text = yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True, default_flow_style=None)
    store.write(file, lambda path: path.write_text(text, encoding="utf-8"))
