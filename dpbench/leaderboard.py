"""The leaderboard of a grid: one row for each dataset, model, method and keep, from the runs' results."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from dpbench import catalog, probes, sampler, store
from dpbench import grid as grids
from dpbench.errors import UsageError
from dpbench.spec import RunSpec
from dpbench.stats import mean_interval

KEYS = ["dataset", "model", "method", "keep"]
AVERAGED = [  # metrics of which a row shows the mean over seeds
    "accuracy_best_epoch",
    "loss_test",
    "prune_ratio",
    "forward_saving",
    "samples_forward",
    "samples_backward",
    "samples_proxy",
    "optimizer_steps",
    "time_total_s",
    "time_train_s",
    "time_select_s",
    "time_observe_s",
    "time_probe_s",
    "time_proxy_s",
    "jaccard_epochs",
    "jaccard_epochs_chance",
    "gradient_cosine",
    "gradient_norm_ratio",
    "gradient_norm",
    "peak_memory_mb",
]


def table(cells: dict[str, RunSpec], results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row a dataset, model, method and keep, ranked by mean accuracy within dataset, model and keep.

    `seeds` counts the finished runs, `missing` and `failed` the others; a row without a finished run has no rank.
    """
    groups: dict[tuple[str, str, str, float], list[str]] = {}
    for key, spec in cells.items():
        groups.setdefault(spec.row, []).append(key)
    rows = [_row(row, [(cells[key], results.get(key)) for key in keys]) for row, keys in groups.items()]
    frame = pd.DataFrame(rows)
    ranks = frame.groupby(["dataset", "model", "keep"])["accuracy_mean"].rank(ascending=False, method="min")
    frame.insert(0, "rank", ranks.astype("Int64"))
    return frame.sort_values(["dataset", "model", "keep", "rank", "method"], kind="stable").reset_index(drop=True)


def _row(row: tuple[str, str, str, float], runs: list[tuple[RunSpec, dict[str, Any] | None]]) -> dict[str, Any]:
    """Summarise the runs of one row."""
    finished = [result for _, result in runs if result is not None and result["status"] == "FINISHED"]
    failed = [result for _, result in runs if result is not None and result["status"] == "FAILED"]
    mean, half_width = (
        mean_interval([result["metrics"]["accuracy"] for result in finished]) if finished else (np.nan, np.nan)
    )
    return {
        **dict(zip(KEYS, row, strict=True)),
        "kind": _kind(row[2]),
        "seeds": len(finished),
        "accuracy_mean": mean,
        "accuracy_ci95": half_width,
        **{name: _mean([result["metrics"].get(name) for result in finished]) for name in AVERAGED},
        **_seed_stability(finished),
        "failed": len(failed),
        "missing": len(runs) - len(finished) - len(failed),
        "reason": failed[0]["reason"] if failed else "",
    }


def _kind(method: str) -> str:
    """The method's kind, unknown when its file is not at hand any more."""
    try:
        return catalog.method_class(catalog.parse(method)[0]).kind()
    except UsageError:
        return "unknown"


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else np.nan


def _seed_stability(finished: list[dict[str, Any]]) -> dict[str, float]:
    """Mean Jaccard index of the same epoch's selections in two seeds, over epochs and pairs, and its chance level."""
    found, chance = [], []
    masks = []
    n = 0
    for result in finished:
        selections, n = store.read_selections(store.run_folder(result["hash"]) / "selections.npz")
        masks.append([sampler.mask(chosen, n) for chosen in selections])
    for a, b in itertools.combinations(masks, 2):
        for x, y in zip(a, b, strict=False):
            found.append(probes.jaccard(x, y))
            chance.append(probes.jaccard_chance(int(x.count_nonzero()), int(y.count_nonzero()), n))
    return {"jaccard_seeds": _mean(found), "jaccard_seeds_chance": _mean(chance)}


def of_grid(name: str) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """The leaderboard of a grid that was run here, and its results by hash."""
    _, cells = grids.read_manifest(name)
    results = grids.results(cells)
    return table(cells, results), results


def render(frame: pd.DataFrame, form: str) -> str:
    """Write the leaderboard as "json" (a list of rows), "csv" or "markdown"."""
    if form == "json":
        rows = [{key: _plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
        return json.dumps(rows, indent=1, allow_nan=False)
    if form == "csv":
        return frame.to_csv(index=False)
    header, *lines = _cells(frame)
    ruler = ["---"] * len(header)
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in [header, ruler, *lines]
    )


def _plain(value: Any) -> Any:
    """A JSON value; what is not known is null."""
    return None if pd.isna(value) else value


def rich_tables(frame: pd.DataFrame) -> list[Table]:
    """One table a dataset and model, for the terminal."""
    tables = []
    for (dataset, model), part in frame.groupby(["dataset", "model"], sort=False):
        header, *lines = _cells(part)
        view = Table(
            title=f"{dataset}, {model}", box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 0), pad_edge=False
        )
        for name in header:
            view.add_column(
                name, justify="left" if name == "method" else "right", overflow="fold", no_wrap=name != "method"
            )
        ends = part["keep"].ne(part["keep"].shift(-1))
        for line, end in zip(lines, ends, strict=True):
            view.add_row(*line, end_section=end)
        tables.append(view)
    return tables


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    """Header and rows as short text."""
    lines = [["#", "method", "keep", "accuracy %", "pruned", "fwd", "time s", "Jaccard", "chance", "cos", "seeds"]]
    for row in frame.to_dict("records"):
        total = row["seeds"] + row["failed"] + row["missing"]
        interval = "" if pd.isna(row["accuracy_ci95"]) else f" ± {100 * row['accuracy_ci95']:.2f}"
        state = "FAILED" if row["failed"] else "missing"
        lines.append(
            [
                _number(row["rank"], "d"),
                row["method"],
                f"{row['keep']:g}",
                f"{100 * row['accuracy_mean']:.2f}{interval}" if row["seeds"] else state,
                _number(row["prune_ratio"], ".4f"),
                _number(row["forward_saving"], ".3f"),
                _number(row["time_total_s"], ".2f"),
                _number(row["jaccard_epochs"], ".3f"),
                _number(row["jaccard_epochs_chance"], ".3f"),
                _number(row["gradient_cosine"], ".3f"),
                str(total) if row["seeds"] == total else f"{row['seeds']} of {total}",
            ]
        )
    return lines


def _number(value: Any, form: str) -> str:
    return "-" if pd.isna(value) else format(value, form)


def files(frame: pd.DataFrame, name: str) -> list[Path]:
    """Write the leaderboard's files under the results' folder and return them."""
    folder = store.home() / "leaderboards" / name
    made = []
    for form, suffix in (("json", "json"), ("csv", "csv"), ("markdown", "md")):
        path = folder / f"{name}.{suffix}"
        text = render(frame, form)
        store.write(path, lambda file: file.write_text(text))  # noqa: B023
        made.append(path)
    return made
