"""SSP, self-supervised prototypes: keep the samples far from the centre of their cluster."""

from torch import Tensor
from torch.nn.functional import normalize

from dpbench.greedy import k_means
from dpbench.method import Proxy, Requires, Signals, param
from dpbench.scores import ScoreMethod


class SSP(ScoreMethod):
    """Score a sample by its cosine distance to its cluster's centre; keep the k farthest (`prefer="far"`).

    The clusters are k-means', by Euclidean distance. The paper clusters a self-supervised embedding (SwAV); here it is
    the proxy's, which knows the labels, since no other is at hand. Near samples are better when data is scarce, far
    ones when it abounds. `clusters`=0 takes as many as there are classes.
    """

    clusters: int = param(0, low=0, high=1000)
    prefer: str = param("far", choices=("far", "near"))
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Sorscher et al., Beyond neural scaling laws: beating power law scaling via data pruning (NeurIPS 2022)"

    def requires(self) -> Requires:
        return Requires({"embedding"}, Proxy(self.proxy_epochs), period=0)

    def take(self, seen: Signals) -> None:
        h = seen["embedding"]
        count = self.clusters or len(self.labels().unique())
        centres, cluster = k_means(h, min(count, self.task.n), self.rng)
        self.distance = 1 - (normalize(h) * normalize(centres)[cluster]).sum(1)

    def scores(self) -> Tensor:
        return self.distance if self.prefer == "far" else -self.distance
