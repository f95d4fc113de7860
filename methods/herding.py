"""Herding: add the sample that brings the mean of the kept features closest to the mean of all."""

import torch

from dpbench.greedy import FLAT, guard, herding
from dpbench.method import Proxy, Requires, Selection, param
from dpbench.scores import SubsetMethod


class Herding(SubsetMethod):
    """Add argmin_i ||(t + 1) mu - sum_{j in S} h_j - h_i||, t picks made, mu the mean embedding. O(n k d) time.

    DeepCore's code takes the argmax, the sample farthest from where the mean should go.
    """

    proxy_epochs: int = param(30, low=1, high=200)
    deepcore_compatible: bool = param(False)

    paper = "Welling, Herding dynamical weights to learn (ICML 2009)"

    def requires(self) -> Requires:
        return Requires({"embedding"}, Proxy(self.proxy_epochs), period=0)

    def among(self, members: torch.Tensor, seen: dict[str, torch.Tensor], k: int) -> Selection:
        h = seen["embedding"]
        guard("herding", 2 * FLAT * len(h) * k * h.shape[1], 3 * h.numel() + 200 * len(h))
        return Selection(herding(h, k, farthest=self.deepcore_compatible))
