"""Epsilon-greedy: the samples of highest running loss, and some at random."""

import torch

from dpbench.draws import others, sample, top
from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, param


class EpsilonGreedy(PruningMethod):
    """Keep the (1 - eps) k samples of highest running loss, and eps k drawn uniformly from the rest.

    m_i <- (1 - alpha) m_i + alpha l_i once for each epoch that trains on i, its first loss being its first m_i.
    Samples that were never trained on rank first. Assumed, since the paper's text was not to be had: eps = 0.1,
    alpha = 0.8 as the weight of the new loss, and a selection every epoch (`period`).
    """

    eps: float = param(0.1, low=0.0, high=1.0)
    alpha: float = param(0.8, low=0.05, high=1.0)
    period: int = param(1, low=1, high=50)

    paper = "Raju et al., Accelerating deep learning with dynamic data pruning (arXiv 2111.12621, 2021)"

    def requires(self) -> Requires:
        return Requires({"loss"}, period=self.period)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.mean = torch.full((task.n,), float("nan"))  # NaN ranks first
        self.past = self.mean  # the means before `epoch`
        self.epoch = -1

    def select(self, epoch: int) -> Selection:
        n, k = self.task.n, self.task.k
        explore = round(self.eps * k)
        best = top(self.mean, k - explore, self.rng)
        rest = others(n, best)
        return Selection(torch.cat([best, rest.index_select(0, sample(len(rest), explore, self.rng))]))

    def observe(self, signals: Signals) -> None:
        if signals.epoch != self.epoch:  # each epoch counts once, however often it shows a sample
            self.past, self.epoch = self.mean.clone(), signals.epoch
        mean, loss = self.past[signals.indices], signals["loss"].float()
        self.mean[signals.indices] = torch.where(mean.isnan(), loss, mean + self.alpha * (loss - mean))
