"""The columns of a leaderboard's table: name, header and cells, those of a measure as it is declared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dpbench.analysis import verdicts
from dpbench.analysis.stats import ALPHA, EQUIVALENT
from dpbench.analysis.table import Line, broken
from dpbench.parameters import unknown
from dpbench.training.measures import MEASURES, Measure

MARKS = {"better": " ▲", "worse": " ▼", "not": " ≈"}


@dataclass(frozen=True)
class Column:
    """`field` is what rows are sorted by, the best first: the highest, or the lowest where `low`."""

    name: str
    header: str
    cell: Callable[[Line], str]
    field: str
    low: bool = False


def number(value: Any, form: str) -> str:
    """A dash for what is not known."""
    return "-" if _none(value) else format(value, form)


def accuracy(row: Line) -> str:
    """Mean and 95 % interval in percent; or why there is none, or none that is fair."""
    if trouble := broken(row):
        return trouble
    if not row["seeds"]:
        return "missing"
    interval = "" if _none(row["accuracy_ci95"]) else f" ± {100 * row['accuracy_ci95']:.2f}"
    return f"{100 * row['accuracy_mean']:.2f}{interval}"


def difference(row: Line, control: str) -> str:
    """Mean difference and simultaneous interval in points with the verdict's mark; a dash where there is none."""
    mean, half = row[f"difference_{control}"], row[f"difference_{control}_ci95"]
    if _none(mean):
        return "-"
    mark = MARKS.get(word(row, control), "")
    if control == "full" and row["equivalence_full"].startswith(EQUIVALENT[True]):
        mark = " ="
    return f"{gap(mean, half)}{mark}"


def gap(mean: float, half: float) -> str:
    """A mean difference with its simultaneous interval, where it has one, in digits that show whether it leaves out 0.

    So no rounding contradicts a verdict: 13.784 ± 13.779 is not written as 13.78 ± 13.78.
    """
    if _none(half):
        return f"{mean:+.2f}"
    for digits, of_half in ((2, 2 if half < 10 else 1), (3, 3), (4, 4)):
        texts = f"{mean:+.{digits}f}", f"{half:.{of_half}f}"
        if (abs(float(texts[0])) > float(texts[1])) == (abs(mean) > half):
            break
    return " ± ".join(texts)


def p_value(p: float) -> str:
    """A p value in two digits, or in as many as show on which side of 5 % it lies; a dash for none."""
    texts = (number(p, f".{digits}g") for digits in (2, 3, 4, 5))
    return next((text for text in texts if text == "-" or (float(text) < ALPHA) == (p < ALPHA)), f"{p:.6g}")


def to_random(row: Line) -> str:
    """The difference to random per epoch that costs as much: at the row's keep, or at its cost."""
    return difference(row, random_control(row))


def random_control(row: Line) -> str:
    """Which random per epoch costs what the row does."""
    return "uniform_epoch" if _none(row["control_keep"]) else verdicts.AT_COST


def seeds(row: Line) -> str:
    """How many seeds finished, of how many where some did not."""
    total = row["seeds"] + row["diverged"] + row["failed"] + row["missing"]
    return str(total) if row["seeds"] == total else f"{row['seeds']}/{total}"


def pipes(lines: Iterable[Sequence[str]]) -> str:
    """A markdown table of cells that are markdown already; the second line says how they are aligned."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def word(row: Line, control: str) -> str:
    """The first word of the verdict to a control: better, worse or not (separable), or why there is none."""
    verdict: str = row[f"verdict_{control}"]
    return verdict.split(" ")[0]


def _none(value: Any) -> bool:
    return value is None or value is pd.NA or value != value


def _number(name: str, header: str, form: str, low: bool = False) -> Column:
    return Column(name, header, lambda row: number(row[name], form), name, low)


def _measure(one: Measure) -> Column:
    cell = CELLS.get(one.name) or (lambda row: one.shown(row[one.name]))
    return Column(one.column, one.header, cell, one.name, one.better == "down")


def _to(name: str, header: str, control: str) -> Column:
    return Column(name, header, lambda row: difference(row, control), f"difference_{control}")


def _ranks(row: Line) -> str:
    low, high = row["rank_low"], row["rank_high"]
    return "-" if _none(low) else f"{low:g} to {high:g}"


def _rates(row: Line) -> str:
    return "-" if _none(row["lr_low"]) else f"{row['lr_low']:g} to {row['lr_high']:g}"


CELLS: dict[str, Callable[[Line], str]] = {  # of measures whose number alone says too little, or that need few digits
    "lr": lambda row: f"{row['lr']:g}",
    "weight_decay": lambda row: f"{row['weight_decay']:g}",
    "stability": _rates,
}
COLUMNS = (  # in the order in which they stand
    _number("rank", "#", "d", low=True),
    Column("method", "method", lambda row: row["method"], "method", low=True),
    _number("keep", "keep", "g"),
    Column("accuracy", "accuracy %", accuracy, "accuracy_mean"),
    _to("to_full", "to full", "full"),
    Column("to_random", "to random\nat its cost", to_random, "to_random"),
    _to("to_uniform_epoch", "to random per epoch", "uniform_epoch"),
    _to("to_uniform", "to random", "uniform"),
    Column("ranks", "rank interval", _ranks, "rank_high", low=True),
    *(_measure(one) for one in MEASURES if one.column),
    Column("seeds", "seeds", seeds, "seeds"),
    Column("status", "status", lambda row: row.get("status", "own"), "status"),
)
BY_NAME = {column.name: column for column in COLUMNS}
IMPORTANT: tuple[str, ...] = ("method", "rank", "keep", "accuracy", "status", "cost_with_proxy", "to_full", "to_random")
IMPORTANT += ("seeds", "ranks", "time")
OF_TUNING = ("lr", "weight_decay", "stability")  # shown where rows differ in them


def telling(columns: Iterable[Column], rows: list[Line]) -> list[Column]:
    """Those of the columns that tell something: a status only where some rows are not our own."""
    return [column for column in columns if column.name != "status" or any("status" in row for row in rows)]


def named(names: Iterable[str]) -> list[Column]:
    """The columns of these names, in this order; UsageError for an unknown one."""
    for name in names:
        if name not in BY_NAME:
            raise unknown("column", name, list(BY_NAME))
    return [BY_NAME[name] for name in dict.fromkeys(names)]


def important(rows: list[Line]) -> list[Column]:
    """The columns that a table shows at first, the most important ones first."""
    tuned = differing(rows)
    names = [*IMPORTANT[:-2], *tuned[:1], IMPORTANT[-2], *tuned[1:], IMPORTANT[-1]]
    return telling(named(names), rows)


def differing(rows: list[Line]) -> list[str]:
    """Those of the columns of tuning in which the rows differ."""
    return [name for name in OF_TUNING if len({BY_NAME[name].cell(row) for row in rows} - {"-"}) > 1]


def ordered(rows: list[Line], by: str) -> list[Line]:
    """The rows sorted by a column, the best first, or by "-NAME" the worst; what has no value comes last."""
    [column] = named([by.removeprefix("-")])

    def value(row: Line) -> Any:
        return row[f"difference_{random_control(row)}"] if column.name == "to_random" else row.get(column.field)

    known = sorted((row for row in rows if not _none(value(row))), key=value, reverse=not column.low)
    return (known[::-1] if by.startswith("-") else known) + [row for row in rows if _none(value(row))]
