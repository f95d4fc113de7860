"""What others wrote is taken in with care: its import, and what its classes declare."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dpbench.errors import UsageError
from dpbench.processes import ends_process

if TYPE_CHECKING:
    from dpbench.method import PruningMethod


def load(name: str, path: str, load: Callable[[], Any], ours: bool) -> Any:
    """Import by `load` what plug-in `name` has in the module `path`; what goes wrong is one line.

    A plug-in that is not `ours` is imported by a child process first, which it may end.
    """
    from dpbench import isolation

    changed: list[str] = []
    ended = None
    try:
        if path in sys.modules:
            return load()
        if not ours:
            ended = ends_process(load)
        if ended is None:
            with isolation.observed(changed):
                found = load()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{name}: importing it raised {type(error).__name__}: {error}") from error
    if ended is not None:
        raise UsageError(f"{name}: its import ended the process {ended}")
    changed = [what for what in changed if what not in isolation.GENERATORS]
    if changed:
        sys.modules.pop(path, None)  # else the next import would change nothing and pass
        raise UsageError(f"{name}: importing it changed {', '.join(changed)}; other plug-ins share it")
    return found


def check_stated(method: PruningMethod, name: str) -> None:
    """Refuse a method that does not state what it requires, or requires unknown signals."""
    from dpbench.method import Requires
    from dpbench.signals import MEMBER, check_names

    try:
        stated = method.requires()
    except Exception as error:
        raise UsageError(f"{name}: requires() raised {type(error).__name__}: {error}") from error
    if not isinstance(stated, Requires):
        raise UsageError(f"{name}: requires() returned {stated!r}, not what it requires; write return Requires(...)")
    try:
        of_steps = {MEMBER} if stated.proxy is not None and stated.proxy.hardest else set()
        after_proxy = stated.proxy is not None and stated.proxy.at != "steps"
        check_names(stated.signals - of_steps, after_proxy)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
