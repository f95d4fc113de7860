"""Influence functions: keep the samples whose removal would raise the mean loss most."""

from torch import Tensor

from dpbench.kernels import kronecker_inverse, last_layer
from dpbench.method import Proxy, Requires, Signals, param
from dpbench.scores import ScoreMethod


class Influence(ScoreMethod):
    """Score a sample by G^T H^-1 g_i, n times what leaving i out adds to the mean loss; keep the k largest.

    g_i is the gradient in the last layer and G their mean over the training samples. The formula is assumed: which
    losses to look at, and H as the Kronecker product E[diag p - p p^T] (x) E[h h^T] with relative `damping`.
    """

    damping: float = param(0.01, low=1e-4, high=1.0, log=True)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Koh and Liang, Understanding black-box predictions via influence functions (ICML 2017)"

    def requires(self) -> Requires:
        return Requires({"logits", "embedding"}, Proxy(self.proxy_epochs), period=0)

    def take(self, seen: Signals) -> None:
        g = last_layer(seen["logits"], self.labels(), seen["embedding"])
        self.score = kronecker_inverse(g, seen["logits"], self.damping).dot(g.sum() / len(g))

    def scores(self) -> Tensor:
        return self.score
