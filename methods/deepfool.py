"""DeepFool: keep the samples closest to the decision boundary."""

from torch import Tensor

from dpbench.method import Proxy, Requires, Signals, param
from dpbench.scores import ScoreMethod


class DeepFool(ScoreMethod):
    """Keep the k samples of smallest ||r||_2^2, r the perturbation by which DeepFool changes the predicted class."""

    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Ducoffe and Precioso, Adversarial active learning for deep networks: a margin based approach (arXiv 2018)"

    def requires(self) -> Requires:
        return Requires({"deepfool"}, Proxy(self.proxy_epochs), period=0)

    def take(self, seen: Signals) -> None:
        self.distance = seen["deepfool"]

    def scores(self) -> Tensor:
        return -self.distance
