"""From a method's answer to the order of an epoch: when to ask, is the answer valid, in which batches to train.

The runner and `PruningSampler` ask a method through these functions alone, so that both refuse the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from dpbench import isolation
from dpbench.errors import RunFailed, UsageError
from dpbench.method import PruningMethod, Selection, Signals

T = TypeVar("T")
Passed: TypeAlias = tuple[Tensor, dict[str, Tensor]]  # rows on the device and the signals measured on them


def call(method: PruningMethod, name: str, function: Callable[..., T], *args: Any) -> T:
    """Call one function of a method; an exception becomes a RunFailed that names the method and the call."""
    try:
        with isolation.watched(f"{type(method).__name__}.{name}", each_step=method.online or name.startswith("pick")):
            return function(*args)
    except (RunFailed, UsageError):
        raise
    except (Exception, SystemExit) as error:
        raise RunFailed(f"{type(method).__name__}.{name} raised {type(error).__name__}: {error}") from error


def training_epochs(method: PruningMethod) -> int:
    """How many epochs the method trains."""
    epochs = call(method, "epochs", method.epochs, method.task)
    if not isinstance(epochs, int) or epochs < 1:
        raise RunFailed(f"{type(method).__name__}.epochs returned {epochs!r}; at least 1 is needed")
    return epochs


def needed_in_training(method: PruningMethod) -> frozenset[str]:
    """The signals that the training must compute: none for a method that has selected for good before it."""
    decided = method.period == 0 and method.window[0] == 0 and not method.picks()
    return frozenset() if decided else method.needs


def observe(method: PruningMethod, passes: list[Passed], epoch: int) -> None:
    """Tell the method what forward passes of `epoch` have measured."""
    call(method, f"observe(epoch={epoch})", method.observe, join(passes, epoch))


def pick(
    method: PruningMethod, rows: Tensor, values: dict[str, Tensor], epoch: int, rng: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Ask a batch-level method which of the forwarded `rows` go backward: their positions, none maybe, and weights."""
    name = f"pick(epoch={epoch})"
    picked = call(method, name, method.pick, join([(rows, values)], epoch), rng)
    check_selection(picked, len(rows), f"{type(method).__name__}.{name}")
    weights = None if picked.weights is None else picked.weights.float().to(rows.device)
    return picked.indices.to(rows.device), weights


def everything(n: int) -> Selection:
    """The selection of all samples."""
    return Selection(torch.arange(n))


class Selector:
    """Asks a method for the selection of each epoch: every `period` epochs and inside its window only."""

    def __init__(self, method: PruningMethod) -> None:
        self.method = method
        self.asked: int | None = None  # the epoch of the selection in force
        self.selection = everything(method.task.n)

    def select(self, epoch: int, start: float, end: float, again: bool = False) -> Selection:
        """Return the valid selection of `epoch`, which takes the training from progress `start` to `end`.

        A training that goes back to an epoch before the selection in force, or `again` to one that is over, gets a
        new selection from a method that makes more than one.
        """
        tolerance = 1e-9
        low, high = self.method.window
        if start < low - tolerance or end > high + tolerance:
            return everything(self.method.task.n)
        period = self.method.period
        if self.asked is None or (period > 0 and (again or not 0 <= epoch - self.asked < period)):
            where = f"{type(self.method).__name__}.select(epoch={epoch})"
            selection = call(self.method, f"select(epoch={epoch})", self.method.select, epoch)
            check_selection(selection, self.method.task.n, where)
            if len(selection.indices) == 0:
                raise RunFailed(f"{where} selected no samples")
            self.selection, self.asked = selection, epoch
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
    fault = rows_fault(indices, n)
    if fault is None and len(indices):
        repeated = len(indices) - int(mask(indices, n).count_nonzero())
        fault = f"with {repeated} repeated" if repeated else None
    if fault is not None:
        raise RunFailed(f"{where} returned {what} {fault}")


def rows_fault(indices: Any, n: int) -> str | None:
    """What keeps `indices` from being rows (k,) int64 of range(n), None where nothing does."""
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64 or indices.dim() != 1:
        got = (
            f"{indices.dtype} of shape {tuple(indices.shape)}"
            if isinstance(indices, Tensor)
            else type(indices).__name__
        )
        return f"that are {got}; a tensor of int64 of shape (k,) is needed"
    if len(indices):
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= n:
            return f"with {low if low < 0 else high}, which is outside 0..{n - 1}"
    return None


def spread(selection: Selection, n: int) -> Tensor | None:
    """The weights of a selection as (n,), 0 for what is not selected; None where all are 1."""
    if selection.weights is None:
        return None
    weights = torch.zeros(n)
    weights[selection.indices] = selection.weights.float()
    return weights


def mask(indices: Tensor, n: int) -> Tensor:
    """(n,) bool, true at `indices`."""
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[indices] = True
    return chosen


def order(indices: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Shuffle `indices`: their order in one permutation of all n, so that paired runs order common samples alike."""
    permutation = torch.randperm(n, generator=rng)
    return permutation[mask(indices, n)[permutation]]


def batches(rows: Tensor, size: int, drop_last: bool = False) -> list[Tensor]:
    """Cut into batches of `size`; a last batch of one joins the one before it, since batch normalisation needs two.

    Where batches of one are asked for, all are of one. `drop_last` drops what does not fill a batch.
    """
    parts = list(rows.split(size))
    if drop_last:
        return [part for part in parts if len(part) == size]
    if len(parts) > 1 and len(parts[-1]) == 1 < size:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def join(passes: list[Passed], epoch: int, proxy_run: int | None = None) -> Signals:
    """Join what several forward passes measured into one Signals on the CPU."""
    names = passes[0][1].keys()
    indices = torch.cat([rows for rows, _ in passes]).cpu()
    return Signals(
        indices, {name: torch.cat([values[name] for _, values in passes]).cpu() for name in names}, epoch, proxy_run
    )


def to_cpu(value: Any) -> Any:
    """Move all tensors in nested lists, tuples and dicts of a saved state to the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: to_cpu(item) for key, item in value.items()}
    return type(value)(to_cpu(item) for item in value) if isinstance(value, list | tuple) else value
