"""Graph cut: samples that resemble all others and not each other."""

import torch

from dpbench.greedy import FLAT, greedy, guard
from dpbench.kernels import directions, similarity, total_similarity
from dpbench.method import Proxy, Requires, Selection, param
from dpbench.scores import SubsetMethod


class GraphCut(SubsetMethod):
    """Greedily add argmax_i lam sum_j s_ij - 2 sum_{j in S} s_ij, s_ij = (1 + cos) / 2. O(n k d) time.

    The cosine is between the gradients in the last layer, as in DeepCore, or with `on="embedding"` the embeddings.
    """

    lam: float = param(1.0, low=0.1, high=10.0, log=True)
    on: str = param("gradient", choices=("gradient", "embedding"))
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Iyer et al., Submodular combinatorial information measures (ALT 2021)"

    def requires(self) -> Requires:
        return Requires({"logits", "embedding"}, Proxy(self.proxy_epochs), period=0)

    def among(self, members: torch.Tensor, seen: dict[str, torch.Tensor], k: int) -> Selection:
        width = seen["embedding"].shape[1] + seen["logits"].shape[1]
        guard("graph_cut", FLAT * len(members) * k * width, 3 * len(members) * width + 400 * len(members))
        g = directions(self.on, seen["embedding"], seen["logits"], self.labels()[members])
        kernel = similarity(g)
        return Selection(greedy(self.lam * total_similarity(g), lambda i: 2 * kernel(i), torch.sub, k))
