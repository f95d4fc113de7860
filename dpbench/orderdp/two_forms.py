"""OrderDP's two forms in a network: the released one, of stale losses, less the paper's, of fresh ones."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import pandas as pd

from dpbench.analysis import stats
from dpbench.analysis.table import records
from dpbench.orderdp.figure4 import CELL, frame
from dpbench.training.results import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID = "theory"  # whose runs are compared
STALE, FRESH = "orderdp", "orderdp_step"  # candidates once an epoch by the losses last seen; at each step by its own
DELTA = 0.5  # points of accuracy within which the two may be called equivalent


def compare(results: Collection[RunResult]) -> dict[str, Any] | None:
    """Paired differences, stale less fresh, at every decomposition that both have with at least two seeds.

    All of them are one family. `held`: equivalent in accuracy everywhere within DELTA;
    False if some difference is not 0, None if neither is shown. None for results without such a pair.
    """
    stale, fresh = (frame(results, method) for method in (STALE, FRESH))
    if stale.empty or fresh.empty:
        return None
    both = stale.merge(fresh, on=[*CELL, "explore", "seed"], suffixes=("_stale", "_fresh")).set_index("seed")
    groups = [(cell, part) for cell, part in both.groupby([*CELL, "explore"]) if len(part) > 1]
    if not groups:
        return None
    differences = {
        (name, *cell): stats.paired_difference(part[f"{name}_stale"], part[f"{name}_fresh"], step=step)
        for cell, part in groups
        for name, step in (("accuracy", float(part["step_stale"].max())), ("gradient_cosine", 0.0))
    }
    compared = records(stats.compare(differences, "fresh", DELTA))
    accuracy, cosine = compared[::2], compared[1::2]
    means = ("accuracy", "gradient_cosine", "forward_saving")
    rows: list[dict[str, Any]] = [
        dict(zip([*CELL, "explore"], cell, strict=True))
        | {f"{name}_{form}": float(part[f"{name}_{form}"].mean()) for name in means for form in ("stale", "fresh")}
        | {"accuracy": a, "gradient_cosine": c}
        for (cell, part), a, c in zip(groups, accuracy, cosine, strict=True)
    ]
    differ = any(row["accuracy"]["p"] < stats.ALPHA for row in rows)
    alike = all(row["accuracy"]["equivalence_p"] < stats.ALPHA for row in rows)
    return {"rows": rows, "held": False if differ else True if alike else None}


def draw(axes: Axes, found: dict[str, Any]) -> None:
    """The difference in accuracy over explore, with simultaneous 95 % intervals, one line a dataset, model and keep."""
    for cell, rows in pd.DataFrame(found["rows"]).groupby(CELL):
        means, widths = ([one[name] for one in rows["accuracy"]] for name in ("mean", "half_width"))
        axes.errorbar(
            rows["explore"], means, widths, fmt="o-", capsize=2, label=f"{cell[0]}, {cell[1]}, keep {cell[2]:g}"
        )
    axes.axhline(0, color="0.4", linestyle="--")
    axes.set(xlabel="explore, $s/n$", ylabel="accuracy, stale less fresh losses, points", title="OrderDP's two forms")
