"""The accuracy on corrupted test images against that on clean ones: what clean accuracy does not tell of a subset."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dpbench.analysis.stats import mean_interval
from dpbench.reports.panels import Part, end_at, legend, with_panels


def measured(part: Part) -> bool:
    """Whether any row was tested on corrupted images."""
    return bool(part.table["accuracy_shifted"].notna().any())


def shifted(part: Part) -> Figure:
    """Each row's shifted accuracy at its clean accuracy, with 95 % intervals; the line shows the loss of full training.

    A row below the line loses more to the corruptions than full training does.
    """
    figure, panels = with_panels(part)
    rows = part.board.finished(part.dataset, part.model)
    for keep, ax in panels:
        for (method, share), results in rows.items():
            values = [[r["metrics"].get(name, np.nan) for r in results] for name in ("accuracy", "accuracy_shifted")]
            if share not in (keep, 1.0) or np.isnan(values[1]).all():
                continue
            (x, across), (y, up) = (mean_interval(100 * np.array(one)) for one in values)
            look = {"color": part.style[method]["color"], "marker": part.style[method]["marker"]}
            halves = np.nan_to_num([across, up])
            ax.errorbar(x, y, halves[1], halves[0], ls="", label=method, capsize=2, elinewidth=0.8, ms=6, **look)
            if share == 1.0 and method == "full":
                ax.axline((x, y), slope=1, color="0.6", lw=0.8, zorder=0, label="lost as much as full training")
        ax.set(xlabel="test accuracy, %")
    panels[0][1].set_ylabel("accuracy on corrupted images, %")
    end_at(figure, 100)
    legend(figure)
    return figure
