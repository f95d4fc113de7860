"""k-center greedy: add the sample farthest from those that are kept."""

import torch

from dpbench.greedy import guard, k_center
from dpbench.kernels import euclidean
from dpbench.method import Proxy, Requires, Selection, param
from dpbench.scores import SubsetMethod


class KCenter(SubsetMethod):
    """From a random first sample on, add argmax_i min_{c in S} ||h_i - h_c||, in the embedding. O(n k d) time."""

    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Sener and Savarese, Active learning for convolutional neural networks: a core-set approach (ICLR 2018)"

    def requires(self) -> Requires:
        return Requires({"embedding"}, Proxy(self.proxy_epochs), period=0)

    def among(self, members: torch.Tensor, seen: dict[str, torch.Tensor], k: int) -> Selection:
        h = seen["embedding"]
        guard("k_center", 2 * len(h) * k * h.shape[1], 3 * h.numel() + 200 * len(h))
        first = int(torch.randint(len(h), (1,), generator=self.rng))
        return Selection(k_center(euclidean(h), len(h), k, first))
