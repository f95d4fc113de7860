"""The protocol lint: what a reader should know before trusting a rank, each finding a badge with one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from dpbench import catalog
from dpbench.analysis import table as tables
from dpbench.analysis.stats import MIN_SEEDS
from dpbench.errors import UsageError
from dpbench.experiments.controls import EXEMPT, OFF_COST
from dpbench.spec import Grid, Row, RunSpec, row_of
from dpbench.training.results import RunResult, is_finished

if TYPE_CHECKING:
    from dpbench.method import Proxy

MOST_COMMITS = 3  # that a sentence names


@dataclass(frozen=True)
class Finding:
    """A badge and its sentence; about one row, or about the whole grid where `row` is None."""

    badge: str
    text: str
    row: Row | None = None


def lint(cells: dict[str, RunSpec], results: dict[str, RunResult], table: pd.DataFrame, grid: Grid) -> list[Finding]:
    """Return what departs from the protocol: first the grid's findings, then those of rows in the table's order.

    The grid tells by how many trials the parameters of a row were chosen, its recipe where that was tuned, and at how
    many seeds a row may end.
    """
    planned: dict[Row, set[int]] = {}
    of_group: dict[tuple[str, str, float], set[int]] = {}
    finished: dict[Row, list[RunResult]] = {}
    for key, spec in cells.items():
        planned.setdefault(spec.row, set()).add(spec.seed)
        of_group.setdefault(_group(spec.row), set()).add(spec.seed)
        if is_finished(results.get(key)):
            finished.setdefault(spec.row, []).append(results[key])
    found = list(_of_grid(table, [result for part in finished.values() for result in part]))
    of_all = any(one.recipe for one in grid.tuned)  # then those of methods without parameters count, too
    trials = {
        row: one.trials if (one := grid.tuning(row)) else 0
        for row, runs in finished.items()
        if of_all or (runs[0].get("hyperparameters") and _tunable(row[2]))
    }
    for line in tables.records(table):
        row = row_of(line)
        others = planned[row] if len(planned[row]) in grid.looks else of_group[_group(row)]
        texts = [*_of_runs(line, planned[row], others), *_of_method(line, finished.get(row, []))]
        if len(set(trials.values())) > 1 and row in trials:
            what = "Its recipe was" if of_all else "Its parameters were"
            text = f"{what} chosen by {trials[row]} trials; in this grid that goes from {min(trials.values())}"
            texts.append(("unequal tuning", f"{text} to {max(trials.values())}."))
        found += [Finding(badge, text, row) for badge, text in texts]
    return found


def _tunable(method: str) -> bool:
    """Whether a method has parameters that declare a range; True where its file is not at hand any more."""
    name = catalog.parse(method)[0]
    try:
        return name not in EXEMPT and bool(catalog.searched(name))
    except UsageError:
        return True


def _group(row: Row) -> tuple[str, str, float]:
    return (row[0], row[1], row[3])


def _of_grid(table: pd.DataFrame, finished: list[RunResult]) -> Iterator[Finding]:
    for (dataset, model), part in table.groupby(["dataset", "model"], sort=False):
        for control, name in (("full", "full training"), ("uniform", "random")):
            if control not in set(part["method"]):
                yield Finding(
                    "no control", f"{dataset}, {model} has no row `{control}`: nothing is compared with {name}."
                )
    for name in ("dpbench", "torch", "device"):
        values = {str(result.get("environment", {}).get(name)) for result in finished}
        if len(values) > 1:
            what = "wall times are not comparable" if name == "device" else "small differences may come from it"
            yield Finding(
                "mixed machines", f"Runs were made with different {name} ({', '.join(sorted(values))}): {what}."
            )
    commits = {str(result.get("environment", {}).get("commit", "unknown")) for result in finished}
    clean = {commit.removesuffix("-dirty")[:12] for commit in commits}
    if len(clean) > 1:
        rest = f" and {len(clean) - MOST_COMMITS} more" if len(clean) > MOST_COMMITS else ""
        shown = ", ".join(sorted(clean)[:MOST_COMMITS]) + rest
        yield Finding(
            "mixed commits", f"Runs were made from {len(clean)} commits ({shown}): the code may have changed."
        )
    dirty = sum(str(result.get("environment", {}).get("commit", "")).endswith("-dirty") for result in finished)
    if dirty:
        text = (
            f"{dirty} of {len(finished)} runs were made from a tree with uncommitted changes: no commit has their code."
        )
        yield Finding("dirty tree", text)


def _of_runs(line: dict[str, Any], planned: set[int], others: set[int]) -> Iterator[tuple[str, str]]:
    """What is wrong with the number of a row's runs."""
    total = line["seeds"] + line["diverged"] + line["failed"] + line["missing"]
    if line["missing"]:
        yield "missing cells", f"{line['missing']} of {total} runs have not been made."
    if line["failed"]:
        yield "failed runs", f"{line['failed']} of {total} runs failed: {line['reason']}"
    if line["diverged"]:
        reason = "" if line["failed"] else f": {line['reason']}"
        yield "diverged", f"diverged {line['diverged']}/{total}{reason}"
    if planned != others:
        yield (
            "unequal seeds",
            f"It has {len(planned)} of the {len(others)} seeds of its group; only shared ones compare.",
        )
    if 0 < line["seeds"] < MIN_SEEDS and not (line["failed"] or line["diverged"]):
        yield "few seeds", f"{line['seeds']} of the {MIN_SEEDS} seeds that a verdict needs."


