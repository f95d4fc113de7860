"""Two methods head to head: every measure side by side, the paired difference, and how much they select alike."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dpbench import catalog
from dpbench.aliases import ALIASES
from dpbench.analysis import measured, predicted, stats, verdicts
from dpbench.analysis import table as tables
from dpbench.analysis.board import Board
from dpbench.analysis.predicted import Pair
from dpbench.analysis.table import Line, broken, records
from dpbench.errors import UsageError
from dpbench.reports.columns import accuracy, difference, gap, number, p_value
from dpbench.spec import canonical, row_of
from dpbench.training import derived
from dpbench.training.measures import MEASURES
from dpbench.training.results import is_finished

MOST = 10  # classes and samples that are named
WHERE = ("dataset", "model", "keep_a", "keep_b")


def screen(board: Board, a: str, b: str) -> Group:
    """One table a dataset, model and keep, and below it what the paired seeds say, and what the predictions do."""
    pairs = _pairs(board.table, a, b)
    results = [*board.results.values(), *board.controls.values()]
    found = measured.measure("accuracy", results, board.flips, board.grid.looks)
    over_seeds = {i: one for i, (x, y) in enumerate(pairs) if (one := found.difference(row_of(x), row_of(y)))}
    predictions = {i: predicted.pair(results, *map(row_of, pairs[i])) for i in over_seeds}
    both = {i: predicted.of_new_samples(over_seeds[i], one) for i, one in predictions.items() if one is not None}
    compared, of_new = (
        dict(zip(part, records(stats.compare(part, b, board.grid.delta)), strict=True)) for part in (over_seeds, both)
    )
    shown: list[Any] = []
    for i, (x, y) in enumerate(pairs):
        shown += [_table(x, y), *_classes(board, x, y)]
        trouble = [f"{row['method']}: {text}" for row in (x, y) if (text := broken(row))]
        if trouble:
            shown.append(Text(f"not compared: {'; '.join(trouble)}", style="bold"))
        elif i not in over_seeds or not over_seeds[i].n:
            shown.append(Text("No seed was finished by both.", style="bold"))
        else:
            shown.append(_said(f"{a} - {b}", "on this test set", compared[i]))
            shown += [_said("for new test samples, too", "", of_new[i])] if i in both else []
            shown += [Text(line) for line in _of_samples(board, predictions[i], a, b)]
        shown += [_alike(board, x, y), Text()]
    count = len(over_seeds)
    if count > 1:
        shown.append(Text(f"The {count} intervals of each kind hold all at once, with 95 %.", style="dim"))
    return Group(*shown)


def csv(board: Board, a: str, b: str) -> str:
    """One line a test sample of each pair of rows: its place in the test set, its class, how many seeds are right."""
    parts = []
    for x, y in _pairs(board.table, a, b):
        found = predicted.pair([*board.results.values(), *board.controls.values()], row_of(x), row_of(y))
        if found is not None:
            right = {"right_a": found.a.sum(axis=0), "right_b": found.b.sum(axis=0)}
            part = (
                pd.DataFrame({"class": found.labels, "seeds": len(found.a)} | right).rename_axis("sample").reset_index()
            )
            named = {name: row[name.split("_")[0]] for name, row in zip(WHERE, (x, x, x, y), strict=True)}
            parts.append(pd.DataFrame(named, index=part.index).join(part))
    if not parts:
        raise UsageError(_no_predictions(board))
    return tables.csv(pd.concat(parts))


def named(board: Board, text: str) -> str:
    """The method of the board that `text` names, as the board writes it."""
    return among(set(board.table["method"]), board.grid.name, text)


def among(methods: Iterable[str], grid: str, text: str) -> str:
    """The method that `text` names of those of a grid, as the grid writes it; UsageError if it has none such."""
    known = sorted(methods)
    if text in known:
        return text
    name = catalog.parse(text)[0]
    if name in (*catalog.names("methods"), *ALIASES) or ".py" in name:
        found = canonical(text)
        if found in known:
            return found
    near = [method for method in known if catalog.parse(method)[0] == name] or difflib.get_close_matches(text, known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"
    raise UsageError(f"no method {text!r} in the grid {grid}; {hint}")


def _pairs(table: pd.DataFrame, a: str, b: str) -> list[tuple[Line, Line]]:
    """The rows to compare: equal keeps, or every keep with the one row of a method whose keep is fixed."""
    pairs = []
    for _, part in table.groupby(["dataset", "model"], sort=False):
        xs, ys = (records(part[part["method"] == method]) for method in (a, b))
        pairs += [(x, y) for x in xs for y in ys if x["keep"] == y["keep"] or 1.0 in (x["keep"], y["keep"])]
    if not pairs:
        raise UsageError(f"{a} and {b} have no keep in common")
    return pairs


def _table(x: Line, y: Line) -> Table:
    view = Table(
        title=escape(f"{x['dataset']}, {x['model']}"), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False
    )
    view.add_column("")
    for row in (x, y):
        view.add_column(escape(f"{row['method']} at {row['keep']:g}"), justify="right")
    view.add_row("accuracy %", accuracy(x), accuracy(y))
    lines = [("rank", [number(row["rank"], "d") for row in (x, y)])]
    lines.append(("random at its cost", [number(row["control_keep"], "g") for row in (x, y)]))
    lines.append(("  difference to it", [difference(row, verdicts.AT_COST) for row in (x, y)]))
    lines += [(one.header, [one.shown(row[one.name]) for row in (x, y)]) for one in MEASURES if one.column]
    for label, texts in lines:
        if texts != ["-", "-"]:
            view.add_row(label, *texts)
    return view


def _classes(board: Board, x: Line, y: Line) -> list[Table]:
    """Accuracy by class, of those in which the two differ most."""
    means = []
    for row in (x, y):
        runs = [one for one in board.results.values() if is_finished(one) and row_of(one["spec"]) == row_of(row)]
        by_class = [derived.diagnostics(run).get("accuracy_per_class") for run in runs]
        means.append(pd.DataFrame([of_run for of_run in by_class if of_run], dtype=float).mean())
    table = pd.DataFrame({"a": 100 * means[0], "b": 100 * means[1]}).dropna()
    if table.empty:
        return []
    chosen = (table["a"] - table["b"]).abs().sort_values(ascending=False, kind="stable").index[:MOST]
    of_all = "" if len(table) <= MOST else f", the {MOST} of {len(table)} that differ most"
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"accuracy % by class{of_all}", title_justify="left")
    for header in ("class", x["method"], y["method"], "difference"):
        view.add_column(escape(header), justify="right")
    for name, line in table.loc[sorted(chosen)].iterrows():
        view.add_row(str(name), f"{line['a']:.2f}", f"{line['b']:.2f}", f"{line['a'] - line['b']:+.2f}")
    return [view]


def _said(who: str, where: str, line: Line) -> Text:
    """A difference with its simultaneous interval, in words."""
    p: str = "" if pd.isna(line["p"]) else f" (corrected p = {p_value(line['p'])})"
    verdict = "; ".join(dict.fromkeys([line["verdict"], line["equivalence"]]))
    over = f" points {where}, over {line['n']} paired seeds" if where else ""
    return Text(f"{who}: {gap(line['mean'], line['half_width'])}{over}{p}: {verdict}", style="bold" if where else "")


def _of_samples(board: Board, found: Pair | None, a: str, b: str) -> list[str]:
    """McNemar's test, and the test samples that one of the two gets wrong and the other right."""
    if found is None:
        return [_no_predictions(board)]
    seeds, n = found.a.shape
    only_a, only_b = (found.a & ~found.b).sum() / seeds, (found.b & ~found.a).sum() / seeds
    lines = [
        f"McNemar's test, of these trained models on new test samples: of {n} a mean of {only_a:.1f} is right in {a} "
        f"alone, {only_b:.1f} in {b} alone (p = {p_value(predicted.mcnemar(found))}, by itself)"
    ]
    for right, wrong, samples in zip((b, a), (a, b), found.lost(), strict=True):
        text = f"Right in most seeds of {right} and wrong in most of {wrong}: {len(samples)} of {n} test samples"
        if len(samples):
            counts = Counter(found.labels[samples].tolist()).most_common(MOST)
            named = ", ".join(f"{sample} ({found.labels[sample]})" for sample in samples[:MOST])
            more = ", ..." if len(samples) > MOST else ""
            text += f", by class {', '.join(f'{label}: {count}' for label, count in counts)}; "
            text += f"place in the test set (class): {named}{more}"
        lines.append(text)
    return lines


def _no_predictions(board: Board) -> str:
    if board.checked_in:
        again = f"dpbench run {board.grid.name}"
        return f"Results that come with dpbench have no predictions of single samples; {again} makes them"
    return "Some of these runs kept no predictions of single samples: they were made before dpbench did"


def _alike(board: Board, x: Line, y: Line) -> Text:
    """How much the two select the same samples."""
    lines = board.overlap.methods
    names = [x["method"], y["method"]]
    same = lines["method"].isin(names) & lines["other"].isin(names)
    at = (lines["dataset"] == x["dataset"]) & (lines["model"] == x["model"]) & (lines["keep"] == x["keep"])
    found = lines[same & at] if x["keep"] == y["keep"] else lines[:0]
    if found.empty:
        return Text()
    return Text(
        f"Jaccard of their selections {found['jaccard'].iloc[0]:.3f}, chance {found['chance'].iloc[0]:.3f}", style="dim"
    )
