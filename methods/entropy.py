"""Entropy: keep the samples whose predicted class distribution is most uncertain."""

from torch import Tensor

from dpbench.method import Proxy, Signals, param
from dpbench.scores import ScoreMethod


class Entropy(ScoreMethod):
    """Keep the k samples of largest -sum_c p_c log p_c under a proxy trained for `proxy_epochs` epochs."""

    proxy_epochs: int = param(30, low=1, high=200)

    needs = frozenset({"entropy"})
    paper = "Coleman et al., Selection via proxy: efficient data selection for deep learning (ICLR)"
    year = 2020

    @property
    def proxy(self) -> Proxy:
        return Proxy(self.proxy_epochs)

    def take(self, seen: Signals) -> None:
        self.score = seen["entropy"]

    def scores(self) -> Tensor:
        return self.score
