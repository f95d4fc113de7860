"""Entropy: keep the samples whose predicted class distribution is most uncertain."""

from torch import Tensor

from dpbench.method import Proxy, Requires, Signals, param
from dpbench.scores import ScoreMethod


class Entropy(ScoreMethod):
    """Keep the k samples of largest -sum_c p_c log p_c under a proxy trained for `proxy_epochs` epochs."""

    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Coleman et al., Selection via proxy: efficient data selection for deep learning (ICLR 2020)"

    def requires(self) -> Requires:
        return Requires({"entropy"}, Proxy(self.proxy_epochs), period=0)

    def take(self, seen: Signals) -> None:
        self.score = seen["entropy"]

    def scores(self) -> Tensor:
        return self.score
