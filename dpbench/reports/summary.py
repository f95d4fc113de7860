"""What a board says, in sentences computed from it; and the parts of the documentation that are computed.

`python -m dpbench.reports.summary` rewrites those parts in README.md and docs/*.md, or in the files that it is given.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
from rich.console import Console

from dpbench import catalog
from dpbench.analysis import board as boards
from dpbench.analysis import verdicts
from dpbench.analysis.board import Board
from dpbench.analysis.stats import ALPHA, EQUIVALENT, MIN_SEEDS, WORDS
from dpbench.analysis.table import Line, broken, is_broken, records
from dpbench.experiments.controls import EXEMPT
from dpbench.places import LEADERBOARDS
from dpbench.reports import advice, answers, claimed, tracks
from dpbench.reports.columns import accuracy, gap, named, p_value, pipes, word
from dpbench.training.measures import MEASURES

CONTROLS = verdicts.CONTROLS | {verdicts.AT_COST: "random per epoch at its cost"}
MOST_NAMES = 8  # that a sentence lists
WIDTH = 120
SCREEN = 80
SHORT = ("method", "keep", "accuracy", "to_full", "to_random", "cost_with_proxy", "seeds")  # columns of a short table
ROOT = Path(__file__).parents[2]  # of the checkout
COLOURS = 128  # of a picture


def text(board: Board) -> str:
    """All sentences as a markdown list: first one a keep that sums it up, then what is behind it, and the claims."""
    found = [*headlines(board), *sentences(board), *claimed.sentences(board)]
    return "\n".join(f"- {sentence}" for sentence in found)


def headlines(board: Board) -> list[str]:
    """For each dataset, model and keep: who reaches full training's accuracy, at what cost, and whether random does."""
    return [_headline(board, part) for part in parts(board)]


def parts(board: Board) -> Iterator[pd.DataFrame]:
    """The rows of each dataset, model and keep below 1."""
    for (_, _, keep), part in board.table.groupby(["dataset", "model", "keep"], sort=False):
        if keep < 1:  # type: ignore[operator]
            yield part


def _where(board: Board, part: pd.DataFrame) -> str:
    """For instance "At keep 0.3", with dataset and model where the board has several."""
    names = [str(part[name].iloc[0]) for name in ("dataset", "model") if board.table[name].nunique() > 1]
    at = f"On {', '.join(names)} at" if names else "At"
    return f"{at} keep {part['keep'].iloc[0]:g}"


def suggested(board: Board) -> Line | None:
    """The row of the first headline: that of the lowest keep of the first dataset and model."""
    return next((_suggested(_compared_with_full(part), board.grid.delta) for part in parts(board)), None)


def _compared_with_full(part: pd.DataFrame) -> list[Line]:
    return records(part[~is_broken(part) & part["difference_full"].notna()])


def _suggested(rows: list[Line], delta: float) -> Line | None:
    """The cheapest method that is shown to reach full's accuracy within delta; None without a method.

    Where none is, the cheapest whose mean does; else the nearest one.
    """
    methods = [row for row in rows if catalog.parse(row["method"])[0] not in EXEMPT]
    shown = [row for row in methods if row["difference_full"] - row["difference_full_ci95"] > -delta]
    reaching = shown or [row for row in methods if row["difference_full"] >= -delta]
    if reaching:
        return min(reaching, key=lambda row: (round(row["cost_with_proxy"], 2), -row["accuracy_mean"]))
    return max(methods, key=lambda row: row["difference_full"], default=None)


