"""Batch normalisation by the statistics of the whole batch that several ranks share out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dpbench.errors import UsageError

Sum = Callable[[Tensor], Tensor]  # over the ranks, in place


class SynchronisedNorm(_BatchNorm):
    """A batch normalisation of which each rank has a share of the rows, the first `held()` of those it forwards.

    torch's SyncBatchNorm is for GPUs alone, and counts rows that a share repeats to have its length.
    """

    def __init__(self, layer: _BatchNorm, held: Callable[[], int], total: Sum) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        self.weight, self.bias, self.training = layer.weight, layer.bias, layer.training
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.held, self.total = held, total

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions, as the layer before had it."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the rows (b, c, ...), in training by the mean and variance of all ranks' rows."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        own = x[: self.held()].transpose(0, 1).flatten(1)
        count = float(self.total(torch.tensor(float(own.shape[1]), device=x.device)))
        shape = (1, -1, *[1] * (x.dim() - 2))
        mean = _Summed.apply(own.sum(1), self.total) / count
        variance = _Summed.apply((own - mean[:, None]).square().sum(1), self.total) / count
        self._track(mean.detach(), variance.detach() * count / max(1.0, count - 1))
        x = (x - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            x = x * self.weight.view(shape) + self.bias.view(shape)
        return x.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Summed(torch.autograd.Function):
    """The sum over the ranks; each rank's loss is a part of the whole, so the gradients are summed as well."""

    @staticmethod
    def forward(context: Any, values: Tensor, total: Sum) -> Tensor:
        context.total = total
        return total(values.clone())

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.total(gradients[0].clone()), None


def synchronised(network: nn.Module, held: Callable[[], int], total: Sum) -> nn.Module:
    """The network with its batch normalisations synchronised; they keep their names, parameters and buffers."""
    if isinstance(network, _BatchNorm):
        if type(network) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            raise UsageError(f"sync_batchnorm: {type(network).__name__} is no batch normalisation of torch's own")
        return SynchronisedNorm(network, held, total)
    for name, layer in network.named_children():
        setattr(network, name, synchronised(layer, held, total))
    return network
