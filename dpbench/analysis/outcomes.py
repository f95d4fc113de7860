"""What a board's results say of the claims that were made of its grid: held, refuted or open.

The claims of a file are one family: each has its share of alpha, which it divides among its own comparisons. So with
95 % confidence all intervals of all claims hold at once, and every verdict is read from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from dpbench import catalog
from dpbench.analysis import measured, stats
from dpbench.analysis import table as tables
from dpbench.analysis.measured import Measured
from dpbench.analysis.table import Line
from dpbench.claims import ORDER, Claim
from dpbench.experiments.controls import EXEMPT, METHOD
from dpbench.spec import Grid, Row, row_of

if TYPE_CHECKING:
    from dpbench.analysis.board import Board

FEWEST = 5  # methods of which two orders are compared
Verdict: TypeAlias = Literal["held", "refuted", "open"]


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim: where it is, its value with its interval, and why there is none."""

    where: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    why: str = ""


@dataclass(frozen=True)
class Outcome:
    """What the results say of a claim, by the comparison that decides it, or that is furthest from deciding.

    `count` is how many comparisons it has, `level` the confidence of their intervals, `after` whether a run that it
    needs began before it was registered.
    """

    claim: Claim
    verdict: Verdict
    shown: Comparison
    count: int
    level: float
    after: bool


def outcomes(board: Board) -> list[Outcome]:
    """The outcome of each claim that counts, in the order of their file."""
    if not board.registered:
        return []
    claims = board.registered[-1].claims
    results = [*board.results.values(), *board.controls.values()]
    found = {
        name: measured.measure(name, results, board.flips, board.grid.looks)
        for name in {claim.measure for claim in claims}
    }
    began: dict[Row, float] = {}
    for result in results:
        row = row_of(result["spec"])
        began[row] = min(result["started"], began.get(row, math.inf))
    listed = [board.grid.as_listed(row_of(row)) for row in tables.records(board.table)]  # claims name methods so
    table = board.table.assign(listed=listed)
    return [_outcome(claim, board, table, found[claim.measure], began) for claim in claims]


def _outcome(claim: Claim, board: Board, table: pd.DataFrame, found: Measured, began: dict[Row, float]) -> Outcome:
    """`table` is the board's, with each row's method as the grid lists it, `began` when the first run of a row did."""
    family, date = len(board.registered[-1].claims), board.registered[-1].date
    places = _orders(claim, table) if claim.test == ORDER else _places(claim, table)
    count = sum(map(len, places.values()))
    level = 1 - claim.alpha / family / max(1, count)
    compared: list[list[Comparison]] = []
    used: set[Row] = set()
    for where, pairs in places.items():
        if not pairs:
            compared.append([Comparison(where, why="it has no run here")])
        elif claim.test == ORDER:
            compared.append([_order(where, rows, board.grid, found, level) for rows in pairs])
        else:
            compared.append([_difference(where, row, reference, found, level) for row, reference in pairs])
        used |= {row for rows in pairs for row in rows}
    verdicts = [_verdict(claim, place) for place in compared]
    verdict: Verdict = "refuted" if "refuted" in verdicts else "open" if {*verdicts} != {"held"} else "held"
    deciding = [place for place, one in zip(compared, verdicts, strict=True) if verdict in ("held", one)]
    best = [max(place, key=lambda one: _room(claim, one)) for place in deciding]
    shown = min(best, key=lambda one: _room(claim, one), default=Comparison("", why="it has no run here"))
    known = [began[row] for row in used if row in began]
    after = bool(known) and (date is None or min(known) < date)
    return Outcome(claim, verdict, shown, count, level, after)


def _verdict(claim: Claim, place: list[Comparison]) -> Verdict:
    """Held where one of a place's methods is as claimed, refuted where none of them is."""
    if any(_room(claim, one) > 0 for one in place):
        return "held"
    if claim.test == "equivalent":
        against = [one.low >= claim.margin or one.high <= -claim.margin for one in place]
    else:
        against = [one.high <= claim.margin for one in place]
    return "refuted" if all(against) else "open"


def _room(claim: Claim, one: Comparison) -> float:
    """How far inside of what is claimed an interval lies; negative where it does not."""
    if math.isnan(one.low):
        return -math.inf
    if claim.test == "equivalent":
        return min(one.low + claim.margin, claim.margin - one.high)
    return one.low - claim.margin


def _rows(claim: Claim, table: pd.DataFrame) -> list[Line]:
    """The rows of a board that a claim is about."""
    found = []
    for row in tables.records(table):
        named = row["listed"] in claim.methods if claim.methods else catalog.parse(row["method"])[0] not in EXEMPT
        kind = claim.kind is None or row["kind"] == claim.kind
        if named and kind and row["dataset"] in (claim.datasets or [row["dataset"]]):
            found.append(row)
    return found


