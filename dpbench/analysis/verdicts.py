"""What the seeds say about a row: paired differences to the controls, verdicts, and rank intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dpbench.analysis import moderated, ranks, stats
from dpbench.analysis.flips import Flips
from dpbench.experiments import controls
from dpbench.spec import Row, row_of
from dpbench.training.results import RunResult, is_finished

CONTROLS = {"uniform": "random", "uniform_epoch": "random per epoch", "full": "full"}
AT_COST = "control"  # names the columns of the comparison at realised cost
GROUP = ["dataset", "model", "keep"]
ROW = ["dataset", "model", "method", "keep"]


def broken(results: Iterable[RunResult]) -> dict[Row, str]:
    """Say of each row with seeds that diverged or failed how many: the others alone would flatter it."""
    seeds: dict[Row, Counter[str]] = {}
    for result in results:
        seeds.setdefault(row_of(result["spec"]), Counter())[result["status"]] += 1
    return {
        row: broken_text(count["DIVERGED"], count["FAILED"], count.total())
        for row, count in seeds.items()
        if count["DIVERGED"] or count["FAILED"]
    }


def broken_text(diverged: int, failed: int, total: int) -> str:
    """For instance "diverged 2/5, failed 1/5"; empty where all seeds are whole."""
    return ", ".join(f"{word} {count}/{total}" for word, count in (("diverged", diverged), ("failed", failed)) if count)


def runs_frame(results: Iterable[RunResult], looks: Sequence[int] = ()) -> pd.DataFrame:
    """One line a run of each row that is whole: ROW, seed, hash, accuracy in points, and `step`, their spacing.

    A row with seeds that diverged or failed has no line, so that no comparison is made by the seeds that are left.
    Of a grid with `looks` each row has its seeds up to the last one that is whole.
    """
    results = list(results)
    left_out = broken(results)
    lines = []
    for result in results:
        row = row_of(result["spec"])
        if is_finished(result) and row not in left_out:
            tested = result.get("samples", {}).get("test")
            line = dict(zip(ROW, row, strict=True)) | {"seed": result["spec"]["seed"], "hash": result["hash"]}
            accuracy = 100 * result["metrics"]["accuracy"]
            lines.append(line | {"accuracy": accuracy, "step": 100 / tested if tested else 0.0})
    frame = pd.DataFrame(lines, columns=[*ROW, "seed", "hash", "accuracy", "step"])
    if not looks or frame.empty:
        return frame
    return frame[frame.groupby(ROW)["seed"].transform(stats.whole_looks, looks=looks)]


def looks_text(looks: Sequence[int]) -> str:
    """How a grid is read whose numbers of seeds were planned beforehand; empty for others."""
    if not looks:
        return ""
    *first, last = map(str, looks)
    text = f"Verdicts are read at {last} seeds, whatever was run beyond them."
    if first:
        text = (
            f"Seeds were added where a verdict was open: verdicts are read at {', '.join(first)} and {last} seeds, at "
            f"each with 1/{len(looks)} of the 5 %."
        )
    return (
        f"{text} Mean accuracies and ranks are of all seeds; the intervals of ranks, and what is said over datasets, "
        f"are of the first {looks[0]}."
    )


def of_first_look(runs: pd.DataFrame, looks: Sequence[int]) -> pd.DataFrame:
    """The runs of the seeds that all rows were to have whatever was found; all runs where no looks are planned."""
    return runs[runs["seed"] < looks[0]] if looks else runs


@dataclass(frozen=True)
class Compared:
    """The comparisons of a board: of a control and a row each difference, and what `stats.compare` says of it.

    `said` is what is said in place of a verdict, `references` with which row each one is compared, `runs` those used.
    """

    lines: pd.DataFrame
    said: dict[tuple[str, Row], str]
    references: dict[tuple[str, Row], Row]
    runs: pd.DataFrame


def compared(
    results: Iterable[RunResult],
    delta: float,
    at_cost: Iterable[RunResult] = (),
    keeps: dict[Row, float] | None = None,
    flips: Flips | None = None,
    looks: Sequence[int] = (),
) -> Compared:
    """Compare each row with its controls, as `table` says."""
    results, at_cost = list(results), list(at_cost)
    runs = runs_frame(results, looks)
    spent = runs_frame([*results, *at_cost], looks).drop_duplicates([*ROW, "seed"])  # a row may be another's control
    rows, references = _by_row(runs), _by_row(spent)
    spreads = moderated.spreads(references, flips)
    trouble = broken([*results, *at_cost])
    differences: dict[tuple[str, Row], stats.Difference] = {}
    names, said, used = {}, {}, {}
    for control, name in [*CONTROLS.items(), (AT_COST, f"{CONTROLS['uniform']} at its cost")]:
        for row in dict.fromkeys(row_of(result["spec"]) for result in results):
            at = _reference(control, row, keeps or {})
            if at is None or at == row or (control, row[2]) == ("uniform_epoch", "uniform"):  # said the other way round
                continue
            if row in trouble or at in trouble:
                said[control, row] = trouble.get(row) or f"{name}: {trouble[at]}"
            elif row in rows and at in references:
                step = float(rows[row]["step"].max())
                names[control, row], used[control, row] = name, at
                difference = spreads.difference(row, at, rows[row]["accuracy"], references[at]["accuracy"], step)
                differences[control, row] = replace(difference, share=stats.share(looks))
    return Compared(stats.compare(differences, names, delta), said, used, runs)


def open_rows(found: Compared, delta: float, among: Container[Row]) -> tuple[set[Row], int]:
    """The rows of open comparisons of the rows `among`, their controls too, and how many comparisons these are.

    A comparison is closed where the two differ, or where they are shown to differ by less than `delta`.
    """
    lines = found.lines
    still_open = (lines["mean"].abs() <= lines["half_width"]) & (lines["mean"].abs() + lines["half_width"] >= delta)
    pairs = [(row, found.references[control, row]) for control, row in lines.index[still_open] if row in among]
    return {row for pair in pairs for row in pair}, len(pairs)


def table(
    results: Iterable[RunResult],
    delta: float,
    at_cost: Iterable[RunResult] = (),
    keeps: dict[Row, float] | None = None,
    flips: Flips | None = None,
    looks: Sequence[int] = (),
) -> pd.DataFrame:
    """Return one line a row of the leaderboard, indexed by ROW: difference to each control, verdicts, rank interval.

    `at_cost` are results of random per epoch, as `results`, and `keeps` says at which share of them a row has its
    control at realised cost. Differences are in accuracy points. All comparisons of all rows with all controls are one
    family, `stats.compare`: at most 5 % of boards carry any false verdict. In a board of as many differences as 15 rows
    have, the spread of each over its seeds is drawn towards that of the others, by the `flips` of their test
    predictions where these are known (`moderated`). A row with seeds that diverged or failed says so in place of its
    verdicts, and so do those whose control has such. With `looks`, verdicts are read at these numbers of seeds, and
    each has its part of the 5 %.
    """
    results = list(results)
    every = compared(results, delta, at_cost, keeps, flips, looks)
    planned = dict.fromkeys(row_of(result["spec"]) for result in results)
    found = pd.DataFrame(index=pd.MultiIndex.from_tuples(list(planned), names=ROW))
    for control in (*CONTROLS, AT_COST):
        of_control = [key for key in every.lines.index if key[0] == control]
        part = every.lines.loc[of_control].set_axis(_rows_index(row for _, row in of_control))
        found[f"difference_{control}"] = part["mean"]
        found[f"difference_{control}_ci95"] = part["half_width"]
        found[f"difference_{control}_p"] = part["p"]
        instead = {row: text for (name, row), text in every.said.items() if name == control}
        texts = part["verdict"].to_dict() | instead
        found[f"verdict_{control}"] = [texts.get(row, "") for row in planned]
        if control == "full":
            found["equivalence_full_p"] = part["equivalence_p"]
            equal = part["equivalence"].to_dict() | instead
            found["equivalence_full"] = [equal.get(row, "") for row in planned]
    return found.join(_rank_intervals(of_first_look(every.runs, looks)))


def _reference(control: str, row: Row, keeps: dict[Row, float]) -> Row | None:
    """The row that a row is compared with; None where it has no such control."""
    if control == AT_COST:
        return (*row[:2], controls.METHOD, keeps[row]) if row in keeps else None
    return (*row[:2], control, 1.0 if control == "full" else row[3])  # `full` has one row, the others one at each keep


def _rows_index(rows: Iterable[Row]) -> pd.MultiIndex:
    return pd.MultiIndex.from_tuples(list(rows), names=ROW)


def _by_row(runs: pd.DataFrame) -> dict[Row, pd.DataFrame]:
    """The runs of each row by seed."""
    return {row: part.set_index("seed") for row, part in runs.groupby(ROW)}  # type: ignore[misc]


def _rank_intervals(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the interval of each rank among the methods that have every seed of their group."""
    parts = []
    for (dataset, model, keep), group in runs.groupby(GROUP):
        seeds = group.groupby("method")["seed"].nunique()
        whole = group[group["method"].isin(seeds.index[seeds == group["seed"].nunique()])]
        if whole.empty:
            continue
        found = ranks.rank_intervals(whole)[["low", "high"]]
        found.index = pd.MultiIndex.from_tuples([(dataset, model, method, keep) for method in found.index], names=ROW)
        parts.append(found.rename(columns={"low": "rank_low", "high": "rank_high"}))
    none = pd.DataFrame(index=_rows_index([]), columns=["rank_low", "rank_high"], dtype=float)
    return pd.concat([none, *parts]) if parts else none


