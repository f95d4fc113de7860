"""Dyn-Unc: keep the samples whose probability of the label varies most during training."""

import torch
from torch import Tensor

from dpbench.method import Proxy, Requires, Signals, Task, param
from dpbench.scores import ScoreMethod, deviation, in_parts, windows


class DynUnc(ScoreMethod):
    """Mean, over all windows of `width` successive epochs, of the standard deviation of p_y; keep the k largest.

    The deviation is the unbiased one. All windows count; the released code leaves out the last.
    """

    width: int = param(10, low=2, high=50)
    proxy_epochs: int = param(30, low=2, high=200)

    paper = "He et al., Large-scale dataset pruning with dynamic uncertainty (CVPR workshops 2024)"

    def requires(self) -> Requires:
        return Requires({"prob_y"}, Proxy(self.proxy_epochs, at="steps"), period=0)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.history: list[Tensor] = []

    def take(self, seen: Signals) -> None:
        self.history.append(seen["prob_y"])

    def scores(self) -> Tensor:
        def uncertainty(history: list[Tensor]) -> Tensor:
            return torch.stack([deviation(p) for p in windows(history, self.width)]).mean(0)

        return in_parts(self.history, uncertainty)
