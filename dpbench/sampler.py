"""From a method's answer to the order of an epoch: when to ask, is the answer valid, in which batches to train.

The runner and `PruningSampler` ask a method through these functions alone, so that both refuse the same.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from dpbench import blame, isolation
from dpbench.errors import MethodFailed, RunFailed, UsageError
from dpbench.method import PruningMethod, Selection, Signals, Task

T = TypeVar("T")
Passed: TypeAlias = tuple[Tensor, dict[str, Tensor]]  # rows on the device and the signals measured on them


def call(
    method: PruningMethod,
    name: str,
    function: Callable[..., T],
    *args: Any,
    fault: Callable[[T], str | None] = lambda _: None,
) -> T:
    """Call one function of a method; an exception, or an answer with a `fault`, becomes a MethodFailed.

    Its message names the method, the call, the line in the author's code, and where it can, how to mend it. What the
    machine lacks, memory or a file, is no fault of the method: RunFailed.
    """
    title = f"{type(method).__name__}.{name}"
    try:
        with isolation.watched(title, each_step=method.online or name.startswith("pick")):
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


def set_up(method: PruningMethod, task: Task, rng: torch.Generator) -> None:
    """Start a method afresh for `task`."""

    def fault(_: None) -> str | None:
        whole = {"task", "rng"} <= vars(method).keys()
        return None if whole else "did not call super().setup(task, rng); begin it with that line"

    call(method, "setup", method.setup, task, rng, fault=fault)


def training_epochs(method: PruningMethod) -> int:
    """How many epochs the method trains."""

    def fault(epochs: Any) -> str | None:
        return None if isinstance(epochs, int) and epochs >= 1 else f"returned {epochs!r}; at least 1 is needed"

    return call(method, "epochs", method.epochs, method.task, fault=fault)


def needed_in_training(method: PruningMethod) -> frozenset[str]:
    """The signals that the training must compute: none for a method that has selected for good before it."""
    decided = method.period == 0 and method.window[0] == 0 and not method.picks()
    return frozenset() if decided else method.needs


def observe(method: PruningMethod, passes: list[Passed], epoch: int, proxy_run: int | None = None) -> None:
    """Tell the method what forward passes of `epoch` have measured, in the training or in a proxy's."""
    call(method, f"observe(epoch={epoch})", method.observe, join(passes, epoch, proxy_run))


def pick(
    method: PruningMethod, rows: Tensor, values: dict[str, Tensor], epoch: int, rng: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Ask a batch-level method which of the forwarded `rows` go backward: their positions, none maybe, and weights."""
    signals = join([(rows, values)], epoch)
    picked = call(method, f"pick(epoch={epoch})", method.pick, signals, rng, fault=lambda a: pick_fault(a, len(rows)))
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
            self.selection = call(
                self.method, f"select(epoch={epoch})", self.method.select, epoch, fault=self._select_fault
            )
            self.asked = epoch
        return self.selection

    def _select_fault(self, selection: Selection) -> str | None:
        found = selection_fault(selection, self.method.task.n)
        return "selected no samples" if found is None and len(selection.indices) == 0 else found

    def state_dict(self) -> dict[str, Any]:
        """The selection in force."""
        return {"asked": self.asked, "selection": vars(self.selection)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.asked = state["asked"]
        self.selection = Selection(**state["selection"])


def selection_fault(selection: Any, n: int) -> str | None:
    """What keeps an answer from being a valid selection of rows of range(n), and a way to mend it; None if nothing."""
    if selection is None:
        return "returned None, not a Selection; is a return missing?"
    if not isinstance(selection, Selection):
        return f"returned {type(selection).__name__}, not a Selection; write return Selection(indices)"
    weights = selection.weights
    if fault := _unique_rows_fault(selection.indices, n):
        return f"returned indices {fault}"
    if weights is not None:
        if not isinstance(weights, Tensor) or not weights.is_floating_point():
            return "returned weights that are not a floating-point tensor"
        if weights.shape != selection.indices.shape:
            return (
                f"returned weights of shape {tuple(weights.shape)} "
                f"for indices of shape {tuple(selection.indices.shape)}; one weight a sample, in their order"
            )
        if not bool((weights.isfinite() & (weights >= 0)).all()):
            return "returned a weight that is negative or not finite"
    if selection.refresh is not None and (fault := _unique_rows_fault(selection.refresh, n)):
        return f"returned refresh {fault}"
    if not isinstance(selection.lr_scale, Real) or not 0 < selection.lr_scale < float("inf"):
        return f"returned lr_scale = {selection.lr_scale}; it must be positive and finite"
    return None


def pick_fault(picked: Any, b: int) -> str | None:
    """The same for an answer to a batch of `b` samples."""
    fault = selection_fault(picked, b)
    return f"{fault}; pick answers with positions in the batch" if fault and "outside" in fault else fault


def _unique_rows_fault(indices: Any, n: int) -> str | None:
    if isinstance(indices, Tensor) and indices.device.type != "cpu":
        return f"on {indices.device}; a method answers on the CPU: indices.cpu()"
    if fault := rows_fault(indices, n):
        return fault
    repeated = len(indices) - int(mask(indices, n).count_nonzero())
    return f"with {repeated} repeated; each sample is named once" if repeated else None


def rows_fault(indices: Any, n: int) -> str | None:
    """What keeps `indices` from being rows (k,) int64 of range(n), None where nothing does."""
    needed = "a tensor of int64 of shape (k,) is needed"
    if not isinstance(indices, Tensor):
        return f"that are {type(indices).__name__}; {needed}: torch.as_tensor(indices)"
    if indices.dtype != torch.int64 or indices.dim() != 1:
        rewrite = {torch.int64: "flatten()", torch.bool: "nonzero().flatten()"}.get(indices.dtype, "long()")
        return f"that are {indices.dtype} of shape {tuple(indices.shape)}; {needed}: indices.{rewrite}"
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