def _of_method(line: dict[str, Any], finished: list[RunResult]) -> Iterator[tuple[str, str]]:
    """How a method departs from what the others do."""
    for result in finished:
        records, metrics = result.get("epochs", []), result["metrics"]
        if records and metrics["accuracy"] != records[-1]["accuracy"]:
            yield "test selection", "Its accuracy is not that of the last epoch: an epoch was chosen on test data."
            break
    lengths = {(r["metrics"].get("epochs"), r["spec"]["recipe"]["epochs"]) for r in finished}
    changed = [(made, asked) for made, asked in lengths if made and made != asked]
    if changed:
        made, asked = changed[0]
        yield "changed schedule", f"It trains {made} epochs where the recipe has {asked}."
    by_epochs = all(result["spec"]["budget"]["unit"] == "epochs" for result in finished)  # others make costs equal
    if by_epochs and abs(line["cost"] - line["keep"]) > OFF_COST:  # never where it is not known
        yield "other cost", f"It costs {line['cost']:.2f} of full training, not {line['keep']:g}: {_control(line)}"
    if line["prune_ratio"] > OFF_COST and line["forward_saving"] < OFF_COST:
        forwards = 1 - line["forward_saving"]
        yield "no forward saved", f"It forwards {forwards:.2f} times what full training does: only backward is saved."
    if name := next(filter(None, map(counts_as_keep, finished)), None):
        yield "uniform", f"Its {name} lies below its keep and counts as that: it samples uniformly."
    if catalog.parse(line["method"])[0] == "subset":
        yield "chosen elsewhere", "Its samples come from a file: what choosing them has cost is not counted."
    proxy = _proxy(line["method"])
    if proxy is None:
        return
    ends = min((result["spec"]["recipe"]["epochs"] for result in finished), default=proxy.epochs)
    usual = _proxy(catalog.parse(line["method"])[0])  # which is to be as long as the recipe allows
    if ends < proxy.epochs and (usual is None or proxy.epochs != usual.epochs):
        yield "short proxy", f"Its parameters ask for a proxy of {proxy.epochs} epochs; the recipe's end after {ends}."
    if proxy.data == "holdout" and catalog.parse(line["dataset"])[1].get("trusted"):
        yield "uses trusted data", "Its proxy trains on the trusted samples, which the other methods never see."
    elif proxy.data == "holdout":
        yield "uses validation data", "Its proxy trains on the validation split, which the other methods never see."


def _control(line: dict[str, Any]) -> str:
    """What a row of another cost than random's is to be compared with."""
    if pd.isna(line["control_keep"]):
        dear = "; full training costs no more" if line["cost"] >= 1 else ""
        return f"random at this keep is no fair control{dear}."
    control = f"random per epoch at {line['control_keep']:g}"
    if pd.isna(line["difference_control"]):
        return f"its control, {control}, is missing; `dpbench run` on the grid adds it."
    return f"its control is {control}."


def _proxy(method: str) -> Proxy | None:
    """The method's proxy; None without one, or where its file is not at hand any more."""
    try:
        return catalog.load_method(method).requires().proxy
    except UsageError:
        return None


def counts_as_keep(result: RunResult) -> str | None:
    """The parameter of a finished run that lies below its keep and so counts as that, which is uniform sampling."""
    spec = result["spec"]
    given = result.get("hyperparameters", {})
    try:
        names = catalog.at_least_keep(catalog.parse(spec["method"])[0])
    except UsageError:  # its file is not at hand any more
        names = []
    return next((name for name in names if name in given and given[name] < spec["keep"]), None)
