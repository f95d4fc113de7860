"""A method's answers: every call of one goes through `call`, and what comes back is checked here."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from dpbench import isolation
from dpbench.errors import MethodFailed, RunFailed, UsageError
from dpbench.method import Picks, PruningMethod, Selection
from dpbench.training import blame
from dpbench.training.rows import mask

T = TypeVar("T")


def call(
    method: PruningMethod,
    name: str,
    function: Callable[..., T],
    *args: Any,
    fault: Callable[[T], str | None] = lambda _: None,
    each_step: bool = False,
) -> T:
    """Call one function of a method; an exception, or an answer with a `fault`, becomes a MethodFailed.

    Its message names the method, the call, the line in the author's code, and where it can, how to mend it. What the
    machine lacks, memory or a file, is no fault of the method: RunFailed.
    """
    title = f"{type(method).__name__}.{name}"
    try:
        with isolation.watched(title, each_step=each_step):
            answer = function(*args)
    except (RunFailed, UsageError):
        raise
    except (Exception, SystemExit) as error:
        kind = RunFailed if isinstance(error, OSError | MemoryError | torch.OutOfMemoryError) else MethodFailed
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        place, remedy = blame.place(method, function, error), blame.remedy(method, error, args)
        raise kind(f"{title} raised {said}{place}{remedy}") from error
    if found := fault(answer):
        raise MethodFailed(f"{title} {found}{blame.place(method, function)}")
    return answer


def selection_fault(selection: Any, n: int) -> str | None:
    """What keeps an answer from being a valid selection of rows of range(n), and a way to mend it; None if nothing."""
    if selection is None:
        return "returned None, not a Selection; is a return missing?"
    if not isinstance(selection, Selection):
        return f"returned {type(selection).__name__}, not a Selection; write return Selection(indices)"
    if fault := _unique_rows_fault(selection.indices, n):
        return f"returned indices {fault}"
    if fault := _weights_fault(selection.weights, selection.indices, "indices"):
        return fault
    if selection.refresh is not None and (fault := _unique_rows_fault(selection.refresh, n)):
        return f"returned refresh {fault}"
    if not isinstance(selection.lr_scale, Real) or not 0 < selection.lr_scale < float("inf"):
        return f"returned lr_scale = {selection.lr_scale}; it must be positive and finite"
    return None


def pick_fault(picked: Any, b: int) -> str | None:
    """What keeps an answer from being valid picks of a batch of `b` samples, and a way to mend it; None if nothing."""
    if picked is None:
        return "returned None, not Picks; is a return missing?"
    if not isinstance(picked, Picks):
        return (
            f"returned {type(picked).__name__}, not Picks; pick answers with positions in the batch, from 0 on: "
            "return Picks(positions)"
        )
    if fault := _unique_rows_fault(picked.positions, b, "positions"):
        return f"returned positions {fault}" + "; pick answers with positions in the batch" * ("outside" in fault)
    return _weights_fault(picked.weights, picked.positions, "positions")


def _weights_fault(weights: Any, rows: Tensor, name: str) -> str | None:
    if weights is None:
        return None
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        return "returned weights that are not a floating-point tensor"
    if weights.shape != rows.shape:
        shapes = f"{tuple(weights.shape)} for {name} of shape {tuple(rows.shape)}"
        return f"returned weights of shape {shapes}; one weight a sample, in their order"
    return None if (weights.isfinite() & (weights >= 0)).all() else "returned a weight that is negative or not finite"


def _unique_rows_fault(indices: Any, n: int, name: str = "indices") -> str | None:
    if isinstance(indices, Tensor) and indices.device.type != "cpu":
        return f"on {indices.device}; a method answers on the CPU: {name}.cpu()"
    if fault := rows_fault(indices, n, name):
        return fault
    repeated = len(indices) - int(mask(indices, n).count_nonzero())
    return f"with {repeated} repeated; each sample is named once" if repeated else None


def rows_fault(indices: Any, n: int, name: str = "indices") -> str | None:
    """What keeps `indices` from being rows (k,) int64 of range(n), None where nothing does."""
    needed = "a tensor of int64 of shape (k,) is needed"
    if not isinstance(indices, Tensor):
        return f"that are {type(indices).__name__}; {needed}: torch.as_tensor({name})"
    if indices.dtype != torch.int64 or indices.dim() != 1:
        rewrite = {torch.int64: "flatten()", torch.bool: "nonzero().flatten()"}.get(indices.dtype, "long()")
        return f"that are {indices.dtype} of shape {tuple(indices.shape)}; {needed}: {name}.{rewrite}"
    if len(indices):
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= n:
            return f"with {low if low < 0 else high}, which is outside 0..{n - 1}"
    return None


def surrogate_fault(weights: Any, n: int) -> str | None:
    """What keeps an answer from being the weights (n,) of a surrogate loss."""
    if weights is None:
        return None
    got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
    if got == (n,) and weights.isfinite().all() and weights.min() >= 0 and weights.sum() > 0:
        return None
    shape = f"shape {got}" if isinstance(weights, Tensor) else got
    return f"must return weights ({n},) that are finite, not negative and not all zero, got {shape}"
