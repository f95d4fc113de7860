"""What a foreign training loop gives to `PruningSampler`: taken where it is right, refused in one line where not."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpbench import signals
from dpbench.errors import UsageError
from dpbench.method import Proxy
from dpbench.processes import rank_and_size
from dpbench.training.answers import rows_fault
from dpbench.training.driver import launched

MAX_CLASSES = 2**24  # methods count the samples of every class up to the largest id


def whole(name: str, value: Any, least: int) -> int:
    """`value` as an int of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise UsageError(f"PruningSampler: {name} = {value!r}; a whole number of at least {least} is needed")
    return number


def passes(proxy: Proxy, epochs: int) -> tuple[int, str]:
    """How many passes of `proxy` a run of `epochs` epochs replays, and in words which; the proxy ends with the run."""
    last = min(proxy.epochs, epochs)
    text = f"one after epoch {last}" if proxy.at == "end" else f"one for each of {last} epochs"
    text += f" of a proxy that trains on {'other samples' if proxy.data == 'holdout' else 'the samples'}"
    text += f", a share of {proxy.share:g}" if proxy.share < 1 else ""
    text += f", for each of {proxy.seeds} runs" if proxy.seeds > 1 else ""
    if proxy.epochs > epochs:
        text += f"; the method wants {proxy.epochs} epochs, but a proxy ends with the {epochs} of the run"
    return proxy.seeds * (1 if proxy.at == "end" else last), text


def class_ids(labels: Tensor | Sequence[int] | np.ndarray, n: int) -> Tensor:
    """`labels` as class ids (n,) int64 on the CPU: whole numbers from 0, of any integer type or bool."""
    try:
        ids = labels.detach().cpu() if isinstance(labels, Tensor) else torch.as_tensor(np.asarray(labels))
    except (TypeError, ValueError, RuntimeError):  # strings, objects, rows of different lengths
        kind = type(labels[0]).__name__ if len(labels) else "nothing"
        raise UsageError(f"PruningSampler: labels are {kind}; class ids ({n},) are needed") from None
    needed = "class ids, whole numbers from 0, are needed"
    if ids.shape != (n,):
        raise UsageError(
            f"PruningSampler: labels have shape {tuple(ids.shape)}; ({n},) is needed, one class id a sample"
        )
    if ids.is_floating_point() or ids.is_complex():
        raise UsageError(f"PruningSampler: labels are {ids.dtype}; {needed}")
    ids = ids.to(torch.int64, copy=True)  # a method may write into its own
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= MAX_CLASSES:
        raise UsageError(f"PruningSampler: labels hold {low if low < 0 else high}; {needed}, below {MAX_CLASSES}")
    return ids


def ranks(rank: int | None, replicas: int | None) -> tuple[int, int]:
    """The rank and the number of ranks: of torch.distributed, else of the environment, else as given."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        source, found = "torch.distributed", (torch.distributed.get_rank(), torch.distributed.get_world_size())
    elif launched():
        source = "the environment (RANK, WORLD_SIZE)"
        try:
            found = rank_and_size()
        except UsageError as error:
            raise UsageError(f"PruningSampler: {error}") from None
    else:
        source, found = "", (whole("rank", rank or 0, 0), whole("replicas", 1 if replicas is None else replicas, 1))
    for name, asked, there in (("rank", rank, found[0]), ("replicas", replicas, found[1])):
        if asked is not None and asked != there:
            raise UsageError(f"PruningSampler: {name} = {asked!r}, but {source} has {there}; leave both out")
    if found[0] >= found[1]:
        raise UsageError(f"PruningSampler: rank = {found[0]} is outside 0..{found[1] - 1}")
    return found


def rows(indices: Tensor, n: int) -> Tensor:
    """`indices` on the CPU, if they are rows of range(n)."""
    if fault := rows_fault(indices, n):
        raise UsageError(f"PruningSampler was given indices {fault}")
    return indices.cpu()


def signal(name: str, values: Tensor, count: int) -> Tensor:
    """`values` of the signal `name` for `count` samples as (b,), also from (b, 1), or as (b, d) where it is wide."""
    what = "losses" if name == "loss" else f"{name!r}"
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise UsageError(f"PruningSampler: {what} of type {got}; a floating-point tensor is needed")
    shape = tuple(values.shape)
    if name in signals.SIGNALS and signals.SIGNALS[name].wide:
        if len(shape) < 2 or shape[0] != count or (name == "logits" and len(shape) > 2):
            raise UsageError(f"PruningSampler: {what} of shape {shape} for {count} samples; ({count}, d) is needed")
        return values.flatten(1)
    if shape not in ((count,), (count, 1)):
        raise UsageError(
            f"PruningSampler: {what} of shape {shape} for {count} samples; ({count},) is needed, one number a sample "
            "(reduction='none', then the mean over all other dimensions)"
        )
    return values.reshape(count)
