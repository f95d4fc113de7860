"""The leaderboard's figures, for one dataset and model each: seaborn on a board, saved as PNG and PDF."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dpbench import store
from dpbench.analysis import ranks, verdicts
from dpbench.analysis import table as tables
from dpbench.analysis.board import Board
from dpbench.reports import pareto_figure, shift_figure
from dpbench.reports.panels import (
    COLOURS,
    LETTER,
    Part,
    axes_of,
    end_at,
    legend,
    marks_of,
    shape_of,
    styles_of,
    with_panels,
)

RC = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a method's name is text, dollar signs too
    "legend.frameon": False,
    "axes.titlesize": 10,
    "axes.edgecolor": "0.3",
    "grid.color": "0.92",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.5,
}


WIDE = 9  # letters of a title in an inch, with room for the legend
MOST_TICKS = 20  # of the axis of keeps

Draw: TypeAlias = Callable[[Part], Figure]


def figures(board: Board, wanted: Collection[str] = ()) -> dict[str, Figure]:
    """All figures by name, or those that are wanted; a name ends in dataset and model where there are several."""
    styles = styles_of(list(dict.fromkeys(board.table["method"])))
    found = {}
    shown = (board.table["seeds"] > 0) & ~tables.is_broken(board.table)
    groups = list(board.table[shown].groupby(["dataset", "model"], sort=False))
    with look():
        for (dataset, model), table in groups:
            part = Part(board, str(dataset), str(model), table.reset_index(drop=True), styles)
            suffix = "" if len(groups) == 1 else f"-{_safe(dataset)}-{_safe(model)}"
            for name, draw in FIGURES.items():
                if (wanted and name not in wanted) or (name == "pareto_time" and board.times_reason):
                    continue
                if name == "shifted" and not shift_figure.measured(part):
                    continue
                figure = draw(part)
                some = len(part.panels) < len(part.keeps) and len(figure.axes) > 1
                left_out = part.left_out(marked=name.startswith("pareto"))
                notes = [f"{len(part.panels)} of {len(part.keeps)} keeps" if some else "", left_out]
                lines = [f"{TITLES[name]}: {dataset}, {model}", *filter(None, notes)]
                title = "\n".join(textwrap.fill(line, round(WIDE * figure.get_figwidth())) for line in lines)
                figure.suptitle(title, fontsize=11, x=0.01, ha="left")
                found[name + suffix] = figure
        if not wanted:
            found |= _critical_differences(board)
    return found


def save(board: Board, folder: Path) -> list[Path]:
    """Write every figure as PNG and as PDF; return the files."""
    made = []
    with look():
        for name, figure in figures(board).items():
            for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
                path = folder / f"{name}.{suffix}"
                store.write(path, lambda file: figure.savefig(file, dpi=figure.dpi, metadata=metadata))  # noqa: B023
                made.append(path)
    return made


@contextmanager
def look() -> Iterator[None]:
    """The style in which figures are drawn and saved."""
    with mpl.rc_context(sns.axes_style("whitegrid") | sns.plotting_context("paper", font_scale=1.1) | RC):
        yield


def _safe(name: object) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in str(name))


def accuracy_against_keep(part: Part) -> Figure:
    """Mean accuracy and 95 % interval at each keep; full training as a band."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    ax = figure.subplots()
    methods = [method for method in part.style if method in set(part.table["method"])]
    spread = 0.25 * min(np.diff(part.keeps), default=0.1)
    pruned = [method for method in methods if (part.table.loc[part.table["method"] == method, "keep"] < 1).any()]
    for method, shift in zip(pruned, np.linspace(-spread, spread, len(pruned)), strict=True):
        rows = part.table[part.table["method"] == method].sort_values("keep")
        x, y, half = rows["keep"] + shift, 100 * rows["accuracy_mean"], 100 * rows["accuracy_ci95"].fillna(0)
        ax.errorbar(x, y, half, label=method, capsize=2, elinewidth=1, ms=5, **part.style[method] | {"lw": 0.8})
    for row in part.table[part.table["method"] == "full"].to_dict("records"):
        mean, half = 100 * row["accuracy_mean"], 100 * np.nan_to_num(row["accuracy_ci95"])
        ax.axhline(mean, color="black", ls=(0, (4, 2)), lw=1, label="full")
        ax.axhspan(mean - half, mean + half, color="black", alpha=0.08, lw=0)
    ax.set(xlabel="share of the samples kept", ylabel="test accuracy, %")
    if len(part.keeps) <= MOST_TICKS:
        ax.set_xticks(part.keeps)
    end_at(figure, 100)
    legend(figure)
    return figure


