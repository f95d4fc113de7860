"""Shell completion: what each argument and option may be named. No answer is better than a late one or an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from typer import Context

from dpbench.places import LEADERBOARDS


def _offer(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """The names that begin as what is typed does."""

    def offered(incomplete: str) -> list[str]:
        try:
            return [name for name in dict.fromkeys(names()) if name.startswith(incomplete)]
        except Exception:  # a broken plug-in, a home that cannot be read
            return []

    return offered


def _home() -> Path:
    from dpbench import store

    return store.home()


def _run_here() -> list[str]:
    return sorted(path.stem for path in (_home() / "grids").glob("*.json"))


def _checked_in() -> list[str]:
    results = LEADERBOARDS / "results"
    return sorted(folder.name for folder in results.iterdir() if (folder / "results.json.gz").is_file())


def _catalog(*kinds: str) -> Callable[[], Iterable[str]]:
    def names() -> list[str]:
        from dpbench import catalog

        return [name for kind in kinds for name in catalog.names(kind)]

    return names


method, dataset, model, grid = (_offer(_catalog(kind)) for kind in ("methods", "datasets", "models", "grids"))
anything = _offer(_catalog("methods", "datasets", "models", "grids", "subsets"))  # what `dpbench show` knows
run_grid = _offer(_run_here)
shown_grid = _offer(lambda: [*_run_here(), *_checked_in()])
device = _offer(lambda: ["cpu", "cuda"])
record = _offer(lambda: sorted(path.name for path in (_home() / "proxy").iterdir() if path.is_dir()))


def param(ctx: Context, incomplete: str) -> list[str]:
    """A parameter that the method named before it declares a range for."""

    def names() -> list[str]:
        from dpbench import catalog

        method = ctx.params["method"] or ctx.args[0]  # click leaves it there while an option has no value
        return [field.name for field in catalog.searched(catalog.parse(catalog.resolve("methods", method))[0])]

    return _offer(names)(incomplete)


def columns(incomplete: str) -> list[str]:
    """The last name of a list of columns."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _columns(last)]


def sort(incomplete: str) -> list[str]:
    """A column, or "-" and a column."""
    sign = incomplete[: len(incomplete) - len(incomplete.lstrip("-"))]
    return [f"{sign}{name}" for name in _columns(incomplete.lstrip("-"))]


@_offer
def _columns() -> list[str]:
    from dpbench.reports.columns import COLUMNS

    return [column.name for column in COLUMNS]
