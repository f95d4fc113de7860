"""Memorization: keep the samples that a model gets right only if it was trained on them."""

import torch
from torch import Tensor

from dpbench.method import Proxy, Requires, Signals, Task, param
from dpbench.scores import ScoreMethod


class Memorization(ScoreMethod):
    """mem(i) = P(f(x_i) = y_i | i in the training set) - P(f(x_i) = y_i | i not in it); keep the k largest.

    Both are estimated over `runs` trainings on a random `share` of the samples each (eq. 4). A sample that was in all
    of them, or in none, scores 0. The paper makes 2,000 to 4,000 runs.
    """

    runs: int = param(10, low=2, high=4000)
    share: float = param(0.7, low=0.1, high=0.9)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Feldman and Zhang, What neural networks memorize and why (NeurIPS 2020)"

    def requires(self) -> Requires:
        return Requires({"correct", "member"}, Proxy(self.proxy_epochs, seeds=self.runs, share=self.share), period=0)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.visits = torch.zeros(2, task.n)  # outside, inside
        self.right = torch.zeros(2, task.n)

    def take(self, seen: Signals) -> None:
        inside = torch.stack([1 - seen["member"], seen["member"]])
        self.visits += inside
        self.right += inside * seen["correct"]

    def scores(self) -> Tensor:
        outside, inside = self.right / self.visits
        return (inside - outside).nan_to_num(0.0)
