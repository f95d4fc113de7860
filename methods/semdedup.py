"""SemDeDup: of samples that nearly repeat each other in the embedding keep one."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dpbench.greedy import BLOCK, guard, k_means
from dpbench.method import Proxy, Requires, Signals, param
from dpbench.scores import ScoreMethod

ROUNDS = 20  # of k-means: the clusters only tell which samples are compared


class SemDeDup(ScoreMethod):
    """Drop the samples most similar to one that stands before them in their cluster; keep k.

    Clusters are k-means' of the embeddings scaled to length 1. In each, samples stand from the farthest from the
    centre (`first="hard"`), the nearest ("easy") or in random order, and M_j = max_{i before j} cos(h_i, h_j). The
    paper drops j where M_j > 1 - epsilon (its pseudo-code and released code); here epsilon is the one that leaves k
    samples. The first of a cluster goes last. `clusters`=0 takes about sqrt(n), so that the n^2 / clusters products
    stay cheap; the paper has 50,000 for 440 million samples. Its embedding is CLIP's, here the proxy's.
    """

    clusters: int = param(0, low=0, high=100_000)
    first: str = param("hard", choices=("hard", "easy", "random"))
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Abbas et al., SemDeDup: data-efficient learning at web-scale through semantic deduplication (arXiv, 2023)"

    def requires(self) -> Requires:
        return Requires({"embedding"}, Proxy(self.proxy_epochs), period=0)

    def take(self, seen: Signals) -> None:
        h = normalize(seen["embedding"])
        n = len(h)
        count = min(n, self.clusters or round(n**0.5))
        guard("semdedup", (ROUNDS * count + n / count) * h.numel(), 3 * h.numel() + 2 * BLOCK)
        centres, cluster = k_means(h, count, self.rng, ROUNDS)
        near = (h * normalize(centres)[cluster]).sum(1)
        place = {"hard": near, "easy": -near, "random": torch.rand(n, generator=self.rng)}[self.first]
        order = place.argsort(stable=True)
        order = order[cluster[order].argsort(stable=True)]  # by cluster, in each by place
        self.repeats = torch.full((n,), -1.0)
        for members in filter(len, order.split(cluster.bincount(minlength=count).tolist())):
            for part in torch.arange(len(members)).split(max(1, BLOCK // len(members))):
                cosine = h[members[part]] @ h[members].T
                before = torch.arange(len(members)) < part[:, None]
                self.repeats[members[part]] = cosine.where(before, -1.0).amax(1)

    def scores(self) -> Tensor:
        return -self.repeats
