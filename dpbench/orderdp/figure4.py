"""Does it matter how OrderDP's prune ratio is split into exploration and exploitation? The paper's Figure 4, tested."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats as tests

from dpbench import catalog, store
from dpbench.analysis import verdicts
from dpbench.analysis.fairness import counts_as_keep
from dpbench.analysis.stats import ALPHA, MIN_SEEDS, holm, mean_interval, paired_difference
from dpbench.analysis.table import csv
from dpbench.errors import UsageError
from dpbench.experiments import grid as grids
from dpbench.spec import row_of
from dpbench.training.results import RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHOD = "orderdp"
PANELS = {
    "accuracy": "test accuracy, %",
    "time_total_s": "time, s",
    "jaccard_epochs": "Jaccard of consecutive epochs",
    "gradient_cosine": "gradient cosine to all data",
}
CELL = ["dataset", "model", "keep"]


PAGE = """\
# Figure 4: does the decomposition matter?

Made by `dpbench run {grid}` and `dpbench figure4 {grid}`, from {done} of its {cells} runs. One prune ratio, 1 - keep,
is split into exploration s/n and exploitation q/s in many ways; seeds are paired. Tested is whether the mean test
accuracy is the same for all of them (repeated-measures F, permutations within seeds, Holm-corrected over the lines
below). Not shown to matter is not shown not to matter: the intervals, of 95 % each and not corrected, say how large an
effect could have hidden. Times
are those of runs that shared the machine; compare them only where nothing else ran.
"""


@dataclass(frozen=True)
class Statement:
    """The test on one dataset, model and keep: is the mean accuracy the same for all decompositions?

    `p` is of the repeated-measures F by permutations within seeds, Holm-corrected over all statements made together,
    `friedman_p` that of the ranks, uncorrected. `spread` is the largest difference of means, in points;
    `ends` the paired difference of the largest explore less the smallest, with its 95 % half width.
    """

    dataset: str
    model: str
    keep: float
    uniform: bool  # whether s = q, which is uniform sampling, is among the decompositions
    decompositions: int
    seeds: int
    p: float
    friedman_p: float
    spread: float
    ends: float
    ends_half_width: float

    @property
    def text(self) -> str:
        """The statement in words."""
        what = "with uniform sampling (s = q)" if self.uniform else "with s > q"
        verdict = "matters" if self.p < ALPHA else "is not shown to matter"
        return (
            f"{self.dataset}, {self.model}, keep {self.keep:g}: over {self.decompositions} decompositions {what} and "
            f"{self.seeds} seeds the decomposition {verdict} (p = {self.p:.3g}; means differ by at most "
            f"{self.spread:.2f} points, s = n less the smallest s by {self.ends:.2f} ± {self.ends_half_width:.2f})"
        )


def frame(results: Iterable[RunResult], method: str = METHOD) -> pd.DataFrame:
    """One line a finished run of a form of OrderDP with no parameter but explore; explore below keep is left out.

    So is a decomposition with seeds that diverged or failed, as it would cost all others these seeds.
    """
    lines = []
    results = list(results)
    broken = verdicts.broken(results)
    for result in results:
        spec = result["spec"]
        name, given = catalog.parse(spec["method"])
        if result["status"] != "FINISHED" or row_of(spec) in broken or name != method or given.keys() - {"explore"}:
            continue
        if counts_as_keep(result) is None:
            explore = result["hyperparameters"]["explore"]
            measured = {metric: result["metrics"].get(metric, np.nan) for metric in (*PANELS, "forward_saving")}
            measured["accuracy"] *= 100
            step = 100 / result["samples"]["test"]
            lines.append({name: spec[name] for name in (*CELL, "seed")} | {"explore": explore, "step": step} | measured)
    return pd.DataFrame(lines)


def statements(runs: pd.DataFrame, rng: np.random.Generator, draws: int = 20_000) -> list[Statement]:
    """Test every dataset, model and keep, without s = q and, where it was run, with it. Only shared seeds are used."""
    if runs.empty:
        raise UsageError(f"no finished runs of {METHOD}[explore=...] with explore at or above keep")
    found = []
    for (dataset, model, cell), group in runs.groupby(CELL):
        keep = float(cell)  # type: ignore[arg-type]
        wide: pd.DataFrame = group.pivot(index="seed", columns="explore", values="accuracy").dropna()
        above = wide.columns.to_numpy(float) > keep
        for uniform in (False,) if above.all() else (True, False):
            scores = wide if uniform else wide.iloc[:, above]
            if scores.shape[1] < 3 or len(scores) < MIN_SEEDS:
                continue
            means = scores.to_numpy().mean(0)
            ends = paired_difference(scores.iloc[:, -1], scores.iloc[:, 0], step=float(group["step"].max()))
            found.append(
                Statement(
                    dataset=str(dataset),
                    model=str(model),
                    keep=keep,
                    uniform=uniform,
                    decompositions=scores.shape[1],
                    seeds=len(scores),
                    p=permutation_p(scores.to_numpy(), rng, draws),
                    friedman_p=friedman_p(scores.to_numpy()),
                    spread=float(means.max() - means.min()),
                    ends=ends.mean,
                    ends_half_width=ends.half_width,
                )
            )
    if not found:
        raise UsageError(f"a test needs 3 decompositions and {MIN_SEEDS} seeds of {METHOD} at one keep")
    corrected = holm([one.p for one in found])
    return [Statement(**(vars(one) | {"p": float(p)})) for one, p in zip(found, corrected, strict=True)]


def write(grid: str, folder: Path) -> list[Statement]:
    """Test a grid that was run; write figure4.png, figure4.json and, for each decomposition, figure4.csv."""
    cells = grids.read_manifest(grid).cells
    results = grids.results(cells)
    runs = frame(results.values())
    found = statements(runs, np.random.default_rng(0))
    drawing = figure(runs)
    means = runs.groupby([*CELL, "explore"])[list(PANELS)].agg(["mean", "std", "count"])
    means.columns = pd.Index(["_".join(names) for names in means.columns])
    store.write(folder / "figure4.png", lambda file: drawing.savefig(file, format="png", dpi=120))
    store.write(folder / "figure4.csv", lambda file: file.write_text(csv(means.reset_index()) + "\n"))
    store.write_json(folder / "figure4.json", [vars(one) | {"text": one.text} for one in found])
    done = sum(result["status"] == "FINISHED" for result in results.values())
    broken = verdicts.broken(results.values())
    left_out = [
        f"- left out: {method} on {dataset}, {model} at keep {keep:g}: {text}"
        for (dataset, model, method, keep), text in broken.items()
    ]
    lines = [
        PAGE.format(grid=grid, done=done, cells=len(cells)),
        *(f"- {one.text}" for one in found),
        *left_out,
        "",
        "![Figure 4](figure4.png)",
        "",
    ]
    store.write(folder / "README.md", lambda file: file.write_text("\n".join(lines)))
    return found


def permutation_p(scores: np.ndarray, rng: np.random.Generator, draws: int) -> float:
    """The p value of equal means of the columns of (seeds, decompositions), by permutations within each seed.

    The repeated-measures F rises with the variance of the column means, since seeds' sums and the total stay.
    """
    centred = scores - scores.mean(1, keepdims=True)
    observed = centred.mean(0).var()
    shuffled = rng.permuted(np.broadcast_to(centred, (draws, *centred.shape)), axis=2)
    as_large = shuffled.mean(1).var(1) >= observed * (1 - 1e-9)
    return float((1 + as_large.sum()) / (1 + draws))


def friedman_p(scores: np.ndarray) -> float:
    """Friedman's p over seeds; 1 where every seed ties."""
    if np.ptp(scores, axis=1).max() == 0:
        return 1.0
    return float(tests.friedmanchisquare(*scores.T).pvalue)