def jaccard(part: Part) -> Figure:
    """Jaccard index of consecutive epochs' and of different seeds' selections, with the chance level of each."""
    pruned = part.table[part.table["keep"].isin(part.panels) & part.table["jaccard_epochs"].notna()]
    methods = list(dict.fromkeys(pruned.sort_values("jaccard_epochs", ascending=False)["method"]))
    figure, panels = with_panels(part, width=3.4, height=0.3 * len(methods) + 1.3)
    y = np.arange(len(methods))
    kinds = (("jaccard_epochs", -0.14, "o", "epoch to epoch"), ("jaccard_seeds", 0.14, "D", "seed to seed"))
    for keep, ax in panels:
        table = pruned[pruned["keep"] == keep].set_index("method").reindex(methods)
        for colour, (name, shift, marker, label) in zip(COLOURS, kinds, strict=False):
            ax.hlines(y + shift, table[f"{name}_chance"], table[name], color=colour, lw=1.2)
            ax.plot(table[name], y + shift, marker, color=colour, ms=5, label=label)
            ax.plot(table[f"{name}_chance"], y + shift, "|", color="black", ms=7, mew=1.2, label="chance")
        ax.set(yticks=y, yticklabels=methods, xlim=(-0.03, 1.03), xlabel="Jaccard index")
    panels[0][1].invert_yaxis()
    legend(figure)
    return figure


def _over_epochs(part: Part, name: str, label: str) -> Figure:
    """Mean over seeds by epoch, and the range over seeds as a band; the mean against a surrogate as a dotted line."""
    figure, panels = with_panels(part)
    for keep, ax in panels:
        for i, (method, values) in enumerate(part.curves(name, keep)):
            style, epochs = part.style[method], 1 + np.arange(values.shape[1])
            known = np.isfinite(values).any(axis=0)
            v, e = values[:, known], epochs[known]
            ax.plot(e, np.nanmean(v, axis=0), label=method, ms=4, markevery=marks_of(i, len(e)), **style)
            ax.fill_between(e, np.nanmin(v, axis=0), np.nanmax(v, axis=0), color=style["color"], alpha=0.12, lw=0)
        for method, values in part.curves(f"{name}_surrogate", keep):
            known = np.isfinite(values).any(axis=0)
            epochs, mean = 1 + np.flatnonzero(known), np.nanmean(values[:, known], axis=0)
            ax.plot(epochs, mean, label=f"{method}, to its surrogate", color=part.style[method]["color"], ls=":")
        ax.set(xlabel="epoch")
    panels[0][1].set_ylabel(label)
    legend(figure)
    return figure


def gradient_cosine(part: Part) -> Figure:
    """Cosine between the selection's mean gradient and that of all samples, over training; dotted: its surrogate's."""
    figure = _over_epochs(part, "gradient_cosine", "cosine to the full gradient")
    figure.axes[0].axhline(0, color="0.6", lw=0.8, zorder=0)
    return figure


def gradient_norm_ratio(part: Part) -> Figure:
    """Norm of the selection's mean gradient over that of all samples, over training; dotted: its surrogate's."""
    figure = _over_epochs(part, "gradient_norm_ratio", "norm ratio to the full gradient")
    for ax in figure.axes:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")  # not 10^x: names must not be read as formulas, so nothing is
        ax.axhline(1, color="0.6", lw=0.8, zorder=0)
    return figure


def uses(part: Part) -> Figure:
    """How often samples were used: the share of them used in at least a number of epochs."""
    figure, panels = with_panels(part)
    finished = part.board.finished(part.dataset, part.model)
    for keep, ax in panels:
        for i, ((method, share), results) in enumerate(finished.items()):
            counts = [result["diagnostics"]["uses_histogram"] for result in results if "diagnostics" in result]
            if share in (keep, 1.0) and counts:
                total = np.sum([np.pad(c, (0, max(map(len, counts)) - len(c))) for c in counts], axis=0)
                at_least = total[::-1].cumsum()[::-1] / total.sum()
                marks = marks_of(i, len(at_least))
                ax.plot(at_least, label=method, ms=4, markevery=marks, drawstyle="steps-mid", **part.style[method])
        ax.set(xlabel="epochs", ylim=(0, 1.03))
    panels[0][1].set_ylabel("share used at least as often")
    legend(figure)
    return figure


def coverage(part: Part) -> Figure:
    """Share of the samples that were used at least once, by epoch."""
    figure, panels = with_panels(part)
    finished = part.board.finished(part.dataset, part.model)
    for keep, ax in panels:
        for i, ((method, share), results) in enumerate(finished.items()):
            curves = [result["diagnostics"]["coverage"] for result in results if "diagnostics" in result]
            if share in (keep, 1.0) and curves:
                seen = np.mean([curve[: min(map(len, curves))] for curve in curves], axis=0)
                marks = marks_of(i, len(seen))
                ax.plot(1 + np.arange(len(seen)), seen, label=method, ms=4, markevery=marks, **part.style[method])
        ax.set(xlabel="epoch", ylim=(0, 1.03))
    panels[0][1].set_ylabel("share of samples seen")
    legend(figure)
    return figure


def kept_per_class(part: Part) -> Figure:
    """Share of each class's samples that a mean epoch trains on."""
    tables = {}
    finished = part.board.finished(part.dataset, part.model)
    for keep in part.panels:
        rows = {
            method: np.mean(
                np.array([result["diagnostics"]["kept_per_class"] for result in results], np.float64), axis=0
            )
            for (method, share), results in finished.items()
            if share == keep and all("diagnostics" in result for result in results)
        }
        tables[keep] = pd.DataFrame(rows).T
    classes = max(table.shape[1] for table in tables.values())
    return _heat_maps(part, tables, "class", "share kept", annotate=classes <= 20)


