"""Keep plug-ins apart: the settings that all code of a process shares are given back, and who changes them is named.

What it covers: torch's and NumPy's settings, the global random generators, environment variables, the current folder,
warning filters and signal handlers. What it cannot undo is code that replaces functions or module variables of others.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import torch

from dpbench.errors import MethodFailed

_STRICT = ContextVar("strict", default=False)


class _Setting(NamedTuple):
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _write_environment(variables: dict[bytes, bytes]) -> None:
    for name in os.environb.keys() - variables.keys():
        del os.environb[name]
    for name, value in variables.items():
        if os.environb.get(name) != value:
            os.environb[name] = value


def _write_handlers(handlers: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None:  # it was not set from Python and cannot be set again
            with suppress(ValueError):  # only the main thread may
                signal.signal(number, handler)


def _write_flags(flags: dict[str, bool]) -> None:
    for name, value in flags.items():
        setattr(_CUDNN, name, value)


def _write_filters(filters: tuple[Any, ...]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]
    with warnings.catch_warnings():  # which makes Python forget what it decided by the others
        pass


_SIGNALS = [getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP", "ALRM", "CHLD", "USR1", "USR2")]
_CUDNN, _FLAGS = torch.backends.cudnn, ("enabled", "benchmark", "deterministic")
SETTINGS = {
    "torch's default dtype": _Setting(torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": _Setting(
        torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)
    ),
    "torch's number of threads": _Setting(torch.get_num_threads, torch.set_num_threads),
    "torch's gradient mode": _Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic algorithms": _Setting(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda on: torch.use_deterministic_algorithms(on[0], warn_only=on[1]),
    ),
    "torch's precision of matrix products": _Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    "cuDNN's settings": _Setting(lambda: {name: getattr(_CUDNN, name) for name in _FLAGS}, _write_flags),
    "NumPy's handling of floating-point errors": _Setting(np.geterr, lambda modes: np.seterr(**modes)),
    "environment variables": _Setting(lambda: dict(os.environb), _write_environment),
    "the current folder": _Setting(os.getcwd, os.chdir),
    "the warning filters": _Setting(lambda: tuple(warnings.filters), _write_filters),
    "signal handlers": _Setting(lambda: [signal.getsignal(number) for number in _SIGNALS], _write_handlers),
}
GENERATORS = {
    "torch's global generator": _Setting(
        lambda: torch.get_rng_state().numpy().tobytes(),
        lambda state: torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8)),
    ),
    "NumPy's global generator": _Setting(
        lambda: [part.tobytes() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        lambda state: np.random.set_state((state[0], np.frombuffer(state[1], np.uint32), *state[2:])),
    ),
    "Python's global generator": _Setting(random.getstate, random.setstate),
}
_EVERYTHING = SETTINGS | GENERATORS


class _State:
    """What the settings are now, to be given back."""

    def __init__(self, settings: dict[str, _Setting]) -> None:
        self.settings, self.modules = settings, len(sys.modules)
        self.values = {name: setting.read() for name, setting in settings.items()}

    def give_back(self) -> list[str]:
        """Set back what is not as it was; return the names of it."""
        changed = []
        for name, (read, write) in self.settings.items():
            old, new = self.values[name], _read(read)
            if new != old and not self._by_library(name, old, new):
                write(old)
                changed.append(name + _which(name, old, new))
        return changed

    def _by_library(self, name: str, old: Any, new: Any) -> bool:
        """Whether only variables or filters were added while something was imported: many libraries do so then."""
        if len(sys.modules) == self.modules:
            return False
        if name == "environment variables":
            return old.items() <= new.items()
        return name == "the warning filters" and set(old) <= set(new)


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except OSError:  # the current folder is gone
        return None


def _which(name: str, old: Any, new: Any) -> str:
    """The names of the environment variables that differ."""
    if name != "environment variables":
        return ""
    differ = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return f" ({', '.join(key.decode(errors='replace') for key in differ)})"


@contextmanager
def restored() -> Iterator[None]:
    """Give everything back as it was after the block, without a word."""
    state = _State(_EVERYTHING)
    try:
        yield
    finally:
        state.give_back()


@contextmanager
def observed(changed: list[str]) -> Iterator[None]:
    """Give everything back as it was after the block, and add the names of what was changed to `changed`."""
    state = _State(_EVERYTHING)
    try:
        yield
    finally:
        changed += state.give_back()


@contextmanager
def strict() -> Iterator[None]:
    """A block in which a method that changes what others share fails (see `watched`); what is left is given back."""
    token = _STRICT.set(True)
    try:
        with restored():
            yield
    finally:
        _STRICT.reset(token)


@contextmanager
def watched(where: str, each_step: bool = False) -> Iterator[None]:
    """Undo in a `strict` block what the call that `where` names changes, and raise MethodFailed; else do nothing.

    In what is called once a step, the generators are not looked at, which would take longer than many a step.
    """
    if not _STRICT.get():
        yield
        return
    state = _State(SETTINGS if each_step else _EVERYTHING)
    try:
        yield
    finally:
        changed = state.give_back()
    if changed:
        remedy = "draw from self.rng" if any("generator" in name for name in changed) else "other methods share it"
        raise MethodFailed(f"{where} changed {', '.join(changed)}; {remedy}")