def figure(runs: pd.DataFrame) -> Figure:
    """Mean and 95 % interval of each panel's measure over explore, one line a keep, for the first dataset and model."""
    import seaborn as sns
    from matplotlib.figure import Figure

    dataset, model = runs[["dataset", "model"]].iloc[0]
    runs = runs[(runs["dataset"] == dataset) & (runs["model"] == model)]
    with sns.axes_style("whitegrid"), sns.color_palette("deep"):
        drawing = Figure(figsize=(11, 7), layout="constrained")
        panels = drawing.subplots(2, 2).flat
    for axes, (metric, title) in zip(panels, PANELS.items(), strict=True):
        for keep, part in runs.groupby("keep"):
            step = float(part["step"].max()) if metric == "accuracy" else 0.0
            points = part.groupby("explore")[metric].apply(lambda values: mean_interval(values, step=step))  # noqa: B023
            means, widths = zip(*points, strict=True)
            axes.errorbar(points.index, means, widths, fmt="o-", capsize=2, label=f"keep {keep:g}")
        axes.set(xlabel="explore, $s/n$", ylabel=title)
        if metric == "accuracy":
            axes.set_ylim(top=min(100, axes.get_ylim()[1]))  # whatever the intervals do
        sns.despine(ax=axes)
    drawing.axes[0].legend()
    drawing.suptitle(f"OrderDP on {dataset}, {model}: one prune ratio, many decompositions")
    return drawing
