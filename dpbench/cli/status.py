"""`dpbench status`: how far a grid is, wherever it runs."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dpbench.cli.options import RunHere
from dpbench.cli.terminal import out

if TYPE_CHECKING:
    from dpbench.experiments.status import Status

SHOWN = 20  # lines of each list


def status(
    grid: RunHere,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again until all runs that are listed have ended.")
    ] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks.")] = 5.0,
) -> None:
    """Show how far a grid is: runs done, running (where, which epoch, since when), failed (why) and waiting.

    It reads the results' folder alone, so it works on any machine that sees it, whoever runs the grid.
    """
    from dpbench.experiments.status import status as read

    found = read(grid)
    if not watch:
        out.print(screen(found))
        return
    with Live(screen(found), console=out, auto_refresh=False) as live:
        while not found.over:
            time.sleep(every)
            found = read(grid)
            live.update(screen(found), refresh=True)


def screen(found: Status) -> RenderableType:
    """One line of numbers, then what runs, what is silent and what has failed."""
    from dpbench.experiments.status import clocks_apart

    counts = {
        "done": len(found.done),
        "diverged": len(found.diverged),
        "running": len(found.running),
        "silent": len(found.silent),
        "failed": len(found.failed),
        "waiting": found.waiting,
    }
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    left = found.left_s
    eta = "" if left is None else f"; about {timedelta(seconds=round(left))} left with {len(found.running)} workers"
    parts: list[RenderableType] = [Text(f"{found.grid}: {said} of {found.total} runs{eta}", style="bold")]
    for title, listed in (("running", found.running), ("silent", found.silent)):
        if listed:
            table = Table("run", "where", "epoch", "since", title=title, title_justify="left", box=None)
            for spec, sign in listed[:SHOWN]:
                since = datetime.fromtimestamp(sign.since).strftime("%d %b %H:%M")
                table.add_row(spec.title, f"{sign.host}, {sign.pid}", f"{sign.epoch} of {sign.epochs}", since)
            parts += [table, *_more(len(listed))]
    if found.silent:
        parts.append(
            Text("A silent run has lost its worker, or its epochs take long; the same command tries it again.")
        )
    if found.failed:
        table = Table("run", "reason", title="failed", title_justify="left", box=None)
        for spec, reason in found.failed[:SHOWN]:
            table.add_row(spec.title, reason)
        parts += [table, *_more(len(found.failed))]
    for host, seconds in clocks_apart(found.running + found.silent).items():
        how = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}"
        parts.append(Text(f"The clock of {host} is {how} that of the results' folder.", style="yellow"))
    return Group(*parts)


def _more(count: int) -> list[Text]:
    return [Text(f"and {count - SHOWN} more")] if count > SHOWN else []
