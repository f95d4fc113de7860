"""Moderate coreset: keep the samples at a middling distance from their class's median feature."""

import torch

from dpbench.method import Proxy, Requires, Selection, Signals, param
from dpbench.scores import Static, groups, moderate, pick


class Moderate(Static):
    """Sort all samples by ||h_i - median of their class|| and keep the k in the middle of that order."""

    balanced: bool = param(False)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Xia et al., Moderate coreset: a universal method of data selection for real-world data (ICLR 2023)"

    def requires(self) -> Requires:
        return Requires({"embedding"}, Proxy(self.proxy_epochs), period=0)

    def take(self, seen: Signals) -> None:
        self.distance = torch.zeros(self.task.n)
        for c in self.labels().unique():
            h = seen["embedding"][members := self.labels() == c]
            self.distance[members] = (h - h.quantile(0.5, dim=0)).norm(dim=1)

    def choose(self) -> Selection:
        return Selection(pick(self.distance, groups(self.task, self.balanced), moderate, self.rng))
