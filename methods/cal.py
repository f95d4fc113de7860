"""CAL, contrastive examples: keep the samples whose prediction differs most from their neighbours'."""

import torch
from torch import Tensor

from dpbench.greedy import guard, neighbours, neighbours_cost
from dpbench.method import Proxy, Requires, Signals, param
from dpbench.scores import ScoreMethod, groups


class CAL(ScoreMethod):
    """Mean of KL(p_j || p_i) over the `near` nearest neighbours j of i in the embedding; keep the k largest.

    That the paper keeps the largest, and its direction of KL, are assumed. DeepCore keeps the *smallest* of
    (KL(p_i || p_j) + KL(p_j || p_i)) / 2, the least contrastive. With `balanced` neighbours are of one class;
    `approximate` leaves finding them to faiss.
    """

    near: int = param(10, low=1, high=100)
    approximate: bool = param(False)
    deepcore_compatible: bool = param(False)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Margatina et al., Active learning by acquiring contrastive examples (EMNLP 2021)"

    def requires(self) -> Requires:
        return Requires({"logits", "embedding"}, Proxy(self.proxy_epochs), period=0)

    def take(self, seen: Signals) -> None:
        self.score = torch.zeros(self.task.n, dtype=torch.float64)
        for members, _ in groups(self.task, self.balanced):
            h, log_p = seen["embedding"][members], seen["logits"][members].double().log_softmax(1)
            products, floats = neighbours_cost(h, self.near, self.approximate)
            guard("cal", products, floats + 10 * log_p.numel())
            _, which = neighbours(h, self.near, self.approximate)
            for other in which.T:  # the nearest of all, the second nearest of all, ...
                theirs = log_p[other]
                weight = theirs.exp()
                if self.deepcore_compatible:
                    weight = 0.5 * (log_p.exp() - weight)
                self.score[members] += (weight * (theirs - log_p)).sum(1) / which.shape[1]

    def scores(self) -> Tensor:
        return self.score
