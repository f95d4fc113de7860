"""CRAIG: samples whose weighted gradients stand for the gradients of all."""

import torch

from dpbench.greedy import blocks, covering, facility_location, facility_location_cost, guard
from dpbench.kernels import EVERY, last_layer, squared_distance
from dpbench.method import Proxy, Requires, Selection, param
from dpbench.scores import SubsetMethod


class CRAIG(SubsetMethod):
    """Maximise sum_j max_{i in S} (D - ||g_i - g_j||) greedily in each class; weight = samples stood for.

    g_i is the gradient in the last layer and D any bound on the distances, here twice the largest norm. The weights
    are scaled to a mean of 1. DeepCore's start from 1 and so count every sample of the subset twice.
    """

    balanced: bool = param(True)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Mirzasoleiman et al., Coresets for data-efficient training of machine learning models (ICML 2020)"

    def requires(self) -> Requires:
        return Requires({"logits", "embedding"}, Proxy(self.proxy_epochs), period=0)

    def among(self, members: torch.Tensor, seen: dict[str, torch.Tensor], k: int) -> Selection:
        h, logits = seen["embedding"], seen["logits"]
        n, width = len(h), h.shape[1] + logits.shape[1]
        guard("craig", *facility_location_cost(n, width))
        g = last_layer(logits, self.labels()[members], h)
        distance, bound = squared_distance(g), 2 * g.squares().max().sqrt()

        def kernel(i: torch.Tensor, j: torch.Tensor | slice = EVERY) -> torch.Tensor:
            return bound - distance(i, j).sqrt()

        total = torch.cat([kernel(part).sum(1, dtype=torch.float64) for part in blocks(torch.arange(n), n)])
        picks = facility_location(kernel, total, k)
        return Selection(picks, covering(kernel, picks, n).bincount(minlength=k).float())
