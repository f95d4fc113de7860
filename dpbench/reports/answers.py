"""What a question's answer says: sentences that follow from counts of verdicts, and one table for each part."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from dpbench.analysis import board as boards
from dpbench.analysis import questions, verdicts
from dpbench.analysis.questions import Answer, Cell
from dpbench.analysis.stats import ALPHA, MIN_SEEDS, WORDS
from dpbench.reports.columns import MARKS, gap, pipes


def paragraphs(name: str) -> list[str]:
    """The answer to a question by its name, a paragraph or a table each; one line where its results are not stored."""
    question = questions.questions()[name]
    if not boards.packed(question.grid).is_file():
        return [f"The results of `{question.grid}` are not stored; `dpbench run {question.grid}` makes them."]
    return told(questions.answer(question, boards.load_checked_in(question.grid)))


def told(answer: Answer) -> list[str]:
    """The verdict, then what is said of each part and its table."""
    said = [headline(answer)]
    if answer.question.transfer:
        said += [transfer(answer), *orders(answer)]
    if answer.equal:
        groups = "; ".join(" and ".join(f"`{method}`" for method in group) for group in answer.equal)
        said.append(f"Equal in every run, so that what sets them apart had no effect: {groups}.")
    for part in answer.parts:
        cells = [cell for cell in answer.cells if cell.part == part]
        said += [f"{_where(answer, part)}, {_tally(answer, cells)}.", _table(answer, part, cells)]
    return said


def headline(answer: Answer) -> str:
    """Whether what the question asks is found, of which rows and in how many comparisons, and how the others end."""
    compared = [cell for cell in answer.about if cell.word]
    if not compared:
        return f"There is no verdict: no row has {MIN_SEEDS} paired seeds with {_reference(answer)}."
    asked, hits = answer.question, answer.hits
    if all(cell.word == "not" for cell in compared):
        return f"{asked.absent}: nothing is separable from {_reference(answer)} ({many(len(compared), 'comparison')})."
    ends = f"of {many(len(compared), 'comparison')} {_counts(compared)}."
    than = " ".join(filter(None, [f"{asked.claim} than {_reference(answer)}", asked.unlike_first]))
    if not hits:
        return f"{asked.absent}: no row is {than}; {ends}"
    methods = list(dict.fromkeys(cell.method for cell in hits))
    be = "is" if len(methods) == 1 else "are"
    return f"{asked.found}: {'; '.join(_places(answer, method) for method in methods)} {be} {than}. {ends.capitalize()}"


def transfer(answer: Answer) -> str:
    """Which rows are better in the first part, and which of these and of the others are so in each other part."""
    first, *others = answer.parts
    cells = [cell for cell in answer.about if cell.word]
    winners = list(dict.fromkeys(cell.method for cell in cells if (cell.part, cell.word) == (first, "better")))
    than = f"better than {_reference(answer)}"
    if winners:
        said = [f"{_where(answer, first)}, {_listed(winners)} {'is' if len(winners) == 1 else 'are'} {than}."]
    else:
        said = [f"{_where(answer, first)}, no method is {than}, so there is no winner to follow."]
    for part in others:
        here = [cell for cell in cells if cell.part == part]
        where = _where(answer, part)
        again = [cell for cell in here if cell.method in winners]
        if again:
            said.append(f"{where}, {_found(again)}.")
        new = [cell for cell in here if cell.method not in winners and cell.word == "better"]
        if new:
            names = _by_method([cell for cell in here if cell.method not in winners], "better")
            said.append(f"{where}, {'others that are' if winners else 'there are'} {than}: {names}.")
        elif not winners:
            said.append(f"{where}, no method is {than} either.")
    return " ".join(said)


def orders(answer: Answer) -> list[str]:
    """How alike the methods' orders in each two parts are, and where that is shown."""
    known = [one for one in answer.orders if not math.isnan(one.tau)]
    if not known:
        return []
    pairs = [f"{one.parts[0]} and {one.parts[1]} {one.tau:+.2f} (p = {one.p:.2g})" for one in known]
    alike = [f"{one.parts[0]} and {one.parts[1]}" for one in known if one.p < ALPHA and one.tau > 0]
    opposed = [f"{one.parts[0]} and {one.parts[1]}" for one in known if one.p < ALPHA and one.tau < 0]
    shown = [f"{word} on {'; '.join(which)}" for word, which in (("alike", alike), ("opposed", opposed)) if which]
    return [
        f"Kendall's tau between the mean ranks of {known[0].n} methods: {', '.join(pairs)}; p is corrected for all "
        f"pairs. The order of methods is {' and '.join(shown) if shown else 'not shown to be alike anywhere'}."
    ]