def jaccard_between_methods(part: Part) -> Figure:
    """How much two methods' selections of the same epoch and seed share; mean over epochs and seeds."""
    pairs = part.board.overlap.methods
    pairs = pairs[(pairs["dataset"] == part.dataset) & (pairs["model"] == part.model)]
    tables = {}
    for keep in part.panels:
        part_of = pairs[pairs["keep"] == keep]
        names = list(dict.fromkeys([*part_of["method"], *part_of["other"]]))
        square = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
        for a, b, value in part_of[["method", "other", "jaccard"]].itertuples(index=False):
            square.loc[a, b] = square.loc[b, a] = value
        tables[keep] = square
    figure = _heat_maps(part, tables, "", "Jaccard", annotate=max(map(len, tables.values())) <= 12)
    for ax, (keep, table) in zip(figure.axes, tables.items(), strict=False):
        chance = pairs.loc[pairs["keep"] == keep, "chance"]
        if len(table):
            ax.set_title(f"keep {keep:g} (chance {chance.min():.2f} to {chance.max():.2f})", loc="left")
    return figure


def _heat_maps(part: Part, tables: dict[float, pd.DataFrame], x: str, label: str, annotate: bool) -> Figure:
    """One heat map a keep, on one scale from 0 to 1."""
    rows = max(map(len, tables.values()))
    columns = max(table.shape[1] for table in tables.values())
    cell = 0.5 if annotate or columns <= 12 else 0.2
    name = LETTER * max(map(len, part.style))
    down, across = shape_of(len(tables))
    height = min(0.36, cell) * rows + (0.9 if x else name + 0.7)
    figure = Figure(figsize=((cell * columns + name) * across + 0.8, height * down), layout="constrained")
    FigureCanvasAgg(figure)  # keeps its renderer, where the base canvas draws a new picture for each label
    axes = axes_of(figure, len(tables))
    for i, ((keep, table), ax) in enumerate(zip(tables.items(), axes, strict=True)):
        ax.set_title(f"keep {keep:g}", loc="left")
        if table.empty:
            ax.set_axis_off()
            continue
        bar = {"label": label, "shrink": 0.8} if i == len(tables) - 1 else None
        options: dict[str, Any] = {"annot": annotate, "fmt": ".2f", "annot_kws": {"fontsize": 7}}
        sns.heatmap(table, ax=ax, vmin=0, vmax=1, cmap="cividis", cbar=bar is not None, cbar_kws=bar, **options)
        ax.set(xlabel=x, ylabel="")
        ax.tick_params(axis="x", rotation=0 if x else 90)
        ax.tick_params(axis="y", rotation=0)
    return figure


def _critical_differences(board: Board) -> Iterator[tuple[str, Figure]]:
    """One diagram a model and keep, for the methods that have every dataset; none below five datasets."""
    for (model, keep), runs in verdicts.tested_over_datasets(board.runs).items():
        diagram = ranks.critical_difference_figure(ranks.rank_test(runs))
        yield f"critical_difference-{_safe(model)}-{keep:g}", diagram


def inline_diagrams(board: Board) -> Iterator[str]:
    """The same as SVG elements for a page: its colours, so that light and dark both read; names are text."""
    with look(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dpbench"}):
        for _, diagram in _critical_differences(board):
            file = io.StringIO()
            diagram.savefig(file, format="svg", transparent=True, metadata={"Date": None})
            element = file.getvalue()[file.getvalue().index("<svg") :]
            element = re.sub(r"<(metadata|style)\b.*?</\1>", "", element, flags=re.DOTALL)  # styles are global
            element = element.replace("stroke: #ebebeb", "stroke: var(--line)")
            yield re.sub(r"(fill|stroke): #[0-9a-f]{6}", r"\1: currentColor", element)


FIGURES: dict[str, Draw] = {
    "pareto": pareto_figure.cost,
    "pareto_time": pareto_figure.time,
    "accuracy_keep": accuracy_against_keep,
    "shifted": shift_figure.shifted,
    "jaccard": jaccard,
    "gradient_cosine": gradient_cosine,
    "gradient_norm_ratio": gradient_norm_ratio,
    "coverage": coverage,
    "uses": uses,
    "kept_per_class": kept_per_class,
    "jaccard_methods": jaccard_between_methods,
}
TITLES = {
    "pareto": "Accuracy against realised cost",
    "pareto_time": "Accuracy against wall time",
    "accuracy_keep": "Accuracy and its 95 % interval",
    "shifted": "Accuracy on corrupted test images",
    "jaccard": "How stable the selections are",
    "gradient_cosine": "Direction of the selection's gradient",
    "gradient_norm_ratio": "Size of the selection's gradient",
    "coverage": "How much of the data was seen",
    "uses": "How often the samples were used",
    "kept_per_class": "Share of each class kept",
    "jaccard_methods": "Who selects the same samples",
}
