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


def check_declared(method: PruningMethod, name: str) -> None:
    """Refuse a method whose attributes are not what the interface says."""
    from dpbench.method import Proxy
    from dpbench.signals import check_names

    def whole(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    def share(value: Any) -> bool:
        return isinstance(value, int | float) and 0 <= value <= 1

    def window(value: Any) -> bool:
        return isinstance(value, tuple | list) and len(value) == 2 and all(map(share, value)) and value[0] <= value[1]

    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "needs": (lambda v: isinstance(v, set | frozenset), "a set of signals, as frozenset({'loss'})"),
        "proxy": (lambda v: v is None or isinstance(v, Proxy), "a Proxy or None"),
        "period": (lambda v: whole(v, 0), "a whole number of epochs, 0 to select once"),
        "pool": (lambda v: whole(v, 1), "a whole number of batches, at least 1"),
        "window": (window, "two shares of the training, (start, end) with 0 <= start <= end <= 1"),
        "keep": (lambda v: v is None or (share(v) and v > 0), "a share in (0, 1] or None"),
        **dict.fromkeys(("online", "refreshes", "exact"), (lambda v: isinstance(v, bool), "True or False")),
    }
    for attribute, (fits, kind) in rules.items():
        try:
            value = getattr(method, attribute)
        except Exception as error:
            raise UsageError(f"{name}: its {attribute} raised {type(error).__name__}: {error}") from error
        if not fits(value):
            raise UsageError(f"{name}: {attribute} = {value!r} is not {kind}")
    try:
        check_names(method.needs)
    except UsageError as error:
        raise UsageError(f"{name}: needs: {error}") from None
