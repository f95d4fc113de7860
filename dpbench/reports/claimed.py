"""The claims of a board as text: held, refuted or open, with the interval and its level."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dpbench.analysis.board import Board
from dpbench.analysis.outcomes import Outcome
from dpbench.claims import ORDER
from dpbench.reports.columns import gap

HEADER = ["verdict", "claim", "difference", "level", "where"]
VERDICT = 14  # characters of "refuted, after" in a narrow table


def cells(board: Board) -> list[list[str]]:
    """Header and one line a claim."""
    return [HEADER, *([verdict(one), one.claim.text, value(one), level(one), where(one)] for one in board.outcomes)]


def verdict(one: Outcome) -> str:
    """Held, refuted or open, and whether the claim came after the runs."""
    return f"{one.verdict}, after the fact" if one.after else one.verdict


def value(one: Outcome) -> str:
    """The difference in points, or Kendall's tau, with its interval."""
    shown = one.shown
    if math.isnan(shown.value):
        return "-"
    if one.claim.test != ORDER:
        return gap(shown.value, (shown.high - shown.low) / 2)
    return f"tau {shown.value:.2f} ({shown.low:.2f} to {shown.high:.2f})"


def level(one: Outcome) -> str:
    """The confidence of the interval, corrected for all claims and comparisons."""
    return "-" if math.isnan(one.shown.low) else f"{100 * one.level:.4g} %"


def where(one: Outcome) -> str:
    """Where the comparison is that is shown, of how many; or why there is none."""
    of = f", of {one.count} comparisons" if one.count > 1 else ""
    return one.shown.why or f"{one.shown.where}{of}"


def sentences(board: Board) -> list[str]:
    """One sentence a claim."""
    found = []
    for one in board.outcomes:
        shown = [value(one), f"at {level(one)}"] * (not math.isnan(one.shown.low)) + [where(one)]
        found.append(f"Claim {verdict(one)}: {one.claim.text} ({', '.join(shown)}).")
    return found


def note(board: Board) -> str:
    """When the claims were registered, and with what confidence all of their intervals hold; empty without claims."""
    if not board.registered:
        return ""
    last, *others = board.registered[::-1]
    confidence = 100 * (1 - max((claim.alpha for claim in last.claims), default=0.05))
    named = f"(sha256 {last.sha256[:12]})"
    if last.date is None:
        when = f"Claims that were not registered before the runs {named}"
    else:
        when = f"Claims registered on {_day(last.date)} {named}"
    replaced = f", in the place of others of {_day(others[0].date)}" if others and others[0].date is not None else ""
    return f"{when}{replaced}; with {confidence:g} % confidence all their intervals hold at once"


def _day(date: float) -> str:
    return datetime.fromtimestamp(date, UTC).strftime("%Y-%m-%d %H:%M UTC")


def in_short(board: Board) -> str:
    """How many claims are held, refuted and open; empty without claims."""
    counts = Counter(one.verdict for one in board.outcomes)
    late = sum(one.after for one in board.outcomes)
    after = f", {'all' if late == len(board.outcomes) else late} after the fact" if late else ""
    told = ", ".join(f"{counts[word]} {word}" for word in ("held", "refuted", "open") if counts[word])
    return f"Claims: {told}{after}" if told else ""


def screen(board: Board) -> Group:
    """A table for a terminal of any width."""
    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    view.add_column("verdict", width=VERDICT)
    view.add_column("claim", overflow="fold")
    view.add_column("difference", justify="right", no_wrap=True)
    view.add_column("level", justify="right", no_wrap=True)
    for one in board.outcomes:
        told = f"\n{where(one)}" if one.shown.why or one.count > 1 else ""
        view.add_row(verdict(one), Text.assemble(one.claim.text, (told, "dim")), value(one), level(one))
    return Group(Text(), view, Text(note(board), style="dim"))
