"""Least confidence: keep the samples whose most probable class is least probable."""

from torch import Tensor

from dpbench.method import Proxy, Signals, param
from dpbench.scores import ScoreMethod


class LeastConfidence(ScoreMethod):
    """Keep the k samples of smallest max_c p_c under a proxy trained for `proxy_epochs` epochs.

    The score is -max_c log p_c, in double precision so that confident samples do not tie. DeepCore compares max_c z_c.
    """

    proxy_epochs: int = param(30, low=1, high=200)

    needs = frozenset({"logits"})
    paper = "Coleman et al., Selection via proxy: efficient data selection for deep learning (ICLR)"
    year = 2020

    @property
    def proxy(self) -> Proxy:
        return Proxy(self.proxy_epochs)

    def take(self, seen: Signals) -> None:
        self.score = -seen["logits"].double().log_softmax(1).amax(1)

    def scores(self) -> Tensor:
        return self.score
