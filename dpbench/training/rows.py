"""Rows of a data set: their order and batches in an epoch, as masks, and with what was measured on them."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from dpbench.method import Selection, Signals

Passed: TypeAlias = tuple[Tensor, dict[str, Tensor]]  # rows and the signals measured on them


def everything(n: int) -> Selection:
    """The selection of all samples."""
    return Selection(torch.arange(n))


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
