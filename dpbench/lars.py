"""LARS as the peers' code has it, which is not timm's: the trust ratio scales the momentum buffer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """LARS (You et al. 2017) as the released code of pruning methods has it: every parameter is adapted.

    g <- grad + wd w, each entry clipped to +-10; buffer <- momentum buffer + g; w <- w - lr trust buffer, where
    trust = 0.001 |w| / (|grad| + wd |w|), at most 50, and 1 where a norm is 0.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients."""
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self._step(w, w.grad, group)

    def _step(self, w: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        decay, size, slope = group["weight_decay"], w.norm(), grad.norm()
        ratio = (1e-3 * size / (slope + decay * size)).clamp(0, 50)
        trust = torch.where((size > 0) & (slope > 0), ratio, 1.0)
        buffer = self.state[w].setdefault("buffer", torch.zeros_like(w))
        buffer.mul_(group["momentum"]).add_((grad + decay * w).clamp(-10, 10))
        w.sub_(group["lr"] * trust * buffer)