def _headline(board: Board, part: pd.DataFrame) -> str:
    where, delta = _where(board, part), board.grid.delta
    rows = _compared_with_full(part)
    row = _suggested(rows, delta)
    if row is None:
        return f"{where}, no method is compared with full training."
    if row["difference_full"] < -delta:
        return (
            f"{where}, no method is within {delta:g} points of full; the nearest is {_name(row)} "
            f"({_short_gap(row, 'full')}) at {_cost(row, board)}; {_random(row)}."
        )
    gap, rest = _short_gap(row, "full"), f"at {_cost(row, board)}; {_random(row)}."
    if row["equivalence_full"].startswith(EQUIVALENT[True]):
        return f"{where}, {_name(row)} is {EQUIVALENT[True]} to full within {delta:g} points ({gap}) {rest}"
    verdict = EQUIVALENT[False] if row["equivalence_full"].startswith(EQUIVALENT[False]) else WORDS["no"]
    return f"{where}, {_name(row)} is within {delta:g} points of full on average ({gap}, {verdict}) {rest}"


def _random(row: Line) -> str:
    """How random per epoch does beside a row, at the row's cost where that is another one."""
    control: str = verdicts.AT_COST if pd.notna(row["control_keep"]) else "uniform_epoch"
    name = f"random per epoch{' at its cost' if control == verdicts.AT_COST else ''}"
    said = word(row, control)
    if said in ("better", "worse"):
        return f"it is {WORDS[said]} than {name} ({_short_gap(row, control)})"
    if said == "not":
        return f"it is {WORDS[said]} from {name} ({_short_gap(row, control)})"
    return f"there is {WORDS['no']} to {name}"


def sentences(board: Board) -> list[str]:
    """What each keep's rows are to each control, what they cost, and which have seeds that diverged or failed."""
    found = []
    for part in parts(board):
        where, rows = _where(board, part), records(part)
        found += [f"{where}, {said}." for said in (*_ends(rows), *_compared(rows, board.grid.delta))]
    bad = [f"{_name(row)} at {row['keep']:g} ({broken(row)})" for row in records(board.table) if broken(row)]
    if bad:
        found.append(f"Ranked below all others and not compared: {', '.join(bad)}.")
    return found


def _ends(rows: list[Line]) -> Iterator[str]:
    """Who is highest and lowest, beside the controls, and who costs least and most."""
    made = sorted((row for row in rows if row["seeds"] and not broken(row)), key=lambda row: -row["accuracy_mean"])
    if not made:
        return
    top, low = made[0], made[-1]
    said = f"{_name(top)} has the highest mean, {accuracy(top)} %"
    gaps = [f"{_gap(top, control)} to {name}" for control, name in CONTROLS.items() if _known(top, control)]
    said += f" ({'; '.join(gaps)})" if gaps else ""
    said += f", {_name(low)} the lowest, {accuracy(low)} %" if low is not top else ""
    controls = [f"{_name(row)} {accuracy(row)}" for row in made if row["method"] in EXEMPT]
    yield said + (f"; the controls: {', '.join(controls)}" if controls else "")
    cost = sorted((row for row in made if pd.notna(row["cost_with_proxy"])), key=lambda row: row["cost_with_proxy"])
    if cost:
        least, most = (f"{row['cost_with_proxy']:.2f} of full training ({_name(row)})" for row in (cost[0], cost[-1]))
        yield f"costs with proxy go from {least} to {most}"


def _compared(rows: list[Line], delta: float) -> Iterator[str]:
    """Who is better and who worse than each control, of all that have a verdict; who equivalent to full training."""
    same, silent = [], []
    for control, name in CONTROLS.items():
        compared = [row for row in rows if _known(row, control)]
        words = [(row, word(row, control)) for row in compared]
        told = {word: [row for row, one in words if one == word] for word in ("better", "worse", "not")}
        count = sum(map(len, told.values()))
        if count and len(told["not"]) == count:
            same.append(f"{name} ({count} row{'s' * (count > 1)})")
        elif count:
            parts = [
                f"{len(told[word])} of {count} rows {'is' if len(told[word]) == 1 else 'are'} {word} than {name} "
                f"({_names(told[word], control)})"
                for word in ("better", "worse")
                if told[word]
            ]
            yield "; ".join(parts) + (f"; {len(told['not'])} not separable from it" if told["not"] else "")
        elif compared:
            silent.append(name)
    if same:
        yield f"nothing is separable from {', '.join(same)}"
    if silent:
        yield f"there is no verdict to {', '.join(silent)}: it needs {MIN_SEEDS} paired seeds"
    if any(_known(row, "full") for row in rows):
        equal = [row for row in rows if row["equivalence_full"].startswith(EQUIVALENT[True])]
        yield f"equivalent to full within {delta:g} points: {_names(equal) if equal else 'none is shown to be'}"


