"""KAKURENBO: hide the samples of lowest loss that the model is sure about, and look at them again."""

import torch

from dpbench.draws import others, top, where
from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, param


class Kakurenbo(PruningMethod):
    """Of the F_e n samples of lowest loss hide those predicted right with confidence max_c p_c >= tau.

    F_e = F x (1, 0.8, 0.6, 0.4) from 0, 30, 60 and 80 % of the training on, as for CIFAR-100; F defaults to
    1 - keep and is an upper bound, what is really hidden is less. The learning rate is multiplied by
    1 / (1 - hidden share). Hidden samples are forwarded after the epoch, so no forward pass is saved.
    The released code differs in two ways: `confidence="batch"` takes the softmax over the batch instead of the
    classes, `rate="bound"` scales the learning rate by 1 / (1 - F_e).
    """

    fraction: float | None = param(None, low=0.0, high=0.9)
    tau: float = param(0.7, low=0.0, high=1.0)
    confidence: str = param("class", choices=("class", "batch"))
    rate: str = param("hidden", choices=("hidden", "bound"))

    paper = "Nguyen et al., KAKURENBO: adaptively hiding samples in deep neural network training (NeurIPS 2023)"

    def requires(self) -> Requires:
        if self.confidence == "batch":
            return Requires({"loss", "correct", "logits"}, online=True)
        return Requires({"loss", "correct", "prob_y"})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.losses = torch.full((task.n,), float("inf"))
        self.sure = torch.zeros(task.n, dtype=torch.bool)

    def select(self, epoch: int) -> Selection:
        n = self.task.n
        steps = sum(epoch / self.task.epochs >= edge for edge in (0.3, 0.6, 0.8))
        bound = (1 - 0.2 * steps) * (1 - self.task.keep if self.fraction is None else self.fraction)
        lowest = top(-self.losses, min(round(bound * n), n - 1), self.rng)
        hidden = lowest.index_select(0, where(self.sure.index_select(0, lowest)))
        kept = others(n, hidden)
        scale = n / len(kept) if self.rate == "hidden" else 1 / (1 - bound)
        return Selection(kept, refresh=hidden, lr_scale=scale)

    def observe(self, signals: Signals) -> None:
        by_class = self.confidence == "class"  # p_y is the largest p_c where the prediction is right
        confidence = signals["prob_y"] if by_class else signals["logits"].softmax(0).amax(1)
        self.losses[signals.indices] = signals["loss"].float()
        self.sure[signals.indices] = (signals["correct"] > 0) & (confidence >= self.tau)
