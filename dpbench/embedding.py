"""The embedding of a sample: what a model's last linear layer is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from dpbench.errors import UsageError


def head(model: nn.Module) -> nn.Linear:
    """Return the last linear layer, whose input is the embedding."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise UsageError(f"{type(model).__name__} has no linear layer, so it has no embedding")
    return layers[-1]


@contextmanager
def inputs_of(layer: nn.Linear | None) -> Iterator[list[Tensor]]:
    """What is put into `layer` within the block, forward pass by forward pass; nothing for None."""
    seen: list[Tensor] = []
    if layer is None:
        yield seen
        return
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()
