"""GraNd: keep the samples whose loss has the largest gradient early in training."""

import torch
from torch import Tensor

from dpbench.method import Proxy, Requires, Signals, Task, param
from dpbench.scores import ScoreMethod


class GraNd(ScoreMethod):
    """Score a sample by ||grad_w l_i||_2 after `at_epoch` epochs, averaged over `runs` proxy runs; keep the k largest.

    The gradient is that of the last layer and its bias, ||p - y|| sqrt(||h||^2 + 1) exactly, or with `layers="all"`
    that of all parameters. Both are measured in evaluation mode, sample by sample: batch statistics, and the size of
    a batch, have no part in it. The paper averages 10 runs; that "GraNd-4" means epoch 4 is assumed.
    """

    at_epoch: int = param(4, low=1, high=50)
    runs: int = param(1, low=1, high=20)
    layers: str = param("last", choices=("last", "all"))

    paper = "Paul et al., Deep learning on a data diet (NeurIPS 2021)"

    def requires(self) -> Requires:
        norm = "grad_norm" if self.layers == "last" else "full_grad_norm"
        return Requires({norm}, Proxy(self.at_epoch, seeds=self.runs), period=0)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.total = torch.zeros(task.n)

    def take(self, seen: Signals) -> None:
        for norm in seen.values.values():
            self.total += norm / self.runs

    def scores(self) -> Tensor:
        return self.total
