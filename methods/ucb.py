"""UCB: the samples whose running loss plus its variance is highest."""

import torch

from dpbench.draws import top
from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, param


class UCB(PruningMethod):
    """Keep the k samples of highest m_i + c v_i, the running mean and variance of a sample's loss.

    v_i <- (1 - alpha) v_i + alpha (l_i - m_i)^2, then m_i <- (1 - alpha) m_i + alpha l_i, once for each epoch that
    trains on i; at first m_i = l_i and v_i = 0. Samples that were never trained on rank first. c = 1 and
    alpha = 0.8 are those of the InfoBatch authors' code, which selects every 10 epochs (`period`), trains on all data
    in the first and starts at v_i = alpha l_i^2, the deviation from a mean of 0; that the paper has the same values
    of c and alpha is assumed.
    """

    c: float = param(1.0, low=0.0, high=10.0)
    alpha: float = param(0.8, low=0.05, high=1.0)
    period: int = param(1, low=1, high=50)

    paper = "Raju et al., Accelerating deep learning with dynamic data pruning (arXiv 2111.12621, 2021)"

    def requires(self) -> Requires:
        return Requires({"loss"}, period=self.period)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.mean = torch.full((task.n,), float("nan"))  # NaN ranks first
        self.variance = torch.zeros(task.n)
        self.past = torch.stack([self.mean, self.variance])  # both before `epoch`
        self.epoch = -1

    def select(self, epoch: int) -> Selection:
        return Selection(top(self.mean + self.c * self.variance, self.task.k, self.rng))

    def observe(self, signals: Signals) -> None:
        if signals.epoch != self.epoch:  # each epoch counts once, however often it shows a sample
            self.past, self.epoch = torch.stack([self.mean, self.variance]), signals.epoch
        i, loss = signals.indices, signals["loss"].float()
        mean, variance = self.past[:, i]
        first, gap = mean.isnan(), loss - mean
        self.mean[i] = torch.where(first, loss, mean + self.alpha * gap)
        self.variance[i] = torch.where(first, 0.0, (1 - self.alpha) * variance + self.alpha * gap.square())
