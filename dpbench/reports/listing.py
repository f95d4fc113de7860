"""What there is: methods, datasets, models, grids and published subsets with all that is known of them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dpbench import aliases, catalog, published_lists
from dpbench.errors import UsageError
from dpbench.places import LEADERBOARDS
from dpbench.plain_yaml import brief

Row = dict[str, Any]
DECIDES = {
    "static": "chooses once, before training",
    "epoch": "chooses before each epoch",
    "batch": "chooses within each batch",
}
LEADING = {  # columns of a list between name and summary; of what is a list itself, its length
    "methods": ("kind",),
    "datasets": (),
    "models": (),
    "grids": ("datasets", "methods", "keep", "seeds"),
    "subsets": ("dataset", "size"),
}
MOST_NAME = 28  # characters of a name in a list
READS = {  # the epochs of a proxy at which signals are recorded
    "end": "read at its end",
    "epochs": "read after each epoch",
    "steps": "read in each step",
}


def rows(kind: str, of_kind: str | None = None, search: str | None = None) -> list[Row]:
    """Describe everything of one kind; what cannot be loaded or described is listed with its error.

    `of_kind` restricts methods to "static", "epoch" or "batch"; `search` to those in which the text is found.
    """
    found = [_row(kind, name) for name in catalog.names(kind)]
    if of_kind:
        found = [row for row in found if row.get("kind") == of_kind]
    words = (search or "").lower().split()
    return [row for row in found if all(word in str(list(row.values())).lower() for word in words)]


def _row(kind: str, name: str) -> Row:
    try:
        return {"name": name} | _DESCRIBE[kind](name)
    except UsageError as error:
        return {"name": name, "error": str(error)}
    except (Exception, SystemExit) as error:  # whatever a plug-in raises
        return {"name": name, "error": f"{type(error).__name__}: {error}"}


def table(kind: str, found: list[Row], width: int) -> Table:
    """One line each, no wider than `width`: name, a few short facts, and as much of the summary as has room."""
    view = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    columns = ["name", *LEADING[kind], "summary"]
    texts = [[_short(row.get(name)) for name in columns[:-1]] + [_told(row)] for row in found]
    room = width
    for i, name in enumerate(columns):
        widest = max([len(name), *(len(line[i]) for line in texts)])
        taken = min(widest, MOST_NAME) if name == "name" else widest if name != "summary" else room
        view.add_column(name, width=max(1, taken), no_wrap=True, overflow="ellipsis")
        room -= taken + 1
    for row, line in zip(found, texts, strict=True):
        view.add_row(*map(Text, line), style="red" if "error" in row else "")
    return view


def _short(value: Any) -> str:
    return str(len(value) if isinstance(value, list) else value or "")


def _told(row: Row) -> str:
    if "error" in row:
        return " ".join(f"cannot be used: {row['error']}".split())
    return (f"({', '.join(row['aliases'])}) " if row.get("aliases") else "") + row["summary"]


def show(text: str) -> Group:
    """All that is known of a method, dataset, model, grid or subset of that name; of each, where several have it."""
    found = [(kind, text) for kind in _DESCRIBE if _bare(kind, text) in catalog.names(kind)]
    if not found and (".py" in text or _bare("methods", text) in aliases.ALIASES):
        found = [("methods", catalog.resolve("methods", text))]
    if not found and text.endswith((".yaml", ".yml")):
        found = [("grids", text)]
    if not found:
        known = [*(name for kind in _DESCRIBE for name in catalog.names(kind)), *aliases.ALIASES]
        near = difflib.get_close_matches(text, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"dpbench list {' or '.join(_DESCRIBE)} shows what is"
        raise UsageError(f"no method, dataset, model, grid or subset is named {brief(text)}; {hint}")
    return Group(*(_screen(kind, name) for kind, name in found))


def _bare(kind: str, text: str) -> str:
    """The name without its parameters."""
    return text if kind == "grids" else text.partition("[")[0]


def _screen(kind: str, name: str) -> Group:
    """One thing: what it is, its own words, its parameters, and its facts."""
    row: Row = {"name": name} | _DESCRIBE[kind](name)
    what = f", {DECIDES[row['kind']]}" if kind == "methods" else ""
    parts: list[Any] = [Text.assemble((name, "bold"), f"  {kind.removesuffix('s')}{what}"), Text()]
    parts += [Text(" ".join(part.split()) + "\n") for part in row["description"].split("\n\n") if part]
    if row.get("parameters"):
        parts.append(Text("parameters", style="bold"))
        parts.append(Padding(_parameters_table(row["parameters"]), (0, 0, 1, 2)))
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    facts.add_column(no_wrap=True, style="bold")
    facts.add_column(overflow="fold")
    for title, value in _FACTS[kind](row):
        facts.add_row(title, Text(value))
    return Group(*parts, facts, Text())


def _parameters_table(parameters: list[Row]) -> Table:
    view = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    for name in ("name", "default", "range"):
        view.add_column(name, overflow="fold")
    for one in parameters:
        view.add_row(Text(one["name"]), Text(_plain(one["default"])), Text(_range(one)))
    return view


def _plain(value: Any) -> str:
    """A value as it is written on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _range(one: Row) -> str:
    if one.get("choices") is not None:
        return ", ".join(map(_plain, one["choices"]))
    low, high = one.get("low"), one.get("high")
    scale = ", searched by its logarithm" if one.get("log") else ""
    if low is None and high is None:
        return ""
    ends = [f"{low:g}" if low is not None else "", f"{high:g}" if high is not None else ""]
    return (" to ".join(ends) if all(ends) else f"at least {ends[0]}" if ends[0] else f"at most {ends[1]}") + scale