def _places(claim: Claim, table: pd.DataFrame) -> dict[str, list[tuple[Row, Row]]]:
    """By each dataset, model and keep that is claimed, the rows that are there, each with what it is compared with."""
    rows = _rows(claim, table)
    keeps = claim.keep or tuple(dict.fromkeys(row["keep"] for row in rows))
    pairs = dict.fromkeys((row["dataset"], row["model"]) for row in tables.records(table))
    places: dict[str, list[tuple[Row, Row]]] = {}
    for dataset, model in pairs:
        if dataset in (claim.datasets or [dataset]):
            for keep in keeps:
                here = [row for row in rows if (row["dataset"], row["model"], row["keep"]) == (dataset, model, keep)]
                where = f"{dataset}, {model}, keep {keep:g}"
                places[where] = [(row_of(row), _reference(claim, row, table)) for row in here]
    return places


def _reference(claim: Claim, row: Line, table: pd.DataFrame) -> Row:
    if claim.at_cost and not math.isnan(row["control_keep"]):
        return (row["dataset"], row["model"], METHOD, float(row["control_keep"]))
    here = (table["dataset"] == row["dataset"]) & (table["model"] == row["model"])
    found = tables.records(table[here & (table["listed"] == claim.against)])
    if len(found) > 1:  # full has one keep only
        found = [one for one in found if one["keep"] == row["keep"]]
    return row_of(found[0]) if found else (row["dataset"], row["model"], claim.against, row["keep"])


def _difference(where: str, row: Row, reference: Row, found: Measured, level: float) -> Comparison:
    where = f"{row[2]} on {where}"
    for one in (row, reference):
        if one in found.trouble:
            return Comparison(where, why=f"{one[2]}: {found.trouble[one]}")
    difference = found.difference(row, reference)
    if difference is None:
        return Comparison(where, why=f"{(row if row not in found.values else reference)[2]} has no run here")
    if difference.n < stats.MIN_SEEDS:
        return Comparison(where, difference.mean, why=stats.NO_VERDICT)
    within = 1 - (1 - level) * difference.share
    half = difference.error * float(scipy_stats.t.ppf((1 + within) / 2, difference.freedom))
    return Comparison(where, difference.mean, difference.mean - half, difference.mean + half)


def _orders(claim: Claim, table: pd.DataFrame) -> dict[str, list[tuple[Row, ...]]]:
    """By keep, all rows that are ordered."""
    rows = _rows(claim, table)
    keeps = claim.keep or tuple(dict.fromkeys(row["keep"] for row in rows if row["keep"] < 1))
    return {f"keep {keep:g}": [tuple(row_of(row) for row in rows if row["keep"] == keep)] for keep in keeps}


def _order(where: str, rows: tuple[Row, ...], grid: Grid, found: Measured, level: float) -> Comparison:
    """Kendall's tau between the methods' mean values on two datasets, the mean over all pairs of datasets.

    Of a grid with looks the means are of the first one's seeds, so that it is read once, whatever seeds are added.
    Its interval is that of one pair, by Fieller's variance of Fisher's z; the mean of several varies less.
    """
    first = grid.looks[0] if grid.looks else math.inf
    values = {row: found.values[row] for row in rows if row in found.values and row not in found.trouble}
    means = {row: float(one[one.index < first].mean()) for row, one in values.items()}
    lines = [(f"{row[0]}, {row[1]}", row[0], grid.as_listed(row), mean) for row, mean in means.items()]
    wide = pd.DataFrame(lines, columns=["column", "dataset", "method", "mean"])
    wide = wide.pivot(index=["column", "dataset"], columns="method", values="mean").dropna(axis=1)
    datasets = wide.index.get_level_values("dataset")
    if datasets.nunique() < 2 or wide.shape[1] < FEWEST:
        return Comparison(where, why=f"{FEWEST} methods with all runs on two datasets are needed")
    pairs = [(a, b) for a, b in combinations(range(len(wide)), 2) if datasets[a] != datasets[b]]
    taus = [float(scipy_stats.kendalltau(wide.iloc[a], wide.iloc[b]).statistic) for a, b in pairs]
    tau = float(np.mean(taus))
    where = f"{wide.shape[1]} methods on {datasets.nunique()} datasets, {where}"
    if math.isnan(tau):
        return Comparison(where, why="all methods are equal on a dataset, which has no order")
    return Comparison(where, tau, *tau_interval(tau, wide.shape[1], level))


def tau_interval(tau: float, n: int, level: float) -> tuple[float, float]:
    """The interval of Kendall's tau of n pairs, by Fisher's z with a correction for the steps in which tau goes."""
    step = 2 / (n * (n - 1))
    low, high = (math.atanh(min(1 - step, max(step - 1, tau + side * step))) for side in (-1, 1))
    half = math.sqrt(0.437 / (n - 4)) * float(scipy_stats.norm.ppf((1 + level) / 2))
    return math.tanh(low - half), math.tanh(high + half)
