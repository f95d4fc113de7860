"""CRAIG: samples whose weighted gradients stand for the gradients of all."""

import torch

from dpbench.greedy import EVERY, facility_location, guard, last_layer, squared_distance
from dpbench.method import Proxy, Selection, param
from dpbench.scores import SubsetMethod


class CRAIG(SubsetMethod):
    """Maximise sum_j max_{i in S} (D - ||g_i - g_j||) by lazy greedy in each class; weight = samples stood for.

    g_i is the gradient in the last layer and D any bound on the distances, here twice the largest norm. The weights
    are scaled to a mean of 1. DeepCore's start from 1 and so count every sample of the subset twice.
    """

    balanced: bool = param(True)
    proxy_epochs: int = param(30, low=1, high=200)

    needs = frozenset({"logits", "embedding"})
    paper = "Mirzasoleiman et al., Coresets for data-efficient training of machine learning models (ICML)"
    year = 2020

    @property
    def proxy(self) -> Proxy:
        return Proxy(self.proxy_epochs)

    def among(self, members: torch.Tensor, k: int) -> Selection:
        h, logits = self.seen["embedding"][members], self.seen["logits"][members]
        width = h.shape[1] + logits.shape[1]
        guard("craig", 5 * len(h) * (len(h) + k) * width, 3 * len(h) * width + 2**25)
        g = last_layer(logits, self.labels()[members], h)
        distance, bound = squared_distance(g), 2 * g.squares().max().sqrt()
        picks, owner = facility_location(lambda i, j=EVERY: bound - distance(i, j).sqrt(), len(h), k)
        return Selection(picks, owner.bincount(minlength=k).float())