def _method(text: str) -> Row:
    method, name = catalog.load_method(text), catalog.parse(catalog.resolve("methods", text))[0]
    cls = catalog.method_class(name)
    stated = method.requires()
    proxy = stated.proxy
    return {
        "kind": method.kind(),
        "aliases": aliases.others(name),
        "summary": _summary(cls),
        "signals": sorted(stated.signals),
        "proxy": None if proxy is None else dataclasses.asdict(proxy),
        "parameters": _parameters(cls),
        "paper": cls.paper,
        "description": inspect.getdoc(cls) or "",
        "file": _file(cls),
    }


def _method_facts(row: Row) -> Iterator[tuple[str, str]]:
    static = row["kind"] == "static"
    if row["proxy"]:
        yield "costs", _proxy_cost(row["proxy"])
    elif static:
        yield "costs", "nothing before training: it needs no proxy"
    if row["signals"]:
        yield "signals", ", ".join(row["signals"]) + (" of the proxy" if row["proxy"] else " of the forwarded samples")
    if row["paper"]:
        yield "paper", row["paper"]
    if row["aliases"]:
        yield "also", ", ".join(f"{name} = {aliases.ALIASES[name]}" for name in row["aliases"])
    yield "file", row["file"]
    listed = [grid for grid in catalog.names("grids") if row["name"] in _methods_of(grid)]
    yield "grids", ", ".join(listed) or "none of the built-in ones"
    yield "try", f"dpbench run quick --method {_quoted(row['name'])}"


def _proxy_cost(proxy: Row) -> str:
    """What a static method spends before its training begins."""
    times = f"{proxy['seeds']} trainings" if proxy["seeds"] > 1 else "one training"
    of = " on the trusted or validation samples" if proxy["data"] == "holdout" else ""
    of += f" on {proxy['share']:g} of the samples" if proxy["share"] < 1 else ""
    shared = "" if proxy["seeds"] > 1 or of else "; one record serves all methods that read the recipe's own training"
    epochs = f"of {proxy['epochs']} epochs, fewer if the recipe has fewer"
    if proxy["hardest"]:
        epochs, shared = "of as many epochs as the run, on the hardest rows of its batches", ""
    return f"{times} first, a proxy {epochs}{of}, {READS[proxy['at']]}{shared}"


def _quoted(name: str) -> str:
    return f"'{name}'" if "[" in name else name


def _methods_of(grid: str) -> list[str]:
    from dpbench.grid_file import load_grid

    return load_grid(grid).methods