def _known(row: Line, control: str) -> bool:
    return bool(pd.notna(row[f"difference_{control}"]))


def _names(rows: list[Line], control: str | None = None) -> str:
    """Names, each with its difference to a control."""
    names = [_name(row) + (f" {_gap(row, control)}" if control else "") for row in rows[:MOST_NAMES]]
    return (", " if control is None else "; ").join(names) + (
        f" and {len(rows) - MOST_NAMES} more" if len(rows) > MOST_NAMES else ""
    )


def _name(row: Line) -> str:
    return f"`{row['method']}`"


def _short_gap(row: Line, control: str) -> str:
    """Difference and simultaneous interval."""
    return gap(row[f"difference_{control}"], row[f"difference_{control}_ci95"])


def _gap(row: Line, control: str) -> str:
    """Difference, simultaneous interval and corrected p."""
    p, short = row[f"difference_{control}_p"], _short_gap(row, control)
    return short if pd.isna(row[f"difference_{control}_ci95"]) else f"{short}, p = {p_value(p)}"


def _cost(row: Line, board: Board) -> str:
    """Its cost, and how much faster it is where times are comparable."""
    speed = f" ({row['speedup']:.1f} times faster)" if row["speedup"] > 1 and not board.times_reason else ""
    return f"{row['cost_with_proxy']:.2f} of the cost{speed}"


def decompositions(name: str) -> str:
    """What the checked-in tests of Figure 4 say: where the decomposition matters, in how many it is not shown to."""
    stored = LEADERBOARDS / "results" / name / "figure4.json"
    found = json.loads(stored.read_text(encoding="utf-8"))
    matters = [one["text"] for one in found if one["p"] < ALPHA]
    where = f"it does at {'; '.join(matters)}" if matters else "it matters in none"
    return f"Of {len(found)} tests the decomposition is not shown to matter in {len(found) - len(matters)}; {where}."


BLOCK = re.compile(r"(<!-- ([a-z]\w*):([\w.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
REFERENCE = re.compile(r"\[`([\w.]+)`,(\s+)([\w/]+\.py):\d+\]\(\.\./\3#L\d+\)")
PICTURE = re.compile(r"\]\(((?:\.\./)*leaderboards/results/([\w.-]+)/pareto\.png)\)")


def rewrite(content: str) -> str:
    """Return a page with each block `<!-- KIND:NAME -->` ... `<!-- end -->` made anew; KIND is one of BLOCKS.

    A reference [`name`, file.py:1](../file.py#L1) gets the line where the name is defined.
    """
    content = BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]](found[3])}\n{found[4]}", content)
    return REFERENCE.sub(_reference, content)


def _reference(found: re.Match[str]) -> str:
    name, space, file = found.groups()
    line = defined(ast.parse((ROOT / file).read_text(encoding="utf-8")), name)
    return f"[`{name}`,{space}{file}:{line}](../{file}#L{line})"


def defined(module: ast.Module, name: str) -> int:
    """The line where a function, a class, a class's member or a constant is defined; LookupError if it is not."""
    node: ast.AST = module
    for part in name.split("."):
        for inner in getattr(node, "body", []):
            if isinstance(inner, ast.FunctionDef | ast.ClassDef):
                names = [inner.name]
            else:
                targets = getattr(inner, "targets", [getattr(inner, "target", None)])
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            if part in names:
                node = inner
                break
        else:
            raise LookupError(f"no {name} is defined")
    return node.lineno  # type: ignore[attr-defined]


