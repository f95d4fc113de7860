"""MoSo, moving-one-sample-out: keep the samples whose absence would raise the risk on the others most."""

import torch
from torch import Tensor

from dpbench.kernels import last_layer
from dpbench.method import Proxy, Requires, Signals, Task, param
from dpbench.scores import ScoreMethod


class MoSo(ScoreMethod):
    """Sum over the epochs of eta_t <grad L(S without i), grad l_i>; keep the k largest.

    eta_t is the learning rate of the epoch's last step. With g_i the gradient of l_i in the last layer and G their
    mean, grad L(S without i) = (n G - g_i) / (n - 1). The paper uses the gradient in all parameters. A constant does
    not matter for the order.
    """

    proxy_epochs: int = param(10, low=1, high=200)

    paper = "Tan et al., Data pruning via moving-one-sample-out (NeurIPS 2023)"

    def requires(self) -> Requires:
        return Requires({"logits", "embedding", "learning_rate"}, Proxy(self.proxy_epochs, at="epochs"), period=0)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.total = torch.zeros(task.n)

    def take(self, seen: Signals) -> None:
        g = last_layer(seen["logits"], self.labels(), seen["embedding"])
        self.total += seen["learning_rate"] * (g.dot(g.sum()) - g.squares()) / max(1, self.task.n - 1)

    def scores(self) -> Tensor:
        return self.total
