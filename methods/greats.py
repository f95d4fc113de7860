"""GREATS: the rows of a batch that one step on them would lower the loss on held-out samples most."""

import torch
from torch import Tensor

from dpbench.draws import top
from dpbench.kernels import last_layer
from dpbench.method import Picks, PruningMethod, Requires, Selection, Signals, Task, param


class GREATS(PruningMethod):
    """Greedily pick argmax_i rate <g_i, G> - rate^2 sum_{j picked} <g_i, g_j>, the share `keep` of each batch.

    This is the marginal gain of the second-order expansion of the loss on validation samples after one step of SGD,
    with the identity for its Hessian (the released code, and as we read the paper). g_i is the gradient in the last
    layer and its bias, so that <g_i, g_j> = <p_i - y_i, p_j - y_j> (<h_i, h_j> + 1). The paper takes G on validation
    samples, which a method does not see: here it is the mean g over the rows that the batch offers, as in DivBS. A
    larger `rate` weighs redundancy more; the paper has the learning rate, which a method does not see either.
    1 / keep batches are offered per trained batch, so that it has about the usual size.
    """

    rate: float = param(0.01, low=1e-4, high=1.0, log=True)

    paper = "Wang et al., GREATS: online selection of high-quality data for LLM training (NeurIPS 2024)"

    def requires(self) -> Requires:
        return Requires({"logits", "embedding"})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        if task.labels is None:
            raise ValueError("greats needs the labels of the samples")

    def pool(self, task: Task) -> int:
        return max(1, round(1 / task.keep))

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n))

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        assert self.task.labels is not None
        logits, h = (signals[name].double().nan_to_num(0.0, 0.0, 0.0) for name in ("logits", "embedding"))
        g = last_layer(logits, self.task.labels[signals.indices], h)
        k = max(1, round(self.task.keep * len(signals)))
        return Picks(self._greedy(g.products(torch.arange(len(g))), k, rng))

    def _greedy(self, gram: Tensor, k: int, rng: torch.Generator) -> Tensor:
        gain = self.rate * gram.mean(1)  # <g_i, G>
        picked = torch.zeros(k, dtype=torch.int64)
        for t in range(k):
            picked[t] = best = int(top(gain, 1, rng))
            gain = gain - self.rate**2 * gram[best]
            gain[best] = float("-inf")
        return picked
