"""GLISTER: the samples whose gradient steps lower the loss most."""

import torch
import torch.nn.functional as F

from dpbench.draws import top
from dpbench.greedy import FLAT, guard
from dpbench.kernels import last_layer
from dpbench.method import Proxy, Requires, Selection, param
from dpbench.scores import SubsetMethod


class Glister(SubsetMethod):
    """Greedily add the samples of largest <g_i, G>, G the mean gradient after one step along those added before.

    All gradients are of the last layer. The step theta - rate sum_{i in S} g_i changes logit vector j by
    -rate sum_{i in S} (p_i - y_i) (<h_i, h_j> + 1), which gives new p_j and so a new G; it is made `rounds` times,
    after k / rounds picks each. The paper takes G on validation samples, which a method does not see; here it is on
    the training samples. DeepCore never updates G, because of a misspelt keyword.
    """

    rate: float = param(0.01, low=1e-4, high=1.0, log=True)
    rounds: int = param(20, low=1, high=1000, log=True)
    deepcore_compatible: bool = param(False)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Killamsetty et al., GLISTER: generalization based data subset selection (AAAI 2021)"

    def requires(self) -> Requires:
        return Requires({"logits", "embedding"}, Proxy(self.proxy_epochs), period=0)

    def among(self, members: torch.Tensor, seen: dict[str, torch.Tensor], k: int) -> Selection:
        h, logits, labels = seen["embedding"], seen["logits"], self.labels()[members]
        rounds = 1 if self.deepcore_compatible else self.rounds
        guard("glister", 4 * FLAT * rounds * h.numel() * logits.shape[1], 4 * h.numel() + 6 * logits.numel())
        g = last_layer(logits, labels, h)
        one_hot = F.one_hot(labels, logits.shape[1])
        open_ = torch.ones(len(h), dtype=torch.bool)
        for part in torch.arange(k).tensor_split(min(rounds, k)):
            step = g.sum((~open_).float())  # (C, d + 1)
            error = (logits - self.rate * g.f @ step.T).softmax(1) - one_hot
            gain = g.dot(error.T @ g.f / len(h))
            gain[~open_] = float("-inf")
            open_[top(gain, len(part), self.rng)] = False
        return Selection((~open_).nonzero().squeeze(1))
