"""Margin: keep the samples whose two most probable classes are closest."""

import torch
from torch import Tensor

from dpbench.method import Proxy, Requires, Signals, param
from dpbench.scores import ScoreMethod, classes_first, rivals


class Margin(ScoreMethod):
    """Keep the k samples of smallest p_(1) - p_(2) under a proxy trained for `proxy_epochs` epochs.

    The score is 1 - p_(1) + p_(2).
    """

    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Coleman et al., Selection via proxy: efficient data selection for deep learning (ICLR 2020)"

    def requires(self) -> Requires:
        return Requires({"logits"}, Proxy(self.proxy_epochs), period=0)

    def take(self, seen: Signals) -> None:
        self.score = torch.cat([self.closeness(z) for z in classes_first(seen["logits"])])

    @staticmethod
    def closeness(logits: Tensor) -> Tensor:
        rival = rivals(logits)
        rest = rival.sum(0)
        second = rival.amax(0) if len(rival) else rest  # with a single class there is none
        return (rest + second) / (1 + rest)

    def scores(self) -> Tensor:
        return self.score
