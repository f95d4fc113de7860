"""YAML that people write: mappings, lists and scalars of a modest size. All YAML that dpbench reads comes through here.

What a grid has no use for and a reader can be hurt by is refused: anchors and aliases (which can stand for billions of
values), tags, keys given twice, deep nesting, numbers of thousands of digits. Dates are text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dpbench.errors import UsageError

BYTES = 100_000  # of a file
DEPTH = 20  # lists and mappings within one another
DIGITS = 100  # of a number
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null")}


class _Loader(yaml.SafeLoader):
    """SafeLoader without what is refused; it raises nothing but YAMLError."""

    yaml_implicit_resolvers = {
        first: [(tag, shape) for tag, shape in pairs if tag in _TAGS]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refused("anchors and aliases (& and *) are not read; write the value out", event)
        if getattr(event, "tag", None) is not None:
            raise _refused("tags (!) are not read", event)
        self.depth += 1
        if self.depth > DEPTH:
            raise _refused(f"lists and mappings are nested more than {DEPTH} deep", event)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key is a word, no list and no mapping", key)
            if key.value in seen:
                raise _refused(f"the key {brief(key.value)} is given twice", key)
            seen.add(key.value)
        return node


class _Refused(yaml.MarkedYAMLError):
    """What is YAML and not for here."""


def _refused(reason: str, at: Any) -> _Refused:
    return _Refused(problem=reason, problem_mark=at.start_mark)


def _number(build: Callable[[Any, Any], float]) -> Callable[[Any, Any], float]:
    """What reads a number as `build` does; not all that has the shape of one can be read (0x_)."""

    def construct(loader: Any, node: Any) -> float:
        try:
            if len(node.value) <= DIGITS:
                return build(loader, node)
        except (ValueError, OverflowError):
            pass
        raise _refused(f"{brief(node.value)} cannot be read as a number", node)

    return construct


_Loader.add_constructor("tag:yaml.org,2002:int", _number(yaml.SafeLoader.construct_yaml_int))
_Loader.add_constructor("tag:yaml.org,2002:float", _number(yaml.SafeLoader.construct_yaml_float))


def brief(value: Any, width: int = 80) -> str:
    """The value's repr, cut, for a message."""
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def load(text: str, where: str) -> tuple[Any, yaml.Node | None]:
    """Return the content of a YAML text, and its nodes, which know their lines; UsageError begins with where:line."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(node), node
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = where if mark is None else f"{where}:{mark.line + 1}"
        reason = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise UsageError(f"{at}: {'' if isinstance(error, _Refused) else 'not YAML: '}{reason}") from None


def read(path: Path) -> str:
    """Return the text of a file; UsageError for one that is none, is too large or is not UTF-8."""
    try:
        if not path.exists():
            raise UsageError(f"no file {path}")
        if not path.is_file():
            raise UsageError(f"{path} is not a file")
        if path.stat().st_size > BYTES:
            raise UsageError(f"{path} has {path.stat().st_size:,} bytes; at most {BYTES:,} are read")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start + 1} is not UTF-8, in which grids are written") from None
