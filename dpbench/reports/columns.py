"""The columns of a leaderboard's table, each declared once: name, header and cells; and which matter most."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dpbench import catalog
from dpbench.analysis import verdicts
from dpbench.analysis.table import broken

Row = dict[str, Any]
MARKS = {"better": " ▲", "worse": " ▼", "not": " ≈"}


@dataclass(frozen=True)
class Column:
    """`field` is what rows are sorted by, the best first: the highest, or the lowest where `low`."""

    name: str
    header: str
    cell: Callable[[Row], str]
    field: str
    low: bool = False


def number(value: Any, form: str) -> str:
    """A dash for what is not known."""
    return "-" if _none(value) else format(value, form)


def accuracy(row: Row) -> str:
    """Mean and 95 % interval in percent, or why there is none."""
    if not row["seeds"]:
        return "FAILED" if row["failed"] else "diverged" if row["diverged"] else "missing"
    interval = "" if _none(row["accuracy_ci95"]) else f" ± {100 * row['accuracy_ci95']:.2f}"
    return f"{100 * row['accuracy_mean']:.2f}{interval}"


def difference(row: Row, control: str) -> str:
    """Mean difference and simultaneous interval in points with the verdict's mark; why there is none, or a dash."""
    mean, half = row[f"difference_{control}"], row[f"difference_{control}_ci95"]
    if _none(mean):
        trouble = broken(row)
        return trouble.replace(" seeds", "") if trouble and row[f"verdict_{control}"] else "-"
    interval = "" if _none(half) else f" ± {half:.2f}" if half < 10 else f" ± {half:.1f}"
    mark = MARKS.get(row[f"verdict_{control}"].split(" ")[0], "")
    if control == "full" and row["equivalence_full"].startswith("equivalent"):
        mark = " ="
    return f"{mean:+.2f}{interval}{mark}"


def to_random(row: Row) -> str:
    """The difference to random per epoch that costs as much: at the row's keep, or at its cost."""
    return difference(row, random_control(row))


def random_control(row: Row) -> str:
    """Which random per epoch costs what the row does."""
    return "uniform_epoch" if _none(row["control_keep"]) else verdicts.AT_COST


def seeds(row: Row) -> str:
    """How many seeds finished, of how many where some did not."""
    total = row["seeds"] + row["diverged"] + row["failed"] + row["missing"]
    return str(total) if row["seeds"] == total else f"{row['seeds']}/{total}"


def _none(value: Any) -> bool:
    return value is None or value is pd.NA or value != value


def _number(name: str, header: str, field: str, form: str, low: bool = False) -> Column:
    return Column(name, header, lambda row: number(row[field], form), field, low)


def _to(name: str, header: str, control: str) -> Column:
    return Column(name, header, lambda row: difference(row, control), f"difference_{control}")


def _ranks(row: Row) -> str:
    low, high = row["rank_low"], row["rank_high"]
    return "-" if _none(low) else f"{low:g} to {high:g}"


COLUMNS = (  # in the order in which they stand
    _number("rank", "#", "rank", "d", low=True),
    Column("method", "method", lambda row: row["method"], "method", low=True),
    _number("keep", "keep", "keep", "g"),
    Column("accuracy", "accuracy %", accuracy, "accuracy_mean"),
    _to("to_full", "to full", "full"),
    Column("to_random", "to random\nat its cost", to_random, "to_random"),
    _to("to_uniform_epoch", "to random per epoch", "uniform_epoch"),
    _to("to_uniform", "to random", "uniform"),
    _number("cost", "cost", "cost", ".2f", low=True),
    _number("cost_with_proxy", "total cost", "cost_with_proxy", ".2f", low=True),
    _number("time", "time s", "time_total_s", ".2f", low=True),
    _number("speedup", "times faster", "speedup", ".2f"),
    _number("prune", "prune", "prune_ratio", ".3f"),
    _number("forward_saving", "forward saving", "forward_saving", ".3f"),
    _number("jaccard", "Jaccard", "jaccard_epochs", ".3f"),
    _number("chance", "chance", "jaccard_epochs_chance", ".3f"),
    _number("cosine", "cos", "gradient_cosine", ".3f"),
    Column("ranks", "rank interval", _ranks, "rank_high", low=True),
    _number("worst_class", "worst class", "accuracy_worst_class", ".3f"),
    _number("best_epoch", "best epoch", "accuracy_best_epoch", ".4f"),
    _number("spread", "spread at end", "accuracy_spread_last", ".4f", low=True),
    _number("never_used", "never used", "never_used", ".0f", low=True),
    _number("memory", "memory MB", "peak_memory_mb", ".0f", low=True),
    Column("seeds", "seeds", seeds, "seeds"),
)
BY_NAME = {column.name: column for column in COLUMNS}
IMPORTANT = ("method", "rank", "keep", "accuracy", "cost_with_proxy", "to_full", "to_random", "seeds", "time")


def named(names: Iterable[str]) -> list[Column]:
    """The columns of these names, in this order; UsageError for one that there is not."""
    for name in names:
        if name not in BY_NAME:
            raise catalog.unknown("column", name, list(BY_NAME))
    return [BY_NAME[name] for name in dict.fromkeys(names)]


def ordered(rows: list[Row], by: str) -> list[Row]:
    """The rows sorted by a column, the best first, or by "-NAME" the worst; what has no value comes last."""
    [column] = named([by.removeprefix("-")])

    def value(row: Row) -> Any:
        return row[f"difference_{random_control(row)}"] if column.name == "to_random" else row[column.field]

    known = sorted((row for row in rows if not _none(value(row))), key=value, reverse=not column.low)
    return (known[::-1] if by.startswith("-") else known) + [row for row in rows if _none(value(row))]
