"""TDDS, temporal dual-depth scoring: keep the samples whose predictions keep changing at a changing rate."""

import torch
from torch import Tensor

from dpbench.method import Proxy, Requires, Signals, Task, param
from dpbench.scores import ScoreMethod, classes_first, in_parts, windows


class TDDS(ScoreMethod):
    """Change of epoch t: d_t = sum_c |p_t log(p_t / p_{t-1})|. In a window: ||d - mean d||_2. Keep the k largest sums.

    A window of `width` epochs holds width - 1 changes. The windows w = 0, ..., W - 1 from the oldest to the newest
    are added up with weights decay (1 - decay)^(W - 1 - w), as the released code does with decay = 0.9.
    """

    width: int = param(10, low=3, high=50)
    decay: float = param(0.9, low=0.1, high=0.99)
    proxy_epochs: int = param(30, low=2, high=200)

    paper = "Zhang et al., Spanning training progress: temporal dual-depth scoring for dataset pruning (CVPR 2024)"

    def requires(self) -> Requires:
        return Requires({"logits"}, Proxy(self.proxy_epochs, at="steps"), period=0)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.changes: list[Tensor] = []
        self.past: list[Tensor] = []  # log p of the epoch before, in parts (C, m)

    def take(self, seen: Signals) -> None:
        now = [z.log_softmax(0) for z in classes_first(seen["logits"])]
        if self.past:
            parts = zip(now, self.past, strict=True)
            self.changes.append(torch.cat([(log_p.exp() * (log_p - past)).abs().sum(0) for log_p, past in parts]))
        self.past = now

    def scores(self) -> Tensor:
        self.past = []
        if not self.changes:  # a proxy of one epoch
            return torch.zeros(self.task.n)

        def score(changes: list[Tensor]) -> Tensor:
            total = torch.zeros_like(changes[0])
            for d in windows(changes, self.width - 1):
                total = self.decay * (d - d.mean(0)).square_().sum(0).sqrt_() + (1 - self.decay) * total
            return total

        return in_parts(self.changes, score)
