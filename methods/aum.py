"""AUM, area under the margin: how far the label's logit stays ahead of the others during training."""

import torch
from torch import Tensor

from dpbench.method import Proxy, Requires, Signals, Task, param
from dpbench.scores import ScoreMethod


class AUM(ScoreMethod):
    """Keep the k samples of lowest mean over the epochs of z_y - max_{c != y} z_c, measured as they are trained on.

    Margins are of logits, as in the paper; CCS's code sums margins of probabilities. Low is hard or mislabelled.
    """

    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Pleiss et al., Identifying mislabeled data using the area under the margin ranking (NeurIPS 2020)"

    def requires(self) -> Requires:
        return Requires({"margin"}, Proxy(self.proxy_epochs, at="steps"), period=0)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.total, self.count = torch.zeros(task.n), 0

    def take(self, seen: Signals) -> None:
        self.total += seen["margin"]
        self.count += 1

    def scores(self) -> Tensor:
        return -self.total / self.count