def _tally(answer: Answer, cells: Sequence[Cell]) -> str:
    """Who is better and who worse than the reference on how many datasets, and what is not compared."""
    compared = [cell for cell in cells if cell.word]
    reference, left = _reference(answer), [cell for cell in cells if cell.trouble]
    if not compared:
        said = [f"there is no verdict to {reference}: it needs {MIN_SEEDS} paired seeds"]
    elif all(cell.word == "not" for cell in compared):
        said = [f"nothing is separable from {reference} ({many(len(compared), 'comparison')})"]
    else:
        found = {word: _by_method(compared, word) for word in ("better", "worse")}
        said = [f"{word} than {reference}: {names}" for word, names in found.items() if names]
        said[1:] = [f"worse: {found['worse']}"] * (len(said) > 1)
        count = sum(cell.word == "not" for cell in compared)
        said.append(f"not separable: {count} of {many(len(compared), 'comparison')}")
    if left:
        counts = Counter(cell.method for cell in left)
        names = ", ".join(f"`{method}` on {many(count, 'dataset')}" for method, count in counts.items())
        said.append(f"not compared, since seeds diverged or failed: {names}")
    return "; ".join(said)


def _by_method(cells: Sequence[Cell], word: str) -> str:
    """The methods that have a verdict on some datasets, the most often first, each with how often."""
    counts = {}
    for method in dict.fromkeys(cell.method for cell in cells):
        of_method = [cell for cell in cells if cell.method == method]
        counts[method] = sum(cell.word == word for cell in of_method), len(of_method)
    found = sorted((item for item in counts.items() if item[1][0]), key=lambda item: -item[1][0])
    return ", ".join(f"`{method}` on {hits} of {many(total, 'dataset')}" for method, (hits, total) in found)


def _found(cells: Sequence[Cell]) -> str:
    """What each method is on how many datasets."""
    said = []
    for method in dict.fromkeys(cell.method for cell in cells):
        of_method = [cell for cell in cells if cell.method == method]
        better, worse = (sum(cell.word == word for cell in of_method) for word in ("better", "worse"))
        also = f", worse on {worse}" if worse else ""
        said.append(f"`{method}` is better on {better} of {many(len(of_method), 'dataset')}{also}")
    return "; ".join(said)


def _places(answer: Answer, method: str) -> str:
    """A method with the datasets of each part, or of all parts if the question is about many, that are asked for."""
    cells = [cell for cell in answer.about if cell.method == method and cell.word]
    hits = [cell for cell in answer.hits if cell.method == method]
    if len({cell.method for cell in answer.about}) > 1:
        if answer.question.unlike_first:
            cells = [cell for cell in cells if cell.part != answer.parts[0]]
        return f"`{method}` in {len(hits)} of {many(len(cells), 'comparison')}"
    said = []
    for part in dict.fromkeys(cell.part for cell in hits):
        count, total = (sum(cell.part == part for cell in some) for some in (hits, cells))
        where = _where(answer, part)
        said.append(f"{where[0].lower()}{where[1:]} on {count} of {many(total, 'dataset')}")
    return f"`{method}` ({', '.join(said)})"


def _counts(cells: Sequence[Cell]) -> str:
    """How many comparisons end in which way."""
    counts = {text: sum(cell.word == word for cell in cells) for word, text in WORDS.items()}
    found = [f"{count} {text}" for text, count in counts.items() if count]
    first, *others = found
    number, text = first.split(" ", 1)
    return ", ".join([f"{number} {'is' if number == '1' else 'are'} {text}", *others])


def _table(answer: Answer, part: float | str, cells: Sequence[Cell]) -> str:
    """A row a method, a column a dataset; first what the reference itself has, in %."""
    columns = [column for one, column in answer.own if one == part]
    found = {(cell.method, cell.column): cell for cell in cells}
    lines = [["method", *columns], ["---", *["---:"] * len(columns)]]
    own = [answer.own[part, column] for column in columns]
    lines.append([f"`{answer.question.reference}`, %", *("-" if math.isnan(one) else f"{one:.2f}" for one in own)])
    for method in dict.fromkeys(cell.method for cell in cells):
        here = [found.get((method, column)) for column in columns]
        lines.append([f"`{method}`", *("-" if cell is None else _cell(cell) for cell in here)])
    return pipes(lines)


def _cell(cell: Cell) -> str:
    if math.isnan(cell.mean):
        return cell.trouble or "-"
    return f"{gap(cell.mean, cell.half_width)}{MARKS.get(cell.word, '')}" + r" \*" * cell.at_cost


def _reference(answer: Answer) -> str:
    """In words, for a control; by name, for another method."""
    name = answer.question.reference
    told = verdicts.CONTROLS.get(name, f"`{name}`")
    return f"{told} at equal cost" if answer.question.at_cost else told


def _where(answer: Answer, part: float | str) -> str:
    if answer.question.by == "noise":
        return f"With {100 * float(part):g} % wrong labels" if part else "Without wrong labels"
    return f"At keep {part:g}" if answer.question.by == "keep" else f"On {part}"


def _listed(methods: Sequence[str]) -> str:
    return ", ".join(f"`{method}`" for method in methods)


def many(count: int, noun: str) -> str:
    """For instance "1 dataset", "2 datasets"."""
    return f"{count} {noun}{'s' * (count != 1)}"
