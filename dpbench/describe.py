"""What there is: methods, datasets, models and grids with their parameters, as rows for people and programs."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from dpbench import catalog
from dpbench.errors import UsageError


def rows(kind: str) -> list[dict[str, Any]]:
    """Describe everything of one kind; what cannot be loaded or described is listed with its error."""
    names = {
        "methods": catalog.method_names,
        "datasets": catalog.dataset_names,
        "models": catalog.model_names,
        "grids": catalog.grid_names,
    }[kind]()
    found = []
    for name in names:
        try:
            found.append({"name": name} | _DESCRIBE[kind](name))
        except UsageError as error:
            found.append({"name": name, "error": str(error)})
        except (Exception, SystemExit) as error:  # whatever a plug-in raises
            found.append({"name": name, "error": f"{type(error).__name__}: {error}"})
    return found


def table(found: list[dict[str, Any]]) -> Table:
    """A table of the short columns."""
    named = dict.fromkeys(name for row in found for name in row)
    names = [name for name in named if name not in ("parameters", "needs", "paper")]
    view = Table(box=box.SIMPLE_HEAD)
    for name in [*names, "parameters"]:
        view.add_column(name, overflow="fold", no_wrap=name == "name")
    for row in found:
        parameters = ", ".join(f"{p['name']}={p['default']}" for p in row.get("parameters", []))
        view.add_row(*[escape(str(row.get(name, ""))) for name in names], escape(parameters))
    return view


def _method(name: str) -> dict[str, Any]:
    method, cls = catalog.load_method(name), catalog.method_class(name)
    return {
        "kind": method.kind(),
        "saves": method.saves(),
        "summary": _summary(cls),
        "needs": sorted(method.needs),
        "parameters": _parameters(cls),
        "paper": cls.paper,
        "year": cls.year,
    }


def _dataset(name: str) -> dict[str, Any]:
    catalog.load_dataset(name)  # as its use would
    cls = catalog.dataset_class(name)
    return {"summary": _summary(cls), "parameters": _parameters(cls)}


def _model(name: str) -> dict[str, Any]:
    factory = catalog.model_factory(name)
    given = list(inspect.signature(factory).parameters.values())[2:]
    return {"summary": _summary(factory), "parameters": [{"name": p.name, "default": p.default} for p in given]}


def _grid(name: str) -> dict[str, Any]:
    from dpbench.spec import load_grid

    grid = load_grid(name)
    return {
        "summary": grid.description,
        "datasets": grid.datasets,
        "models": grid.models,
        "methods": grid.methods,
        "keep": grid.keep,
        "seeds": grid.seeds,
    }


_DESCRIBE = {"methods": _method, "datasets": _dataset, "models": _model, "grids": _grid}


def _summary(thing: Any) -> str:
    """The first line of the docstring."""
    return (inspect.getdoc(thing) or "").split("\n")[0]


def _parameters(cls: Any) -> list[dict[str, Any]]:
    """Name, default and declared range of every field."""
    return [{"name": field.name, "default": field.default, **field.metadata} for field in dataclasses.fields(cls)]
