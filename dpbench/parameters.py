"""Parameters as text, and an object made from them: each of its default's kind, and in the range that it declares."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from typing import Any

import yaml

from dpbench.errors import UsageError
from dpbench.plain_yaml import brief, load

MOST = 100  # names that a message lists
_BEFORE_A_VALUE = re.compile(r"[^=]*=\s*")
_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""")  # as YAML writes it


def items_of(body: str) -> list[str] | None:
    """Split at the commas outside of quoted values and of inner brackets, which belong to a value.

    None where brackets or quotes do not match.
    """
    items, depth, at = [""], 0, 0
    while at < len(body):
        char, quoted = body[at], None
        if char in "'\"" and depth == 0 and _BEFORE_A_VALUE.fullmatch(items[-1]):
            quoted = _QUOTED.match(body, at)
            if quoted is None:
                return None
        depth += (char == "[") - (char == "]")
        if depth < 0:
            return None
        if char == "," and depth == 0:
            items.append("")
        else:
            items[-1] += quoted[0] if quoted else char
        at = quoted.end() if quoted else at + 1
    return items if depth == 0 else None


def value_of(written: str, text: str) -> Any:
    """Read a scalar, which stands in `text`, as YAML does, and 1e-5 as the number that YAML 1.1 does not see in it."""
    if _EXPONENT.fullmatch(written):
        return float(written)
    try:
        value, _ = load(written, text)
    except UsageError:
        value = [written]
    if isinstance(value, list | dict):
        raise UsageError(f"cannot read the value {written!r} in {text!r}; it is a number, a word, true, false or null")
    return value


def written(value: Any) -> str:
    """Write a scalar as `value_of` reads it, in quotes where `items_of` would not leave it in one piece."""
    plain: str = yaml.safe_dump(value, width=float("inf")).splitlines()[0]
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return f"'{plain}'"
    if isinstance(value, str) and (not value.isprintable() or items_of(f"={plain}") != [f"={plain}"]):
        plain = yaml.safe_dump(value, width=float("inf"), default_style='"').splitlines()[0]
    return plain


def build(cls: Any, name: str, params: dict[str, Any]) -> Any:
    """Make an object of a dataclass from its parameters, each checked, and each default, against its declared range."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for field in fields.values():
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{name}: {field.name} has no default; write {field.name} = param(...)")
        if field.metadata:
            _checked(f"{name}: the default", field, field.default)
    for key in params:
        if key not in fields:
            raise unknown(f"parameter of {name}", key, list(fields))
    values = {key: _checked(f"{name}:", fields[key], value) for key, value in params.items()}
    try:
        return cls(**values)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{name}: making it raised {type(error).__name__}: {error}") from error


def _checked(of: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """Return the value as the default's kind; refuse one of another kind or outside the range."""
    meta, default = field.metadata, field.default
    where = f"{of} {field.name} = {value!r}"
    if value is None and default is None:
        return None
    if meta.get("choices") is not None:
        if value not in meta["choices"]:
            raise UsageError(f"{where} is not one of {', '.join(map(str, meta['choices']))}")
        return meta["choices"][meta["choices"].index(value)]  # 3 is written 3.0 if that is the choice
    number = check_kind(where, value, default)
    low, high = (end if meta.get(key) is None else meta[key] for key, end in (("low", -math.inf), ("high", math.inf)))
    if number and not low <= value <= high:
        raise UsageError(f"{where} is outside [{low}, {high}]")
    return float(value) if isinstance(default, float) else value


def check_kind(where: str, value: Any, default: Any) -> bool:
    """Refuse a value of another kind than the default; tell whether it is a number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool):
        fits, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, str):
        fits, kind = isinstance(value, str), "text"
    elif isinstance(default, int):
        fits, kind = number and isinstance(value, int), "a whole number"
    elif isinstance(default, float) or default is None:
        fits, kind = number, "a number"
    else:
        return number  # what an author's own model takes
    if not fits:
        raise UsageError(f"{where} is not {kind}")
    return number


def unknown(what: str, name: str, names: list[str]) -> UsageError:
    """Say what is not known and which names come nearest."""
    near = difflib.get_close_matches(name, names, n=3)
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names[:MOST]) or 'none'}{more}"
    if near and what in ("method", "dataset", "model", "grid"):
        hint += f" dpbench list {what}s shows all"
    return UsageError(f"unknown {what} {brief(name)}; {hint}")