def draw(content: str, folder: Path) -> list[Path]:
    """Draw the pictures of boards that a page in `folder` refers to, small enough for it; return the files."""
    from PIL import Image

    from dpbench.reports import figures

    made = []
    for path, grid in sorted(set(PICTURE.findall(content))):
        with figures.look():
            stream = io.BytesIO()
            drawn = figures.figures(boards.load_checked_in(grid), ["pareto"])
            next(iter(drawn.values())).savefig(stream)
        made.append(folder / path)
        Image.open(stream).convert("RGB").quantize(COLOURS).save(made[-1], optimize=True)
    return made


def _few(board: Board) -> str:
    """The controls at the lowest keep, then its two methods of highest mean accuracy, as a markdown table."""
    columns = named(SHORT)
    first = next(parts(board)).iloc[0]
    rows = [row for row in records(board.table) if all(row[name] == first[name] for name in ("dataset", "model"))]
    controls = [row for row in rows if row["method"] in verdicts.CONTROLS and row["keep"] in (first["keep"], 1)]
    controls.sort(key=lambda row: str(row["method"]))
    methods = [row for row in rows if catalog.parse(row["method"])[0] not in EXEMPT and row["keep"] == first["keep"]]
    lines = [[" ".join(column.header.split()) for column in columns], ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[column.cell(row) for column in columns] for row in [*controls, *methods[:2]]]
    return pipes(lines)


def _measures() -> str:
    """All measures as a markdown table."""
    lines = [["number", "in `--columns`", "unit", "meaning"], ["---"] * 4]
    for one in MEASURES:
        column = f"`{one.column}`" if one.column else ""
        lines.append([f"`{one.name}`", column, one.unit, one.meaning.replace("|", "\\|")])
    return pipes(lines)


def _screen(board: Board) -> str:
    """The terminal's first screen as a block of code."""
    from dpbench.reports import screen

    console = Console(record=True, file=io.StringIO(), width=SCREEN)
    console.print(screen.screen(board, SCREEN))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    return "\n".join(["", *(f"    {line}" if line else "" for line in lines), ""])


def _wrapped(board: Board) -> str:
    seeds = sorted({spec.seed for spec in board.cells.values()})
    head = f"{len(board.table)} rows, {len(seeds)} paired seeds. {board.grid.description}"
    return "\n".join(["", _fill(head), "", *map(_fill, text(board).splitlines()), ""])


def _paragraphs(found: list[str]) -> str:
    """Paragraphs and tables, of which only paragraphs are broken into lines."""
    return "\n".join(f"\n{one if one.startswith('|') else _fill(one)}" for one in found) + "\n"


def _fill(line: str) -> str:
    """Break a line as the page's are; a list's item is indented."""
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


BLOCKS: dict[str, Callable[[str], str]] = {  # what stands in a block of each kind, from the name in its marker
    "few": lambda grid: _few(boards.load_checked_in(grid)),
    "headline": lambda grid: _fill(headlines(boards.load_checked_in(grid))[0]),
    "table": lambda grid: _screen(boards.load_checked_in(grid)),
    "results": lambda grid: _wrapped(boards.load_checked_in(grid)),
    "figure4": lambda grid: f"\n{_fill(decompositions(grid))}\n",
    "answer": lambda question: _paragraphs(answers.paragraphs(question)),
    "advice": lambda keep: _paragraphs(advice.paragraphs(keep)),
    "claims": lambda _: _paragraphs(advice.claims()),
    "tracks": lambda grid: _paragraphs(tracks.paragraphs(grid)),
    "measures": lambda _: _measures(),
}


def pages() -> list[Path]:
    """The documentation: README.md and docs/*.md of the checkout."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


if __name__ == "__main__":
    for page in [Path(name) for name in sys.argv[1:]] or pages():
        page.write_text(rewrite(page.read_text(encoding="utf-8")), encoding="utf-8")
        draw(page.read_text(encoding="utf-8"), page.parent)