def _dataset(text: str) -> Row:
    catalog.load_dataset(text)  # as its use would
    cls = catalog.dataset_class(catalog.parse(text)[0])
    module = inspect.getdoc(sys.modules[cls.__module__]) or ""
    return {
        "summary": _summary(cls),
        "parameters": _parameters(cls),
        "description": "\n\n".join(filter(None, [module, inspect.getdoc(cls)])),
        "file": _file(cls),
    }


def _model(text: str) -> Row:
    factory = catalog.model_factory(catalog.parse(catalog.resolve("models", text))[0])
    given = list(inspect.signature(factory).parameters.values())[2:]
    return {
        "summary": _summary(factory),
        "parameters": [{"name": p.name, "default": p.default} for p in given],
        "description": inspect.getdoc(factory) or "",
        "file": _file(factory),
    }


def _grid(name: str) -> Row:
    from dpbench.grid_file import load_grid

    grid = load_grid(name)
    return {
        "summary": grid.description,
        "datasets": grid.datasets,
        "models": grid.models,
        "methods": grid.methods,
        "keep": grid.keep,
        "keep_schedules": [one.model_dump() for one in grid.keep_schedules],
        "seeds": grid.seeds,
        "recipe": grid.recipe.model_dump(exclude_defaults=True),
        "changes": grid.recipe_by_dataset | grid.recipe_by_model,
        "budget": grid.budget.model_dump(exclude_defaults=True),
        "description": grid.description,
        "results": (LEADERBOARDS / "results" / name / "results.json.gz").is_file(),
    }


def _grid_facts(row: Row) -> Iterator[tuple[str, str]]:
    for name in ("methods", "datasets", "models"):
        yield name, ", ".join(row[name])
    scheduled = [f"{one['mean']:g} {one['shape']}" for one in row["keep_schedules"]]
    yield "keep", ", ".join([f"{share:g}" for share in row["keep"]] + scheduled)
    yield "seeds", str(row["seeds"])
    yield "recipe", _pairs(row["recipe"])
    for name, changes in row["changes"].items():
        yield f"  {name}", _pairs(changes)
    if row["budget"]:
        yield "budget", _pairs(row["budget"])
    yield "results", f"checked in: dpbench leaderboard {row['name']}" if row["results"] else "none are checked in"
    yield "try", f"dpbench run {row['name']}"


def _subset(name: str) -> Row:
    found = dataclasses.asdict(published_lists.lists()[name])
    share = f"{found['size']:,} of {found['n']:,} samples of {found['dataset']}"
    said = {"summary": f"sha256 {found['sha256'][:12]}, {found['paper']}"}
    return found | said | {"description": f"A published list of {share}: {found['paper']}."}


def _subset_facts(row: Row) -> Iterator[tuple[str, str]]:
    yield "file", row["source"]
    yield "sha256", row["sha256"]
    yield "try", f"dpbench run --from {row['source'].rpartition('/')[2]} --dataset {row['dataset']} --method uniform"


def _pairs(values: Row) -> str:
    return ", ".join(f"{key} {_plain(value)}" for key, value in values.items())


_DESCRIBE: dict[str, Callable[[str], Row]] = {
    "methods": _method,
    "datasets": _dataset,
    "models": _model,
    "grids": _grid,
    "subsets": _subset,
}
_FACTS: dict[str, Callable[[Row], Iterator[tuple[str, str]]]] = {
    "methods": _method_facts,
    "datasets": lambda row: iter([("file", row["file"])]),
    "models": lambda row: iter([("file", row["file"])]),
    "grids": _grid_facts,
    "subsets": _subset_facts,
}


def _summary(thing: Any) -> str:
    """The first line of the docstring."""
    return (inspect.getdoc(thing) or "").split("\n")[0]


def _file(thing: Any) -> str:
    """The file that a class or function was read from, empty where there is none."""
    try:
        return inspect.getsourcefile(thing) or ""
    except TypeError:
        return ""


def _parameters(cls: Any) -> list[Row]:
    """Name, default and declared range of every field."""
    return [{"name": field.name, "default": field.default, **field.metadata} for field in dataclasses.fields(cls)]
