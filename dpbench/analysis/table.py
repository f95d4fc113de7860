"""The leaderboard of a grid: one row for each dataset, model, method and keep, from the runs' results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from dpbench import catalog
from dpbench.analysis import overlap as overlaps
from dpbench.analysis import verdicts
from dpbench.analysis.flips import Flips
from dpbench.analysis.overlap import Overlap
from dpbench.analysis.stats import mean_interval, pareto_front
from dpbench.errors import UsageError
from dpbench.experiments import controls
from dpbench.spec import Grid, Row, RunSpec
from dpbench.training import derived, measures
from dpbench.training.results import RunResult, is_finished
from dpbench.tuned import track

KEYS = ["dataset", "model", "method", "keep"]
Line: TypeAlias = dict[str, Any]  # of the board's table, by column


def table(
    cells: dict[str, RunSpec],
    results: dict[str, RunResult],
    delta: float = 0.5,
    overlap: Overlap | None = None,
    at_cost: dict[str, RunResult] | None = None,
    flips: Flips | None = None,
    grid: Grid | None = None,
) -> pd.DataFrame:
    """One row a dataset, model, method and keep, ranked by mean accuracy within dataset, model and keep.

    `seeds` counts the finished runs, over which its means are, `diverged`, `failed` and `missing` the others. A row
    with seeds that diverged or failed ranks below all that are whole; a row without a finished run has no rank; rows
    of equal mean share the first of their ranks.
    `delta` is the margin, in points, within which a row may be called equivalent to full training; `at_cost` are the
    results of controls at realised cost, which have no row of their own, `flips` those of the rows' test predictions.
    `grid` knows what tuning found for a row, and the numbers of seeds at which verdicts are read.
    """
    overlap = overlaps.of_results(results.values()) if overlap is None else overlap
    groups: dict[Row, list[str]] = {}
    for key, spec in cells.items():
        groups.setdefault(spec.row, []).append(key)
    rows = [_row(row, [(cells[key], results.get(key)) for key in keys], overlap) for row, keys in groups.items()]
    frame = pd.DataFrame(rows)
    frame["trouble"] = [broken(row) for row in rows]
    whole = ~is_broken(frame)
    frame.insert(0, "rank", _ranks(frame, whole))
    keeps = controls.keeps(cells, results)
    frame["control_keep"] = [keeps.get(row, np.nan) for row in frame[KEYS].itertuples(index=False, name=None)]
    looks = grid.looks if grid else ()
    frame = frame.join(verdicts.table(results.values(), delta, (at_cost or {}).values(), keeps, flips, looks), on=KEYS)
    texts = [*(f"verdict_{control}" for control in (*verdicts.CONTROLS, verdicts.AT_COST)), "equivalence_full"]
    frame[texts] = frame[texts].astype(object).fillna("")
    frame = _add_costs(frame, groups, results)
    frame = frame.join(pd.DataFrame([_settings(cells[keys[0]], grid) for keys in groups.values()], frame.index))
    return frame.sort_values(["dataset", "model", "keep", "rank", "method"], kind="stable").reset_index(drop=True)


def _settings(spec: RunSpec, grid: Grid | None) -> Line:
    """The track of a row, the values of the recipe that tuning may change, and what it found beside them."""
    found = grid.tuning(spec.row) if grid else None
    low, high = (found.rates if found else None) or (np.nan, np.nan)
    return {
        "track": track([found]),
        "lr": spec.recipe.lr,
        "weight_decay": spec.recipe.weight_decay,
        "lr_low": low,
        "lr_high": high,
        "stability": high / low,
        "tuning_trials": found.trials if found else 0,
        "tuning_samples": found.spent if found else 0,
    }


def is_broken(frame: pd.DataFrame) -> pd.Series:
    """Which rows have seeds that diverged or failed: the mean of those that are left is no fair one."""
    return (frame["diverged"] > 0) | (frame["failed"] > 0)


def broken(row: Line) -> str:
    """How many of a row's seeds diverged or failed, in words; empty for a row that is whole."""
    made = row["seeds"] + row["diverged"] + row["failed"]
    return verdicts.broken_text(row["diverged"], row["failed"], made)


def _ranks(frame: pd.DataFrame, whole: pd.Series) -> pd.Series:
    """By mean accuracy, first of the rows that are whole and after them of the others."""
    group = [frame[name] for name in ("dataset", "model", "keep")]
    within = frame["accuracy_mean"].round(12).groupby([*group, whole]).rank(ascending=False, method="min")
    ahead = (whole & frame["accuracy_mean"].notna()).groupby(group).transform("sum")
    return within.where(whole, within + ahead).astype("Int64")