def tested_over_datasets(runs: pd.DataFrame) -> dict[tuple[str, float], pd.DataFrame]:
    """Return, by model and keep, the runs of methods that have every dataset, where there are enough for a test."""
    found = {}
    for (model, keep), group in runs.groupby(["model", "keep"]):
        count = group.groupby("method")["dataset"].nunique()
        whole = group[group["method"].isin(count.index[count == group["dataset"].nunique()])]
        if whole["dataset"].nunique() >= ranks.MIN_DATASETS and whole["method"].nunique() >= ranks.MIN_METHODS:
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
        ranked = ranks.rank_intervals(whole).add_prefix("rank_")
        means = ranks.iqm(whole, np.random.default_rng(0)).add_prefix("iqm_")
        part = ranked.join(means).rename(columns={"rank_rank": "rank", "iqm_iqm": "iqm"})
        if "uniform" in part.index:
            chances = {
                method: ranks.probability_of_improvement(whole, method, "uniform", np.random.default_rng(0))[0]
                for method in part.index.drop("uniform")
            }
            part["beats_random"] = pd.Series(chances)
        part.index.name = "method"
        parts.append(part.reset_index().assign(model=group["model"].iloc[0], keep=group["keep"].iloc[0]))
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return found.sort_values(["model", "keep", "rank"], ignore_index=True) if parts else found
