"""Figures from papers, kept with their source, beside the measured ones; never part of a rank."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from dpbench import catalog
from dpbench.aliases import ALIASES
from dpbench.analysis.table import broken, records
from dpbench.experiments.history import OWN, PUBLISHED
from dpbench.places import LEADERBOARDS

LAST, BEST = "top1_acc", "best_top1_acc"  # the accuracy after the last epoch, and that of the best one on the test set
PRUNED_WITHIN = 0.02  # of the published prune ratio lies the realised one of a row that is compared with it
WRITTEN = ALIASES | {  # what tables call methods by
    "random_static": "uniform",
    "random_dynamic_random": "uniform_epoch",
    "el2n_20": "el2n",
    "grand_4": "grand",
}


def read() -> pd.DataFrame:
    """All published figures, one line each, with paper, table, source and whether it was looked up there.

    Their `epoch` is "best" for papers whose released code reports the best epoch, whatever the metric is called.
    """
    paths = sorted((LEADERBOARDS / "published").glob("*.csv"))
    return pd.concat([pd.read_csv(path, dtype={"prune_ratio": str}) for path in paths], ignore_index=True)


def beside(table: pd.DataFrame, delta: float, figures: pd.DataFrame | None = None) -> pd.DataFrame:
    """Published accuracies (in percent) on the table's datasets and models, with status, each beside the measured one.

    `compared` says in words what came of it. "reproduced" says that the published value lies within the measured 95 %
    interval widened by `delta` points, that the interval's half width is at most `delta`, and that what was really
    pruned is within 0.02 of the published ratio. A published best epoch is marked, and compared with the measured best
    epoch. A row with seeds that diverged or failed reproduces nothing.
    """
    measured: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in records(table[table["seeds"] + table["diverged"] + table["failed"] > 0]):
        key = (_plain(row["dataset"]), _plain(row["model"]), catalog.parse(row["method"])[0])
        measured.setdefault(key, []).append(row)
    settings = {key[:2] for key in measured}
    lines: list[dict[str, Any]] = []
    for line in records(read() if figures is None else figures):
        setting = (_plain(line["dataset"]), _plain(line["model"]))
        if line["metric"] in (LAST, BEST) and setting in settings:
            name = plugin(line["method"])
            rows = measured.get((*setting, name), [])
            defaults = [row for row in rows if row["method"] == name]
            lines.append(line | {"status": PUBLISHED} | _compared(line, defaults or rows, delta))
    return pd.DataFrame(lines)


def with_rows(table: pd.DataFrame, delta: float, figures: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows of a board and, below them, published figures as rows that have a status and a source, but no rank.

    They are named as their papers do; what a board's row has and they do not is unknown.
    """
    lines = records(beside(table, delta, figures))
    if not lines:
        return table
    own = table if "status" in table else table.assign(status=OWN)
    return pd.concat([own.astype(object), pd.DataFrame(map(_row, lines), dtype=object)], ignore_index=True)


def _row(line: dict[str, Any]) -> dict[str, Any]:
    """A published figure by the columns of a board."""
    ratio, nominal = _pruned(str(line["prune_ratio"]))
    measure = "accuracy_best_epoch" if _is_best(line) else "accuracy_mean"
    found = {name: line[name] for name in ("dataset", "model", "method", "status", "source", "paper", "compared")}
    found |= {measure: float(line["value"]) / 100, "accuracy_std": float(line["std"]) / 100}
    found |= {} if ratio is None else {"keep": round(1 - ratio, 6)}
    return found | ({} if ratio is None or nominal else {"prune_ratio": ratio})


def _is_best(line: dict[str, Any]) -> bool:
    """Whether a figure is that of the best epoch on the test set."""
    return bool(line["metric"] == BEST or line["epoch"] == "best")


def _compared(line: dict[str, Any], rows: list[dict[str, Any]], delta: float) -> dict[str, Any]:
    best = _is_best(line)
    mark = " (best epoch)" if best else ""
    found: dict[str, Any] = {"published": f"{float(line['value']):g}{mark}", "measured": None, "measured_ci95": None}
    ratio, nominal = _pruned(str(line["prune_ratio"]))
    if ratio is None:
        return found | {"compared": "not run"}

    def off(row: dict[str, Any]) -> float:
        """How far a row is from the ratio: by what it really pruned; by what it was to prune where that is nominal."""
        pruned = 1 - row["keep"] if nominal or pd.isna(row["prune_ratio"]) else row["prune_ratio"]
        return abs(pruned - ratio)

    asked = [row for row in rows if abs(1 - row["keep"] - ratio) <= 1e-6]
    near = min([*asked, *(row for row in rows if off(row) <= PRUNED_WITHIN)], key=off, default=None)
    if near is None or (nominal and not asked):
        return found | {"compared": "not run"}
    if trouble := broken(near):
        return found | {"compared": trouble}
    name = "accuracy_best_epoch" if best else "accuracy"
    mean = 100 * near["accuracy_best_epoch" if best else "accuracy_mean"]
    half = 100 * near[f"{name}_ci95"]
    gap = mean - float(line["value"])
    if nominal:
        compared = f"its ratio is nominal; here {near['prune_ratio']:.2f} was pruned"
    elif off(near) > PRUNED_WITHIN:
        compared = f"pruned {near['prune_ratio']:.2f}, not {ratio:g}"
    elif not half <= delta:  # unknown for one seed
        compared = "too uncertain"
    else:
        compared = ("reproduced" if abs(gap) <= delta + half else f"differs by {gap:+.2f}") + mark
    return found | {"measured": mean, "measured_ci95": None if pd.isna(half) else half, "compared": compared}


def plugin(method: str) -> str:
    """The plug-in that a paper's name stands for."""
    name = WRITTEN.get(_slug(method)) or _slug(re.sub(r"\(.*", "", method))
    return catalog.parse(name)[0]


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def _plain(name: str) -> str:
    """A dataset's or model's name without its parameters, case and punctuation; ImageNet-1K is imagenet."""
    return re.sub(r"[^a-z0-9]", "", name.split("[")[0].lower()).removesuffix("1k")


def _pruned(prune_ratio: str) -> tuple[float | None, bool]:
    """The ratio where there is one number, and whether it is nominal: not what was pruned."""
    number = re.fullmatch(r"(?:~|[rF]=)?(0?\.?\d+)( \((?:measured|nominal|nominal r)\))?", prune_ratio)
    if number is None:
        return None, False
    return float(number[1]), "nominal" in prune_ratio or "=" in prune_ratio
