"""What the seeds say about a row: paired differences to the controls, verdicts, and rank intervals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from dpbench import controls, stats
from dpbench.overlap import Row

CONTROLS = {"uniform": "random", "uniform_epoch": "random per epoch", "full": "full"}
AT_COST = "control"  # names the columns of the comparison at realised cost
GROUP = ["dataset", "model", "keep"]
ROW = ["dataset", "model", "method", "keep"]


def runs_frame(results: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One line a finished run: ROW, seed, hash, accuracy in points, and `step`, the spacing of accuracies."""
    lines = []
    for result in results:
        if result["status"] == "FINISHED":
            spec, tested = result["spec"], result.get("samples", {}).get("test")
            line = {name: spec[name] for name in (*ROW, "seed")}
            accuracy = 100 * result["metrics"]["accuracy"]
            lines.append(line | {"hash": result["hash"], "accuracy": accuracy, "step": 100 / tested if tested else 0.0})
    return pd.DataFrame(lines, columns=[*ROW, "seed", "hash", "accuracy", "step"])


def table(
    runs: pd.DataFrame, delta: float, at_cost: pd.DataFrame | None = None, keeps: dict[Row, float] | None = None
) -> pd.DataFrame:
    """Return one line a row of the leaderboard, indexed by ROW: difference to each control, verdicts, rank interval.

    `at_cost` are runs of random per epoch, as `runs`, and `keeps` says at which share of them a row has its control at
    realised cost. Differences are in accuracy points. The p values are Holm-corrected over all rows compared with one
    control.
    """
    rows = _by_row(runs)
    found = pd.DataFrame(index=pd.MultiIndex.from_tuples(list(rows), names=ROW))
    for control, name in CONTROLS.items():
        # `full` has one row, the others one at each keep
        references = {
            row: (*row[:2], control, 1.0 if control == "full" else row[3]) for row in rows if row[2] != control
        }
        found = found.join(_against(control, name, rows, {row: rows.get(at) for row, at in references.items()}, delta))
    spent = {} if at_cost is None else _by_row(at_cost)
    references = {row: (*row[:2], controls.METHOD, keep) for row, keep in (keeps or {}).items()}
    name = f"{CONTROLS['uniform']} at its cost"
    found = found.join(_against(AT_COST, name, rows, {row: spent.get(at) for row, at in references.items()}, delta))
    return found.join(_rank_intervals(runs))


def _by_row(runs: pd.DataFrame) -> dict[Row, pd.DataFrame]:
    """The runs of each row by seed."""
    return {row: part.set_index("seed") for row, part in runs.groupby(ROW)}  # type: ignore[misc]


def _against(
    control: str, name: str, rows: dict[Row, pd.DataFrame], references: dict[Row, pd.DataFrame | None], delta: float
) -> pd.DataFrame:
    """Compare each row with its runs of one control, where there are any."""
    differences = {}
    for row, reference in references.items():
        if reference is not None:
            step = float(rows[row]["step"].max())
            differences[row] = stats.paired_difference(rows[row]["accuracy"], reference["accuracy"], step=step)
    compared = stats.compare(differences, name, delta if control == "full" else None)
    compared.index = pd.MultiIndex.from_tuples(list(differences), names=ROW)
    names = {
        "mean": f"difference_{control}",
        "half_width": f"difference_{control}_ci95",
        "p_holm": f"difference_{control}_p",
        "verdict": f"verdict_{control}",
    }
    names |= (
        {"equivalence_p_holm": "equivalence_full_p", "equivalence": "equivalence_full"} if control == "full" else {}
    )
    return compared[list(names)].rename(columns=names)


def _rank_intervals(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the bootstrap interval of each rank among the methods that have every seed of their group."""
    parts = []
    for (dataset, model, keep), group in runs.groupby(GROUP):
        seeds = group.groupby("method")["seed"].nunique()
        whole = group[group["method"].isin(seeds.index[seeds == group["seed"].nunique()])]
        if whole.empty:
            continue
        found = stats.rank_intervals(whole, np.random.default_rng(0))[["low", "high"]]
        found.index = pd.MultiIndex.from_tuples([(dataset, model, method, keep) for method in found.index], names=ROW)
        parts.append(found.rename(columns={"low": "rank_low", "high": "rank_high"}))
    none = pd.DataFrame(index=pd.MultiIndex.from_tuples([], names=ROW), columns=["rank_low", "rank_high"], dtype=float)
    return pd.concat([none, *parts]) if parts else none


def tested_over_datasets(runs: pd.DataFrame) -> dict[tuple[str, float], pd.DataFrame]:
    """Return, by model and keep, the runs of methods that have every dataset, where there are enough for a test."""
    found = {}
    for (model, keep), group in runs.groupby(["model", "keep"]):
        count = group.groupby("method")["dataset"].nunique()
        whole = group[group["method"].isin(count.index[count == group["dataset"].nunique()])]
        if whole["dataset"].nunique() >= stats.MIN_DATASETS and whole["method"].nunique() >= stats.MIN_METHODS:
            found[str(model), float(keep)] = whole  # type: ignore[arg-type]
    return found


def across_datasets(runs: pd.DataFrame) -> pd.DataFrame:
    """Return, for two datasets or more, each method's mean rank, interquartile mean and chance to beat random.

    One line a model, keep and method; only methods with all seeds on all datasets are compared.
    """
    parts = []
    for _, group in runs.groupby(["model", "keep"]):
        cells = group.groupby("method").size()
        whole = group[group["method"].isin(cells.index[cells == len(group[["dataset", "seed"]].drop_duplicates())])]
        if whole["dataset"].nunique() < 2:
            continue
        ranks = stats.rank_intervals(whole, np.random.default_rng(0)).add_prefix("rank_")
        means = stats.iqm(whole, np.random.default_rng(0)).add_prefix("iqm_")
        part = ranks.join(means).rename(columns={"rank_rank": "rank", "iqm_iqm": "iqm"})
        if "uniform" in part.index:
            chances = {
                method: stats.probability_of_improvement(whole, method, "uniform", np.random.default_rng(0))[0]
                for method in part.index.drop("uniform")
            }
            part["beats_random"] = pd.Series(chances)
        part.index.name = "method"
        parts.append(part.reset_index().assign(model=group["model"].iloc[0], keep=group["keep"].iloc[0]))
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return found.sort_values(["model", "keep", "rank"], ignore_index=True) if parts else found
