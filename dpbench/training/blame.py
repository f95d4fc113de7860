"""Where in its author's code a method went wrong, and what to write there instead."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpbench.method import PruningMethod, Signals


def place(method: PruningMethod, function: Callable[..., Any], error: BaseException | None = None) -> str:
    """Name the innermost line in the method's folder that `error` came through, as " (FILE, line N)".

    Where there is none it is where the function begins, or else the class; empty for code that is in no file.
    """
    try:
        source, (_, class_line) = inspect.getfile(type(method)), inspect.getsourcelines(type(method))
    except (OSError, TypeError):
        return ""
    lines = [(source, class_line)]
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is not None:
        lines.append((code.co_filename, code.co_firstlineno))
    if error is not None:
        lines += [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    folder = Path(source).resolve().parent
    file, line = next(found for found in reversed(lines) if Path(found[0]).resolve().parent == folder)
    return f" ({Path(file).name}, line {line})"


def remedy(method: PruningMethod, error: BaseException, args: tuple[Any, ...]) -> str:
    """What to write instead, or what the call was given, as far as either is known; begins with "; "."""
    if isinstance(error, AttributeError) and error.obj is method:
        if error.name in ("task", "rng"):
            return "; begin setup with super().setup(task, rng)"
        return f"; what a method remembers is made in setup: self.{error.name} = ..."
    for given in args:
        if isinstance(given, Signals) and isinstance(error, RuntimeError | IndexError | ValueError | TypeError):
            shapes = {"indices": given.indices} | given.values
            held = ", ".join(f"{name} {tuple(values.shape)}" for name, values in shapes.items())
            return f"; it was given {held}, of {method.task.n} samples"
    return ""
