"""InfoMax: keep informative samples that are not redundant."""

import torch
from torch.nn.functional import normalize

from dpbench.draws import top
from dpbench.greedy import guard, neighbours, neighbours_cost
from dpbench.method import Proxy, Requires, Selection, param
from dpbench.scores import SubsetMethod, finite


class InfoMax(SubsetMethod):
    """Maximise sum_z X_z I_z - alpha sum_{z,s} K_zs X_z X_s over 0 <= X <= 1, sum X = k; keep the k largest X.

    I is ||p - y||_2 and K the cosine similarity of the embeddings among the `near` nearest neighbours. The solver is
    assumed: `rounds` times X <- min(1, k softmax(I - 2 alpha K X)). The paper also partitions large data sets.
    `approximate` leaves finding the neighbours to faiss.
    """

    alpha: float = param(0.3, low=0.0, high=10.0)
    near: int = param(5, low=1, high=50)
    approximate: bool = param(False)
    rounds: int = param(20, low=1, high=100)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Tan et al., Data pruning by information maximization (ICLR 2025)"

    def requires(self) -> Requires:
        return Requires({"error_norm", "embedding"}, Proxy(self.proxy_epochs), period=0)

    def among(self, members: torch.Tensor, seen: dict[str, torch.Tensor], k: int) -> Selection:
        h = normalize(seen["embedding"])
        information = finite(seen["error_norm"])
        n = len(members)
        guard("infomax", *neighbours_cost(h, self.near, self.approximate))
        distance, which = neighbours(h, self.near, self.approximate)
        square = h.square().sum(1)  # 1, or 0 for an embedding of zeros
        similar = 0.5 * (square[:, None] + square[which] - distance.square())
        x = torch.full((n,), k / n)
        for _ in range(self.rounds):
            redundancy = (similar * x[which]).sum(1).index_add_(0, which.flatten(), (similar * x[:, None]).flatten())
            x = (k * (information - self.alpha * redundancy).softmax(0)).clamp(max=1.0)
        return Selection(top(information - self.alpha * redundancy, k, self.rng))
