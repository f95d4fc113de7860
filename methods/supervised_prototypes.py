"""Supervised prototypes: keep the samples far from the mean feature of their class."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dpbench.method import Proxy, Requires, Signals, param
from dpbench.scores import ScoreMethod


class SupervisedPrototypes(ScoreMethod):
    """Score a sample by the cosine distance of h_i to the mean of its class; keep the k farthest (`prefer="far"`)."""

    prefer: str = param("far", choices=("far", "near"))
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Sorscher et al., Beyond neural scaling laws: beating power law scaling via data pruning (NeurIPS 2022)"

    def requires(self) -> Requires:
        return Requires({"embedding"}, Proxy(self.proxy_epochs), period=0)

    def take(self, seen: Signals) -> None:
        h, labels = seen["embedding"], self.labels()
        total = torch.zeros(int(labels.max()) + 1, h.shape[1]).index_add_(0, labels, h)  # as good as the mean here
        self.distance = 1 - (normalize(h) * normalize(total)[labels]).sum(1)

    def scores(self) -> Tensor:
        return self.distance if self.prefer == "far" else -self.distance
