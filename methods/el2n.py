"""EL2N: keep the samples with the largest error vector early in training."""

import torch
from torch import Tensor

from dpbench.method import Proxy, Requires, Signals, Task, param
from dpbench.scores import ScoreMethod


class EL2N(ScoreMethod):
    """Score a sample by ||p - y||_2 after `at_epoch` epochs, averaged over `runs` proxy runs; keep the k largest.

    The paper averages 10 runs, at epoch 20 of 200; CCS adds up epochs 0 to 9 instead, as `summed=true` does. A proxy
    that the recipe ends earlier is scored at its end.
    """

    at_epoch: int = param(10, low=1, high=50)
    runs: int = param(1, low=1, high=20)
    summed: bool = param(False)

    paper = "Paul et al., Deep learning on a data diet (NeurIPS 2021)"

    def requires(self) -> Requires:
        proxy = Proxy(self.at_epoch, seeds=self.runs, at="epochs" if self.summed else "end")
        return Requires({"error_norm"}, proxy, period=0)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.total = torch.zeros(task.n)

    def take(self, seen: Signals) -> None:
        self.total += seen["error_norm"] / self.runs

    def scores(self) -> Tensor:
        return self.total
