"""From a method's answer to the order of an epoch: when to ask, is the answer valid, in which batches to train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from dpbench.errors import RunFailed, UsageError
from dpbench.method import PruningMethod, Selection, Signals

T = TypeVar("T")


def call(method: PruningMethod, name: str, function: Callable[..., T], *args: Any) -> T:
    """Call one function of a method; an exception becomes a RunFailed that names the method and the call."""
    try:
        return function(*args)
    except (RunFailed, UsageError):
        raise
    except Exception as error:
        raise RunFailed(f"{type(method).__name__}.{name} raised {type(error).__name__}: {error}") from error


def everything(n: int) -> Selection:
    """The selection of all samples."""
    return Selection(torch.arange(n))


class Selector:
    """Asks a method for the selection of each epoch: every `period` epochs and inside its window only."""

    def __init__(self, method: PruningMethod) -> None:
        self.method = method
        self.asked: int | None = None  # the epoch of the selection in force
        self.selection = everything(method.task.n)

    def select(self, epoch: int, start: float, end: float) -> Selection:
        """Return the valid selection of `epoch`, which takes the training from progress `start` to `end`."""
        tolerance = 1e-9
        low, high = self.method.window
        if start < low - tolerance or end > high + tolerance:
            return everything(self.method.task.n)
        period = self.method.period
        if self.asked is None or (period > 0 and epoch - self.asked >= period):
            selection = call(self.method, f"select(epoch={epoch})", self.method.select, epoch)
            self.selection = check_selection(
                selection, self.method.task.n, f"{type(self.method).__name__}.select(epoch={epoch})"
            )
            self.asked = epoch
        return self.selection

    def state_dict(self) -> dict[str, Any]:
        """The selection in force."""
        return {"asked": self.asked, "selection": vars(self.selection)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.asked = state["asked"]
        self.selection = Selection(**state["selection"])


def check_selection(selection: Selection, n: int, where: str) -> Selection:
    """Refuse an answer that is not a valid selection of rows of range(n); `where` names the method and the call."""
    if not isinstance(selection, Selection):
        raise RunFailed(f"{where} returned {type(selection).__name__}, not a Selection")
    _check_indices(selection.indices, n, where, "indices")
    weights = selection.weights
    if weights is not None:
        if not isinstance(weights, Tensor) or not weights.is_floating_point():
            raise RunFailed(f"{where} returned weights that are not a floating-point tensor")
        if weights.shape != selection.indices.shape:
            raise RunFailed(
                f"{where} returned weights of shape {tuple(weights.shape)} "
                f"for indices of shape {tuple(selection.indices.shape)}"
            )
        if not bool((weights.isfinite() & (weights >= 0)).all()):
            raise RunFailed(f"{where} returned a weight that is negative or not finite")
    if selection.refresh is not None:
        _check_indices(selection.refresh, n, where, "refresh")
    if not 0 < selection.lr_scale < float("inf"):
        raise RunFailed(f"{where} returned lr_scale = {selection.lr_scale}; it must be positive and finite")
    return selection


def _check_indices(indices: Any, n: int, where: str, what: str) -> None:
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64 or indices.dim() != 1:
        got = (
            f"{indices.dtype} of shape {tuple(indices.shape)}"
            if isinstance(indices, Tensor)
            else type(indices).__name__
        )
        raise RunFailed(f"{where} returned {what} that are {got}; a tensor of int64 of shape (k,) is needed")
    if len(indices) == 0:
        return
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= n:
        raise RunFailed(f"{where} returned {what} with {low if low < 0 else high}, which is outside 0..{n - 1}")
    repeated = len(indices) - int(mask(indices, n).count_nonzero())
    if repeated:
        raise RunFailed(f"{where} returned {what} with {repeated} repeated")


def mask(indices: Tensor, n: int) -> Tensor:
    """(n,) bool, true at `indices`."""
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[indices] = True
    return chosen


def order(indices: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Shuffle `indices`: their order in one permutation of all n, so that paired runs order common samples alike."""
    permutation = torch.randperm(n, generator=rng)
    return permutation[mask(indices, n)[permutation]]


def batches(rows: Tensor, size: int) -> list[Tensor]:
    """Cut into batches of `size`; a last batch of one joins the one before it, since batch normalisation needs two."""
    parts = list(rows.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def join(passes: list[tuple[Tensor, dict[str, Tensor]]], epoch: int, proxy_run: int | None = None) -> Signals:
    """Join what several forward passes measured into one Signals on the CPU."""
    names = passes[0][1].keys()
    indices = torch.cat([rows for rows, _ in passes]).cpu()
    return Signals(
        indices, {name: torch.cat([values[name] for _, values in passes]).cpu() for name in names}, epoch, proxy_run
    )
