"""Least confidence: keep the samples whose most probable class is least probable."""

import torch
from torch import Tensor

from dpbench.method import Proxy, Requires, Signals, param
from dpbench.scores import ScoreMethod, classes_first, rivals


class LeastConfidence(ScoreMethod):
    """Keep the k samples of smallest max_c p_c under a proxy trained for `proxy_epochs` epochs.

    The score is 1 - max_c p_c = r / (1 + r), r the sum of p_c / max p over the other classes. DeepCore compares
    max_c z_c.
    """

    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Coleman et al., Selection via proxy: efficient data selection for deep learning (ICLR 2020)"

    def requires(self) -> Requires:
        return Requires({"logits"}, Proxy(self.proxy_epochs), period=0)

    def take(self, seen: Signals) -> None:
        rest = torch.cat([rivals(z).sum(0) for z in classes_first(seen["logits"])])
        self.score = rest / (1 + rest)

    def scores(self) -> Tensor:
        return self.score
