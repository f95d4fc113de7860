"""The control at realised cost: random per epoch at the share that costs what a method really spent."""

from __future__ import annotations

from statistics import fmean

from dpbench import catalog
from dpbench.recipe import Recipe
from dpbench.spec import Row, RunSpec
from dpbench.training import derived
from dpbench.training.results import RunResult, is_finished

METHOD = "uniform_epoch"
EXEMPT = {"full", "full_short", "uniform", METHOD}  # they are controls themselves
OFF_COST = 0.02  # a realised cost this far from the requested keep makes random at that keep an unfair control


def keeps(cells: dict[str, RunSpec], results: dict[str, RunResult]) -> dict[Row, float]:
    """Return the share, to 0.01, at which random per epoch costs what a row did, for each row that needs this control.

    The cost is that of its finished runs, forward + 2 backward over that of full training, the proxy left out. What
    costs as much as full training has that as its control; a budget of another unit makes costs equal by itself, and
    a row with seeds that diverged or failed is not compared.
    """
    costs: dict[Row, list[float]] = {}
    broken = {
        cells[key].row for key in cells.keys() & results.keys() if results[key]["status"] in ("DIVERGED", "FAILED")
    }
    for key, spec in cells.items():
        result = results.get(key)
        if not is_finished(result) or spec.budget.unit != "epochs":
            continue
        cost = derived.cost(result)
        if cost is not None and catalog.parse(spec.method)[0] not in EXEMPT:
            costs.setdefault(spec.row, []).append(cost)
    means = {row: fmean(values) for row, values in costs.items()}
    found = {row: round(mean, 2) for row, mean in means.items() if row not in broken and abs(mean - row[3]) > OFF_COST}
    return {row: keep for row, keep in found.items() if 0 < keep < 1}


def plan(cells: dict[str, RunSpec], results: dict[str, RunResult]) -> dict[str, RunSpec]:
    """Return the runs of these controls by hash."""
    return {spec.hash: spec for spec in wanted(cells, results)}


def wanted(cells: dict[str, RunSpec], results: dict[str, RunResult]) -> list[RunSpec]:
    """Return the runs of these controls: one for each finished seed, shared by rows of equal cost.

    Each has the recipe of random per epoch at the nearest keep, which in a tuned grid is the one that was tuned for it.
    """
    shares = keeps(cells, results)
    recipes: dict[tuple[str, str], dict[float, Recipe]] = {}
    for spec in cells.values():
        if spec.method == METHOD:
            recipes.setdefault(spec.row[:2], {})[spec.keep] = spec.recipe

    def control(spec: RunSpec) -> RunSpec:
        share, known = shares[spec.row], recipes.get(spec.row[:2], {})
        nearest = min(known, key=lambda keep: (abs(keep - share), keep), default=None)
        recipe = spec.recipe if nearest is None else known[nearest]
        return spec.model_copy(update={"method": METHOD, "keep": share, "recipe": recipe})

    chosen = [spec for key, spec in cells.items() if spec.row in shares and is_finished(results.get(key))]
    return list(dict.fromkeys(map(control, chosen)))
