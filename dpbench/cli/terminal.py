"""The terminal: where commands print, and how they write sizes and the program's name."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from dpbench.errors import redact

if TYPE_CHECKING:
    from dpbench.analysis.board import Board

out = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
err = Console(stderr=True, highlight=False)


def program() -> str:
    """The command that starts this program: its name if the shell finds that, else its path."""
    called = Path(sys.argv[0])
    found = shutil.which("dpbench")
    if called.name != "dpbench" or (found and Path(found).resolve() == called.resolve()):
        return "dpbench"
    return os.path.relpath(called)


def size(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


def tell_what_next(board: Board, tracking_uri: str | None) -> None:
    """Print where to go on from a board: its page, its samples, MLflow; or how to run it here."""
    from dpbench import store
    from dpbench.reports import summary

    name, bold = board.grid.name, f"[bold]{program()}"
    if board.checked_in:
        out.print(f"Run it here:  {bold} run {name}[/]", soft_wrap=True)
        return
    row = summary.suggested(board)
    of = escape(f" --method {shlex.quote(row['method'])} --keep {row['keep']:g}") if row else ""
    page = store.home() / "leaderboards" / name / f"{name}.html"
    near = os.path.relpath(page)
    where = escape(f" --tracking-uri {redact(tracking_uri)}") if tracking_uri else ""
    out.print(f"Page:     [bold]{escape(str(page) if near.startswith('..') else near)}[/]", soft_wrap=True)
    out.print(f"Samples:  {bold} samples {name}{of}[/]", soft_wrap=True)
    out.print(f"MLflow:   {bold} ui {name}[/]{where}", soft_wrap=True)
