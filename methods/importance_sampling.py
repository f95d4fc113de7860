"""Importance sampling by an upper bound of the gradient norm, once it is worth its price."""

import torch
from torch import Tensor

from dpbench.draws import sample
from dpbench.method import Picks, PruningMethod, Requires, Selection, Signals, Task, param


class ImportanceSampling(PruningMethod):
    """Draw b of B forwarded rows with replacement with probability g_i = G_i / sum G, each with weight 1 / (B g_i).

    G_i = ||p_i - y_i||, up to a constant an upper bound of the gradient norm. While the running tau is at most
    (B + 3b) / (3b), b rows are drawn uniformly instead; tau = 1 / sqrt(1 - sum (g_i - 1/B)^2 / sum g_i^2), which is
    sqrt(B sum g_i^2), is averaged with momentum 0.9 from 0. b / B is the requested keep unless `presample` = B / b
    is given (paper: 3). A row drawn m times comes once with weight m / (B g_i) (rows / b), since the loss of a step is
    divided by the number of its rows: the step is unbiased for the mean gradient of the B rows.
    """

    presample: int | None = param(None, low=2, high=10)
    momentum: float = param(0.9, low=0.0, high=0.99)

    paper = (
        "Katharopoulos & Fleuret, Not all samples are created equal: deep learning with importance sampling (ICML 2018)"
    )

    def requires(self) -> Requires:
        return Requires({"error_norm"}, online=True)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.ratio = 1 / task.keep if self.presample is None else float(self.presample)  # B / b
        self.tau = 0.0

    def pool(self, task: Task) -> int:
        return max(1, round(self.ratio))

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n))

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        size, b = len(signals), max(1, round(len(signals) / self.ratio))
        if self.tau <= (self.ratio + 3) / 3:
            return Picks(sample(size, b, rng))
        g = self._probabilities(signals)
        rows, times = torch.multinomial(g, b, replacement=True, generator=rng).unique(return_counts=True)
        return Picks(rows, times / (size * g[rows]) * (len(rows) / b))

    def observe(self, signals: Signals) -> None:
        tau = float((len(signals) * self._probabilities(signals).square().sum()).sqrt())
        self.tau = self.momentum * self.tau + (1 - self.momentum) * tau

    @staticmethod
    def _probabilities(signals: Signals) -> Tensor:
        score = signals["error_norm"].float().nan_to_num(0.0, 0.0)
        return score / score.sum() if score.sum() > 0 else torch.full_like(score, 1 / len(score))
