"""Forgetting events: keep the samples that training unlearns most often."""

import torch
from torch import Tensor

from dpbench.method import Proxy, Requires, Signals, Task, param
from dpbench.scores import ScoreMethod


class Forgetting(ScoreMethod):
    """Count how often a sample goes from correct to wrong between its visits in training; keep the k largest counts.

    Samples that were never correct rank above all; DeepCore gives them no events, so that it drops them first.
    """

    proxy_epochs: int = param(30, low=1, high=200)
    deepcore_compatible: bool = param(False)

    paper = "Toneva et al., An empirical study of example forgetting during deep neural network learning (ICLR 2019)"

    def requires(self) -> Requires:
        return Requires({"correct"}, Proxy(self.proxy_epochs, at="steps"), period=0)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.events = torch.zeros(task.n)
        self.last = torch.zeros(task.n)
        self.learnt = torch.zeros(task.n, dtype=torch.bool)

    def take(self, seen: Signals) -> None:
        correct = seen["correct"]
        self.events += self.last > correct
        self.last = correct
        self.learnt |= correct > 0

    def scores(self) -> Tensor:
        if self.deepcore_compatible:
            return self.events
        return self.events.masked_fill(~self.learnt, float("inf"))
