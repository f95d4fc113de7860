"""Graph cut: samples that resemble all others and not each other."""

import torch

from dpbench.greedy import Factored, greedy, guard, last_layer, similarity, vectors
from dpbench.method import Proxy, Selection, param
from dpbench.scores import SubsetMethod


class GraphCut(SubsetMethod):
    """Greedily add argmax_i lam sum_j s_ij - 2 sum_{j in S} s_ij, s_ij = (1 + cos) / 2. O(n k d) time.

    The cosine is between the gradients in the last layer, as in DeepCore, or with `on="embedding"` the embeddings.
    """

    lam: float = param(1.0, low=0.1, high=10.0, log=True)
    on: str = param("gradient", choices=("gradient", "embedding"))
    proxy_epochs: int = param(30, low=1, high=200)

    needs = frozenset({"logits", "embedding"})
    paper = "Iyer et al., Submodular combinatorial information measures (ALT)"
    year = 2021

    @property
    def proxy(self) -> Proxy:
        return Proxy(self.proxy_epochs)

    def among(self, members: torch.Tensor, k: int) -> Selection:
        h, logits = self.seen["embedding"][members], self.seen["logits"][members]
        guard(
            "graph_cut",
            4 * len(h) * k * (h.shape[1] + logits.shape[1]),
            4 * (h.numel() + logits.numel()) + 400 * len(h),
        )
        g = last_layer(logits, self.labels()[members], h) if self.on == "gradient" else vectors(h)
        kernel = similarity(g)
        unit = Factored(g.e / g.squares().clamp(min=1e-30).sqrt()[:, None], g.f)
        total = 0.5 * len(h) + 0.5 * unit.dot(unit.sum())  # sum_j s_ij
        return Selection(greedy(self.lam * total, lambda i: 2 * kernel(i), torch.sub, k))
