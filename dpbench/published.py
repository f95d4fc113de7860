"""Figures from papers, kept with their source, beside the measured ones; never part of a rank."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import pandas as pd

from dpbench import catalog
from dpbench.leaderboard import records

METRIC = "top1_acc"  # after the last epoch; a best epoch's accuracy is another number
ALIASES = {  # papers' names that are not the plug-in's
    "random_static": "uniform",
    "random_dynamic_random": "uniform_epoch",
    "rs2": "uniform_epoch",
    "eps_greedy": "epsilon_greedy",
    "el2n_20": "el2n",
    "grand_4": "grand",
}


def read() -> pd.DataFrame:
    """All published figures, one line each, with paper, table, source and whether it was verified there."""
    folder = files("dpbench.leaderboards").joinpath("published")
    paths = sorted((path for path in folder.iterdir() if path.name.endswith(".csv")), key=lambda path: path.name)
    parts = []
    for path in paths:
        with path.open() as stream:
            parts.append(pd.read_csv(stream, dtype={"prune_ratio": str}))
    return pd.concat(parts, ignore_index=True)


def beside(table: pd.DataFrame, delta: float, figures: pd.DataFrame | None = None) -> pd.DataFrame:
    """Published accuracies (in percent) on the table's datasets and models, each with the measured one and a status.

    "reproduced" says that the published value lies within the measured 95 % interval widened by `delta` points.
    """
    measured = {}
    for row in records(table[table["seeds"] > 0]):
        name = catalog.parse(row["method"])[0]
        key = (_plain(row["dataset"]), _plain(row["model"]), name, round(row["keep"], 6))
        if row["method"] == name or key not in measured:  # the method's defaults come first
            measured[key] = row
    settings = {key[:2] for key in measured}
    lines: list[dict[str, Any]] = []
    for line in records(read() if figures is None else figures):
        setting = (_plain(line["dataset"]), _plain(line["model"]))
        if line["metric"] == METRIC and setting in settings:
            found = measured.get((*setting, plugin(line["method"]), _keep(str(line["prune_ratio"]))))
            lines.append(line | _compared(float(line["value"]), found, delta))
    return pd.DataFrame(lines)


def _compared(value: float, row: dict[str, Any] | None, delta: float) -> dict[str, Any]:
    if row is None:
        return {"measured": None, "measured_ci95": None, "status": "not run"}
    mean, half = 100 * row["accuracy_mean"], 100 * row["accuracy_ci95"]
    half = None if pd.isna(half) else half
    gap = mean - value
    status = "reproduced" if abs(gap) <= delta + (half or 0) else f"differs by {gap:+.2f}"
    return {"measured": mean, "measured_ci95": half, "status": status}


def plugin(method: str) -> str:
    """The plug-in that a paper's name stands for."""
    name = _slug(method)
    return ALIASES.get(name) or _slug(re.sub(r"\(.*", "", method))


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def _plain(name: str) -> str:
    """A dataset's or model's name without its parameters, case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.split("[")[0].lower())


def _keep(prune_ratio: str) -> float | None:
    """1 - prune ratio where it is a number; a nominal one is not what was pruned."""
    try:
        return round(1 - float(prune_ratio), 6)
    except ValueError:
        return None
