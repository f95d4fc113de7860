"""DeepFool: keep the samples closest to the decision boundary."""

from torch import Tensor

from dpbench.method import Proxy, Signals, param
from dpbench.scores import ScoreMethod


class DeepFool(ScoreMethod):
    """Keep the k samples of smallest ||r||_2^2, r the perturbation by which DeepFool changes the predicted class."""

    proxy_epochs: int = param(30, low=1, high=200)

    needs = frozenset({"deepfool"})
    paper = "Ducoffe and Precioso, Adversarial active learning for deep networks: a margin based approach (arXiv)"
    year = 2018

    @property
    def proxy(self) -> Proxy:
        return Proxy(self.proxy_epochs)

    def take(self, seen: Signals) -> None:
        self.distance = seen["deepfool"]

    def scores(self) -> Tensor:
        return -self.distance