def _row(row: Row, runs: list[tuple[RunSpec, RunResult | None]], overlap: Overlap) -> Line:
    """Summarise the runs of one row."""
    finished = [result for _, result in runs if is_finished(result)]
    diverged, failed = (
        [result for _, result in runs if result is not None and result["status"] == status]
        for status in ("DIVERGED", "FAILED")
    )
    accuracies = [result["metrics"]["accuracy"] for result in finished]
    mean, half_width = mean_interval(accuracies, step=_step(finished)) if finished else (np.nan, np.nan)
    best = [result["metrics"].get("accuracy_best_epoch", np.nan) for result in finished]
    covered = [derived.coverage_epochs(result) for result in finished]
    jaccard, chance = overlap.seeds.get(row, (np.nan, np.nan))
    return {
        **dict(zip(KEYS, row, strict=True)),
        "kind": next((result["kind"] for _, result in runs if result and result.get("kind")), None) or _kind(row[2]),
        "seeds": len(finished),
        "accuracy_mean": mean,
        "accuracy_ci95": half_width,
        "accuracy_std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else np.nan,
        "accuracy_best_epoch_ci95": mean_interval(best, step=_step(finished))[1] if finished else np.nan,
        **{measure.name: _mean([measure.of(result) for result in finished]) for measure in measures.tabled()},
        "gradient_norm_r_pooled": derived.pooled_gradient_norm_r(finished),
        "coverage_epochs": np.nan if None in covered else _mean(covered),  # unknown while one seed never saw all
        "jaccard_seeds": jaccard,
        "jaccard_seeds_chance": chance,
        "diverged": len(diverged),
        "failed": len(failed),
        "missing": len(runs) - len(finished) - len(diverged) - len(failed),
        "reason": next((result["reason"] for result in [*failed, *diverged]), ""),
    }


def _step(finished: list[RunResult]) -> float:
    """The spacing of accuracies, 0 where the number of test samples is not recorded."""
    tested = finished[0].get("samples", {}).get("test")
    return 1 / tested if tested else 0.0


def _add_costs(frame: pd.DataFrame, groups: dict[Row, list[str]], results: dict[str, RunResult]) -> pd.DataFrame:
    """Add speed-ups over full training, the time to random's accuracy, and the Pareto front of accuracy and cost.

    Rows with seeds that diverged or failed reach no accuracy in time and are not on the front.
    """
    whole = ~is_broken(frame)
    full = frame[frame["method"] == "full"].set_index(["dataset", "model"])
    of_full = frame[["dataset", "model"]].join(full[["time_total_s", "cost_with_proxy"]], on=["dataset", "model"])
    frame["speedup"] = of_full["time_total_s"] / frame["time_total_s"]
    frame["speedup_ideal"] = of_full["cost_with_proxy"] / frame["cost_with_proxy"]
    random = frame[whole & (frame["method"] == "uniform")].set_index(["dataset", "model", "keep"])["accuracy_mean"]
    goals = frame[["dataset", "model", "keep"]].join(random.rename("goal"), on=["dataset", "model", "keep"])["goal"]
    times = []
    for row, goal, fair in zip(frame[KEYS].itertuples(index=False, name=None), goals, whole, strict=True):
        runs = [] if not fair else [results[key] for key in groups[row] if is_finished(results.get(key))]
        times.append(derived.seconds_to(runs, goal))
    frame["time_to_random_s"] = times
    frame["pareto"] = False
    for _, part in frame[whole].groupby(["dataset", "model"]):
        frame.loc[part.index, "pareto"] = pareto_front(part["cost_with_proxy"], part["accuracy_mean"])
    return frame


def _kind(method: str) -> str:
    """The method's kind, unknown when its file is not at hand any more."""
    try:
        return catalog.load_method(method).kind()
    except UsageError:
        return "unknown"


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    if not known:
        return np.nan
    return known[0] + float(np.mean([value - known[0] for value in known]))  # to the last digit where all are equal


def records(frame: pd.DataFrame) -> list[Line]:
    """The rows as dicts."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of one


def csv(frame: pd.DataFrame) -> str:
    """The rows as CSV, safe to open as a spreadsheet."""
    return spreadsheet_safe(frame).to_csv(index=False).rstrip("\n")


def spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """Begin a text that a spreadsheet would take for a formula with an apostrophe."""
    texts = frame.select_dtypes(["object", "string"]).columns
    safe = {str(name): pd.Series(map(_no_formula, frame[name]), frame.index, dtype=object) for name in texts}
    return frame.assign(**safe)  # objects, lest pandas takes whole numbers with one that is unknown for fractions


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
