"""`dpbench cache`: the proxy records, which static methods share."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dpbench.cli import complete
from dpbench.cli.terminal import out, size
from dpbench.errors import RunFailed, UsageError

cache = typer.Typer(no_args_is_help=True, help="List or clear the proxy records, which static methods share.")


@cache.command("list")
def cache_list() -> None:
    """List the proxy records, their trainings and their sizes."""
    from dpbench.training import proxy

    found = proxy.records()
    view = Table("record", "dataset", "model", "seed", "run", "epochs", "signals", "size", box=None)
    for record in found:
        of = record.training
        named = [str(of.get(name, "?")) for name in ("dataset", "model", "seed", "run")]
        numbers = (str(record.epochs), ", ".join(record.signals), size(record.size))
        view.add_row(record.folder.name, *map(escape, named), *numbers)
    out.print(view) if found else None
    out.print(f"proxy records: {len(found)}, {size(sum(record.size for record in found))}")


@cache.command("clear")
def cache_clear(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECORD...]", help="Default: all.", autocompletion=complete.record),
    ] = None,
) -> None:
    """Remove proxy records. Finished runs do not need them; a run that needs one records it again."""
    from dpbench.training import proxy

    found = {record.folder.name: record for record in proxy.records()}
    unknown = [name for name in names or [] if name not in found]
    if unknown:
        raise UsageError(f"no proxy record {unknown[0]!r}; dpbench cache list shows the records")
    chosen = [found[name] for name in names or found]
    removed = [record for record in chosen if proxy.remove(record)]
    out.print(f"proxy records removed: {len(removed)}, {size(sum(record.size for record in removed))}")
    kept = [record.folder.name for record in chosen if record not in removed]
    if kept:
        raise RunFailed(f"{', '.join(kept)}: in use by a run; kept")
