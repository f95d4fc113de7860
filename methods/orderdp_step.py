"""OrderDP as the paper has it: in each iteration the samples of highest loss among fresh candidates."""

import torch

from dpbench.draws import sample, top
from dpbench.method import Picks, PruningMethod, Requires, Selection, Signals, Task, param


class OrderDPStep(PruningMethod):
    """In each iteration draw candidates uniformly, forward them, and train on the share exploit of highest score.

    exploit = q/s = keep / explore, with explore the share of the data that an epoch offers as candidates, never
    below keep: k samples go backward in an epoch, up to rounding. 1 / exploit batches are offered per trained
    batch, so that it has about the usual size. The scores are fresh, which costs a forward pass of every candidate.
    The mean gradient of a step is unbiased for the surrogate L_q on the candidates' distribution (Theorem 1).
    """

    explore: float = param(0.8, low=0.05, high=1.0, at_least_keep=True)
    score: str = param("loss", choices=("loss", "error_norm", "entropy", "grad_norm"))

    paper = "Jin et al., OrderDP: a theoretically guaranteed lossless dynamic data pruning framework (ICLR 2026)"

    def requires(self) -> Requires:
        return Requires({self.score})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.candidates = max(task.k, round(self.explore * task.n))
        self.exploit = task.k / self.candidates

    def pool(self, task: Task) -> int:
        return max(1, round(1 / self.exploit))

    def select(self, epoch: int) -> Selection:
        return Selection(sample(self.task.n, self.candidates, self.rng))

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        q = max(1, round(self.exploit * len(signals)))
        return Picks(top(signals[self.score].float(), q, rng))
