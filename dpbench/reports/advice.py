"""What to do at a keep, and which claims held: sentences and tables computed from several stored boards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dpbench import catalog
from dpbench.analysis import board as boards
from dpbench.analysis.board import Board
from dpbench.analysis.stats import EQUIVALENT, WORDS
from dpbench.analysis.table import Line, broken, records
from dpbench.experiments.controls import EXEMPT
from dpbench.reports import columns
from dpbench.reports.answers import many
from dpbench.reports.columns import difference, pipes, random_control
from dpbench.spec import row_of
from dpbench.tuned import SUFFIX

GRIDS = ("quick", "fashion_mnist", "tables", "texts")  # one dataset each, on both tracks
RANDOM = "uniform_epoch"


@dataclass(frozen=True)
class Rows:
    """The rows of one method at a keep, as grids list it, by the dataset of their boards."""

    method: str
    of: dict[str, Line]

    @property
    def datasets(self) -> str:
        """How many datasets there are, in words."""
        return many(len(self.of), "dataset")

    def to_random(self, word: str) -> int:
        """On how many datasets it is better, or worse, than random per epoch at its own cost."""
        return sum(columns.word(row, random_control(row)) == word for row in self.of.values())

    def to_full(self, word: str) -> int:
        """On how many datasets it is better or worse than full training, or equivalent to it."""
        if word == EQUIVALENT[True]:
            return sum(row["equivalence_full"].startswith(word) for row in self.of.values())
        return sum(columns.word(row, "full") == word for row in self.of.values())

    def span(self, name: str) -> list[float]:
        """Lowest and highest of a number over the datasets, without those where seeds diverged."""
        values = [float(row[name]) for row in self.of.values() if not broken(row)]
        return [min(values), max(values)] if values else []


def paragraphs(keep: str) -> list[str]:
    """What to do at a keep, how it looks without tuning, what not to do, and a table; from the stored boards."""
    tuned, fixed = _stored(f"{grid}{SUFFIX}" for grid in GRIDS), _stored(GRIDS)
    return told(tuned, fixed, float(keep))


def _stored(grids: Iterable[str]) -> list[Board]:
    return [boards.load_checked_in(grid) for grid in grids if boards.packed(grid).is_file()]


def told(tuned: Iterable[Board], fixed: Iterable[Board], keep: float) -> list[str]:
    """The paragraphs of a keep from the boards of each track; one line where no board has rows of this keep."""
    rows, plain = _rows(tuned, keep), _rows(fixed, keep)
    if not rows:
        return [f"No stored board of the tuned track has rows at keep {keep:g}."]
    chosen = advised(rows)
    said = [_advice(chosen, rows)]
    if chosen and chosen.method in plain and chosen.method != RANDOM:
        said.append(f"At the recipe's own rate it is {_against_random(plain[chosen.method])}.")
    bad = [one for one in _methods(rows) if one.to_random("worse") and not one.to_random("better")]
    if bad:
        names = ", ".join(f"`{one.method}` ({one.to_random('worse')} of {one.datasets})" for one in bad)
        said.append(f"Worse than random per epoch at their own cost, and better nowhere, are {names}.")
    return [" ".join(said), _table(rows, plain)]


def advised(rows: dict[str, Rows]) -> Rows | None:
    """Of random per epoch and of what nowhere loses to it at its own cost the one that beats it most often.

    What costs as much as full training somewhere is left out: it saves nothing. Of equal ones it is the one that is
    most often equivalent to full training; then random per epoch, if it is among them, else the cheapest, and then the
    one whose worst difference to full training is the smallest. None where nothing is left.
    """
    random = [rows[RANDOM]] if RANDOM in rows else []
    whole = [one for one in (*_methods(rows), *random) if one.span("difference_full")]
    known = [one for one in whole if one.span("cost_with_proxy")[-1] < 1 and not one.to_random("worse")]

    def merits(one: Rows) -> tuple[int, int, bool, float, list[float]]:
        equal, cost = one.to_full(EQUIVALENT[True]), round(one.span("cost_with_proxy")[-1], 2)
        return one.to_random("better"), equal, one.method == RANDOM, -cost, one.span("difference_full")

    return max(known, key=merits, default=None)


def _rows(found: Iterable[Board], keep: float) -> dict[str, Rows]:
    """The rows at a keep by method and dataset, as they are compared."""
    rows: dict[str, Rows] = {}
    for board in found:
        for row in records(board.table):
            if row["keep"] == keep:
                method = board.grid.as_listed(row_of(row))
                rows.setdefault(method, Rows(method, {})).of[row["dataset"]] = row
    return rows


def _methods(rows: dict[str, Rows]) -> list[Rows]:
    return [one for one in rows.values() if catalog.parse(one.method)[0] not in EXEMPT]


def _advice(chosen: Rows | None, rows: dict[str, Rows]) -> str:
    if chosen is None:
        return (
            "Nothing is advised: of the methods that have whole rows, none costs less than full training and is "
            "nowhere worse than random per epoch."
        )
    cost = f"It costs {_span(chosen, 'cost_with_proxy', '.2f')} of full training."
    if chosen.method == RANDOM:
        return (
            f"Use random per epoch, `{RANDOM}`: of the methods that are nowhere worse than it at equal cost and cost "
            "less than full training, none is better anywhere, or equivalent to full training on more datasets. "
            f"{_to_full(chosen)} {cost}"
        )
    why = f"tuned, it is {_against_random(chosen)}. {_to_full(chosen)}"
    if not chosen.to_random("better"):
        equal = f"{EQUIVALENT[True]} to full training on more datasets than random per epoch"
        why = f"tuned, it is {equal}, and nowhere worse than that at its own cost. {_to_full(chosen)}"
    if RANDOM not in rows:
        return f"Use `{chosen.method}`: {why} {cost}"
    beside = f"Random per epoch costs {_span(rows[RANDOM], 'cost_with_proxy', '.2f')} at this keep."
    return f"Use `{chosen.method}`: {why} {cost} {beside} {_to_full(rows[RANDOM])}"


def _to_full(one: Rows) -> str:
    equal, worse = one.to_full(EQUIVALENT[True]), one.to_full("worse")
    return (
        f"From full training it differs by {_span(one, 'difference_full', '+.2f')} points: {EQUIVALENT[True]} within "
        f"the grid's margin on {equal} of {one.datasets}, worse on {worse}."
    )


def _against_random(one: Rows) -> str:
    better, worse = (one.to_random(word) or "none" for word in ("better", "worse"))
    return f"better than random per epoch at its own cost on {better} of {one.datasets} and worse on {worse}"


def _span(one: Rows, name: str, form: str) -> str:
    """Lowest and highest of a number over the datasets, or the one that they share."""
    return " to ".join(dict.fromkeys(format(end, form) for end in one.span(name)))


def _table(rows: dict[str, Rows], plain: dict[str, Rows]) -> str:
    """One line a method: tuned, its difference to full on each dataset; then on both tracks how it is to random."""
    datasets = list(dict.fromkeys(dataset for one in rows.values() for dataset in one.of))
    head = ["method", *(f"{dataset}: to full" for dataset in datasets), "cost", "to random at its cost", "not tuned"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for one in sorted(rows.values(), key=lambda one: one.span("difference_full")[:1] or [-100.0], reverse=True):
        cells = [
            broken(one.of[name]) or difference(one.of[name], "full") if name in one.of else "-" for name in datasets
        ]
        counts = [_marks(track[one.method]) if one.method in track else "-" for track in (rows, plain)]
        lines.append([f"`{one.method}`", *cells, _span(one, "cost_with_proxy", ".2f") or "-", *counts])
    return pipes(lines)


def _marks(one: Rows) -> str:
    """For instance "2 ▲ 1 ▼ of 4"; a dash for random per epoch itself and for what costs the same by itself."""
    compared = [row for row in one.of.values() if columns.word(row, random_control(row)) in WORDS]
    return f"{one.to_random('better')} ▲ {one.to_random('worse')} ▼ of {len(compared)}" if compared else "-"


def claims() -> list[str]:
    """How many claims of all stored boards are held, refuted and open, and a table of which on which boards."""
    return claims_of([board for board in _stored(catalog.names("grids")) if board.outcomes])


def claims_of(stored: Sequence[Board]) -> list[str]:
    """The same of these boards."""
    outcomes = [(board.grid.name, one) for board in stored for one in board.outcomes]
    counts = {word: sum(one.verdict == word for _, one in outcomes) for word in ("held", "refuted", "open")}
    late = sum(one.after for _, one in outcomes)
    summed = ", ".join(f"{count} {word}" for word, count in counts.items())
    lines = [["claim", *counts], ["---"] * 4]
    for text in dict.fromkeys(one.claim.text for _, one in outcomes):
        cells = [
            ", ".join(
                f"`{name}`{'*' * one.after}" for name, one in outcomes if one.claim.text == text and one.verdict == word
            )
            for word in counts
        ]
        lines.append([text, *(cell or "-" for cell in cells)])
    head = (
        f"Of {len(outcomes)} claims on {len(stored)} boards: {summed}. {late} of them (*) are after the fact: they "
        "were registered when runs had begun, or not at all."
    )
    return [head, pipes(lines)]
