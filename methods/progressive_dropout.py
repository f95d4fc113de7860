"""Progressive data dropout: train on less and less, and on all data in the last epoch."""

import math

import torch

from dpbench.draws import others, sample, top
from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, param


class ProgressiveDropout(PruningMethod):
    """Leave out more samples as the training proceeds; the last epoch uses all of them.

    `mode="difficulty"` (DBPD) keeps the samples with p_y < threshold; "matched" (SMRD) keeps as many, but drawn at
    random; both forward the others after the epoch, so they save no forward pass, and `threshold`, not the
    requested keep, decides how many remain. "random" (SRD) draws ceil(gamma^t n) samples in epoch t; gamma
    defaults to the value that makes the mean over all epochs the requested keep (the released code has 0.99).
    The released code decides within each batch by a fresh forward pass, here the last one is used.
    """

    mode: str = param("difficulty", choices=("difficulty", "random", "matched"))
    threshold: float = param(0.3, low=0.05, high=0.95)
    gamma: float | None = param(None, low=0.1, high=1.0)

    paper = "Sathiyanarayanan et al., Progressive data dropout (NeurIPS 2025)"

    def requires(self) -> Requires:
        return Requires() if self.mode == "random" else Requires({"prob_y"})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.prob_y = torch.zeros(task.n)
        self.decay = _decay(task.keep, task.epochs) if self.gamma is None else self.gamma

    def select(self, epoch: int) -> Selection:
        n = self.task.n
        if epoch >= self.task.epochs - 1:
            return Selection(torch.arange(n))
        if self.mode == "random":
            return Selection(sample(n, max(1, math.ceil(self.decay**epoch * n)), self.rng))
        count = max(1, int((self.prob_y < self.threshold).sum()))
        hardest = self.mode == "difficulty"
        kept = top(-self.prob_y, count, self.rng) if hardest else sample(n, count, self.rng)
        return Selection(kept, refresh=others(n, kept))

    def observe(self, signals: Signals) -> None:
        if self.mode != "random":
            self.prob_y[signals.indices] = signals["prob_y"].float()


def _decay(keep: float, epochs: int) -> float:
    """Solve for gamma, by bisection, that the mean of gamma^0, ..., gamma^(epochs-2) and 1 is `keep`."""
    low, high = 0.0, 1.0
    for _ in range(60):
        gamma = (low + high) / 2
        if 1 + sum(gamma**t for t in range(epochs - 1)) < keep * epochs:
            low = gamma
        else:
            high = gamma
    return high
