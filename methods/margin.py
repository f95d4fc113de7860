"""Margin: keep the samples whose two most probable classes are closest."""

from torch import Tensor

from dpbench.method import Proxy, Signals, param
from dpbench.scores import ScoreMethod


class Margin(ScoreMethod):
    """Keep the k samples of smallest p_(1) - p_(2) under a proxy trained for `proxy_epochs` epochs."""

    proxy_epochs: int = param(30, low=1, high=200)

    needs = frozenset({"logits"})
    paper = "Coleman et al., Selection via proxy: efficient data selection for deep learning (ICLR)"
    year = 2020

    @property
    def proxy(self) -> Proxy:
        return Proxy(self.proxy_epochs)

    def take(self, seen: Signals) -> None:
        two = seen["logits"].double().softmax(1)
        two = two.topk(min(2, two.shape[1])).values
        self.score = two[:, -1] - two[:, 0]

    def scores(self) -> Tensor:
        return self.score
