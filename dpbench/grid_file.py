"""Read a grid from YAML, and say of each mistake where it stands and what is allowed."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from dpbench import catalog, places, plain_yaml
from dpbench.errors import UsageError
from dpbench.plain_yaml import brief
from dpbench.recipe import Recipe
from dpbench.setting import Budget, Probe, Setting
from dpbench.spec import Grid

FAULTS = 10  # of a grid file, told at once


def load_grid(name: str) -> Grid:
    """Read a built-in grid by name, or a grid file by path."""
    if name.endswith((".yaml", ".yml")):
        return read_grid(plain_yaml.read(Path(name)), name, Path(name).stem)
    if name not in catalog.names("grids"):
        near = difflib.get_close_matches(name, catalog.names("grids"), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(catalog.names('grids'))}"
        raise UsageError(f"unknown grid {brief(name)}; {hint} A file's name ends in .yaml")
    file = places.LEADERBOARDS / f"{name}.yaml"
    return read_grid(file.read_text("utf-8"), f"leaderboards/{name}.yaml", name)


def read_grid(text: str, where: str, name: str) -> Grid:
    """Validate a grid's YAML; errors name file, line, key and what is allowed."""
    content, node = plain_yaml.load(text, where)
    if not isinstance(content, dict):
        raise UsageError(f"{where}: a grid is a mapping of {', '.join(_keys(Grid))}")
    try:
        grid = Grid.model_validate({"name": name} | content)
    except ValidationError as error:
        raise UsageError(*explained(error, where, node, Grid)) from None
    for field, there in (("recipe_by_dataset", grid.datasets), ("recipe_by_model", grid.models)):
        for other in getattr(grid, field).keys() - {*there, *(catalog.parse(text)[0] for text in there)}:
            raise UsageError(f"{where}: {field} names {brief(other)}, which is not in the grid: {', '.join(there)}")
    if grid.looks and grid.seeds not in grid.looks:
        looks = ", ".join(map(str, grid.looks))
        raise UsageError(
            f"{where}: verdicts are read at {looks} seeds only (looks); seeds: {grid.seeds} is none of them"
        )
    return grid


def change_grid(grid: Grid, changes: dict[str, Any]) -> Grid:
    """Give a grid other values, by key; errors name the key and what is allowed."""
    try:
        return Grid.model_validate(grid.model_dump() | changes)
    except ValidationError as error:
        raise UsageError("; ".join(_reason(problem) for problem in error.errors()[:FAULTS])) from None


_PARTS: dict[str, type[BaseModel]] = {"recipe": Recipe, "budget": Budget, "probe": Probe}


def _keys(model: type[BaseModel]) -> list[str]:
    rest = Setting.model_fields.keys()  # what runs have, too
    return [key for key in sorted(model.model_fields, key=rest.__contains__) if key != "name"]


def explained(error: ValidationError, where: str, node: Any, model: type[BaseModel]) -> list[str]:
    """One line for each of the first faults of a file that should hold a model, or a list of models."""
    told = [_explain(where, node, problem, model) for problem in error.errors()[:FAULTS]]
    more = error.error_count() - FAULTS
    return told + [f"{where}: and {more} more faults"] * (more > 0)


def _explain(where: str, node: Any, problem: Any, model: type[BaseModel]) -> str:
    """One line for one validation error: file:line: key: what is wrong and what is allowed."""
    location = problem["loc"]
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        if problem["type"] == "extra_forbidden" and part != location[-1]:
            model = _PARTS.get(str(part), model)
    key = ".".join(map(str, location))
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _keys(model), n=1)
        hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(_keys(model))}"
        return f"{where}:{line}: unknown key {_shown(key)}; {hint}"
    return f"{where}:{line}: {_reason(problem)}"


def _reason(problem: Any) -> str:
    """What is wrong with a value, without its place in a file."""
    key = _shown(".".join(map(str, problem["loc"])))
    if problem["type"] == "missing":
        return f"{key} is missing"
    told = problem["type"] == "value_error" or isinstance(problem["input"], dict)
    given = "" if told else f", not {brief(problem['input'])}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:] + given
    return f"{key}: {message}" if key else message


def _shown(key: str) -> str:
    """A key, readable though it may be a stranger's."""
    return key if key.isprintable() and len(key) <= 80 else brief(key)
