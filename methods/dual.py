"""DUAL: keep samples that are uncertain and difficult early in training, more of the easy ones when little is kept."""

import torch
from torch import Tensor

from dpbench.method import Proxy, Requires, Selection, Signals, Task, param
from dpbench.scores import ScoreMethod, beta_weights, deviation, draw, groups, hardest, in_parts, pick, windows


class DUAL(ScoreMethod):
    """Mean over windows of `width` epochs of std(p_y) (1 - mean p_y).

    With `sampling="beta"` k samples are drawn without replacement in proportion to the score times the density of
    Beta(a, b) at a sample's mean p_y, b = 15 (1 - m) (1 - r^c), a = 16 - b, r the pruned share and m the mean p_y of
    the ten highest scores. With "top" the k largest scores are kept. The paper sets c = 4 for CIFAR-100.
    """

    width: int = param(10, low=2, high=50)
    sampling: str = param("beta", choices=("beta", "top"))
    c: float = param(4.0, low=0.5, high=10.0)
    proxy_epochs: int = param(30, low=2, high=200)

    paper = "Cho et al., Lightweight dataset pruning without full training via example difficulty (ICML 2025)"

    def requires(self) -> Requires:
        return Requires({"prob_y"}, Proxy(self.proxy_epochs, at="steps"), period=0)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.history: list[Tensor] = []

    def take(self, seen: Signals) -> None:
        self.history.append(seen["prob_y"])

    def scores(self) -> Tensor:
        def score(history: list[Tensor]) -> Tensor:
            return torch.stack([deviation(p) * (1 - p.mean(0)) for p in windows(history, self.width)]).mean(0)

        return in_parts(self.history, score)

    def choose(self) -> Selection:
        scores, rule = self.scores(), hardest
        if self.sampling == "beta":
            ease = torch.stack(self.history).mean(0)
            scores, rule = beta_weights(scores, ease, self.task.keep, self.c), draw
        return Selection(pick(scores, groups(self.task, self.balanced), rule, self.rng))
