"""Questions that are put to the stored results of a grid, each declared once, and what the paired seeds answer."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict
from scipy.stats import kendalltau

from dpbench import catalog, plain_yaml
from dpbench.analysis import measured, stats
from dpbench.analysis.board import Board
from dpbench.experiments import controls
from dpbench.places import LEADERBOARDS
from dpbench.spec import Row, canonical

MIN_ORDERED = 4  # methods of which two orders are compared: of three, no order can be told from chance


class Question(BaseModel):
    """What is asked of a grid, as leaderboards/questions/*.yaml declares it.

    `rows` are methods that are compared with `reference`, all others of the grid but `full` where none are named; with
    `at_cost` that is random per epoch at a row's cost, where the row needs this control. The comparisons have parts,
    `by` share of wrong labels, kind of data or keep. `claim` is what the rows in `about` (all where none are named) are
    asked to be, `found` and `absent` say in words whether they are. With `unlike_first`, which says so in words, that
    counts only where they are not so in the first part. `transfer` asks whether what is better in the first part is so
    in the others, and whether the order of methods is the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    grid: str
    reference: str
    rows: tuple[str, ...] = ()
    measure: str = "accuracy"
    about: tuple[str, ...] = ()
    claim: Literal["better", "worse"]
    by: Literal["noise", "kind", "keep"]
    at_cost: bool = False
    unlike_first: str = ""
    transfer: bool = False
    found: str
    absent: str


@dataclass(frozen=True)
class Cell:
    """A method on a dataset: its mean difference to the reference in points, or `trouble` in words.

    `word` is better, worse, not (separable) or empty without a verdict. `column` is the dataset without what its part
    tells, `at_cost` whether the reference is that of the row's cost.
    """

    method: str
    part: float | str
    column: str
    word: str = ""
    mean: float = math.nan
    half_width: float = math.nan
    trouble: str = ""
    at_cost: bool = False


@dataclass(frozen=True)
class Order:
    """How alike the orders of `n` methods in two parts are: Kendall's tau, p corrected for all pairs of parts."""

    parts: tuple[float | str, float | str]
    tau: float
    p: float
    n: int


@dataclass(frozen=True)
class Answer:
    """All cells of a question, one family, in the grid's order; the reference's own means by part and column.

    `equal` are groups of methods, the reference among them, that have the same values in every run: what sets them
    apart had no effect.
    """

    question: Question
    cells: list[Cell]
    own: dict[tuple[float | str, str], float]
    orders: list[Order]
    equal: list[list[str]]

    @property
    def parts(self) -> list[float | str]:
        """The parts in the grid's order."""
        return list(dict.fromkeys(part for part, _ in self.own))

    @property
    def about(self) -> list[Cell]:
        """The cells of the rows that the question is about."""
        return [cell for cell in self.cells if not self.question.about or cell.method in self.question.about]

    @property
    def hits(self) -> list[Cell]:
        """The cells of these rows that are what the question asks."""
        found = [cell for cell in self.about if cell.word == self.question.claim]
        if not self.question.unlike_first:
            return found
        first = {(cell.method, cell.column) for cell in found if cell.part == self.parts[0]}
        return [cell for cell in found if cell.part != self.parts[0] and (cell.method, cell.column) not in first]


def questions() -> dict[str, Question]:
    """All questions by name."""
    found: dict[str, Question] = {}
    for file in sorted((LEADERBOARDS / "questions").glob("*.yaml")):
        content, _ = plain_yaml.load(plain_yaml.read(file), f"leaderboards/questions/{file.name}")
        found |= {name: Question.model_validate(given) for name, given in content.items()}
    return found


def answer(question: Question, board: Board) -> Answer:
    """Compare the rows of a board as a question asks. A row with seeds that diverged or failed is not compared.

    Methods are named as the grid lists them, whatever parameters tuning has chosen for them.
    """
    rows = {(*spec.row[:2], board.grid.as_listed(spec.row), spec.keep): spec.row for spec in board.cells.values()}
    question = _of_board(question, {method for _, _, method, _ in rows})
    results = [*board.results.values(), *board.controls.values()]
    found = measured.measure(question.measure, results, board.flips, board.grid.looks)
    values, trouble = found.values, found.trouble
    at_cost = controls.keeps(board.cells, board.results) if question.at_cost else {}
    differences: dict[Row, stats.Difference] = {}
    cells: dict[Row, Cell] = {}
    own: dict[tuple[float | str, str], float] = {}
    for listed in _asked(question, rows):
        row, method = rows[listed], listed[2]
        part, column = _place(question, row)
        same, equal = ((*row[:2], question.reference, keep) for keep in (row[3], at_cost.get(row, row[3])))
        reference, itself = rows.get(equal, equal), values.get(rows.get(same, same))
        own.setdefault((part, column), math.nan if itself is None else float(itself.mean()))
        cells[listed] = Cell(method, part, column, at_cost=row in at_cost)
        if row in trouble or reference in trouble:
            said = trouble.get(row) or f"{question.reference}: {trouble[reference]}"
            cells[listed] = Cell(method, part, column, trouble=said)
        elif difference := found.difference(row, reference):
            differences[listed] = difference
    compared = stats.compare(differences)
    for listed in differences:
        line = compared.loc[[listed]].iloc[0]  # a list, lest pandas takes the row for two axes
        word = line["verdict"].split(" ")[0]
        cells[listed] = replace(
            cells[listed], word="" if word == "no" else word, mean=line["mean"], half_width=line["half_width"]
        )
    whole = {at: values[rows[at]] for at in cells if rows[at] in values and rows[at] not in trouble}
    means = {at: float(of_row.mean()) for at, of_row in whole.items()}
    orders = _orders(question, means) if question.transfer else []
    asked = dict.fromkeys(row for at in cells for row in (at, (*at[:2], question.reference, at[3])))
    alike = _equal({at: values.get(rows.get(at, at)) for at in asked})
    return Answer(question, list(cells.values()), own, orders, alike)


def _of_board(question: Question, there: Collection[str]) -> Question:
    """The question with each row as the board's grid lists it."""

    def named(text: str) -> str:
        return text if text in there else canonical(text)

    fields = {name: tuple(map(named, getattr(question, name))) for name in ("rows", "about")}
    return question.model_copy(update=fields | {"reference": named(question.reference)})


def _asked(question: Question, rows: Iterable[Row]) -> list[Row]:
    """The rows of a board that a question compares."""
    rows = list(rows)
    methods = dict.fromkeys(method for _, _, method, _ in rows)
    chosen = question.rows or tuple(m for m in methods if m not in ("full", question.reference))
    order = {method: i for i, method in enumerate(chosen)}
    datasets = list(dict.fromkeys(dataset for dataset, *_ in rows))
    found = [row for row in rows if row[2] in order]
    keeps = list(dict.fromkeys(row[3] for row in found))
    return sorted(found, key=lambda row: (order[row[2]], keeps.index(row[3]), datasets.index(row[0])))


def _place(question: Question, row: Row) -> tuple[float | str, str]:
    """The part that a row belongs to, and the name of its column there."""
    dataset, _, _, keep = row
    if question.by == "keep":
        return keep, dataset
    name, params = catalog.parse(dataset)
    if question.by == "kind":
        return catalog.dataset_class(name).kind, dataset
    share = float(params.pop("label_noise", 0))
    return share, catalog.label(name, params)


def _equal(values: Mapping[Row, pd.Series | None]) -> list[list[str]]:
    """The groups of two methods or more that have equal values of every seed in every row."""
    found: dict[str, list[tuple[str, str, float, tuple[object, ...]]]] = {}
    for (dataset, model, method, keep), of_row in values.items():
        if of_row is not None:
            by_seed = of_row.sort_index()
            found.setdefault(method, []).append((dataset, model, keep, (*by_seed.index, *by_seed)))
    groups: dict[tuple[object, ...], list[str]] = {}
    for method, lines in found.items():
        groups.setdefault(tuple(sorted(lines)), []).append(method)
    return [group for group in groups.values() if len(group) > 1]


def _orders(question: Question, means: Mapping[Row, float]) -> list[Order]:
    """Kendall's tau between the mean ranks that the methods have in each two parts; only of methods that have all."""
    lines = [(*_place(question, row), row[2], mean) for row, mean in means.items()]
    wide = pd.DataFrame(lines, columns=["part", "column", "method", "mean"])
    wide = wide.pivot(index=["part", "column"], columns="method", values="mean").dropna(axis=1)
    if wide.shape[1] < MIN_ORDERED or wide.index.get_level_values("part").nunique() < 2:
        return []
    ranks = wide.rank(axis=1, ascending=False).groupby(level="part", sort=False).mean()
    pairs = list(combinations(ranks.index, 2))
    tested = [kendalltau(ranks.loc[a], ranks.loc[b]) for a, b in pairs]
    p = stats.holm([float(one.pvalue) for one in tested])
    return [
        Order(pair, float(one.statistic), float(corrected), wide.shape[1])
        for pair, one, corrected in zip(pairs, tested, p, strict=True)
    ]
