"""InfoBatch: prune well-learnt samples at random and weight up those of them that stay."""

import math

import torch

from dpbench.draws import sample, where
from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, param


class InfoBatch(PruningMethod):
    """Of the m samples with a loss below the mean keep (1 - r) m at random, with weight m / kept; keep the rest.

    r defaults to 1 - keep; what is really pruned is less, since only samples below the mean can go. The ratio of the
    paper's tables is over all samples, and its 70 % is reached with fewer epochs (its authors in
    NUS-HPC-AI-Lab/InfoBatch#16): `match="cost"` ends the training, its schedule and window with it, when
    keep n epochs samples were sent backward. Unseen samples are kept. The last 1 - delta of the training uses all
    data (delta = 0.875). The weight is the inverse of the realised share, which makes the estimate of the full
    gradient exactly unbiased (Eq. 5); it equals 1 / (1 - r) up to rounding. r is at most 0.9 (released code).
    Beyond the paper: `control="exact"` solves r anew each epoch so that exactly k samples are kept, as far as r stays
    within [0, 0.9]; `missed` lists the selected epochs in which that was not enough.
    """

    r: float | None = param(None, low=0.0, high=0.9)
    delta: float = param(0.875, low=0.0, high=1.0)
    control: str = param("nominal", choices=("nominal", "exact"))
    match: str = param("epochs", choices=("epochs", "cost"))

    paper = "Qin et al., InfoBatch: lossless training speed up by unbiased dynamic data pruning (ICLR 2024)"

    def requires(self) -> Requires:
        return Requires({"loss"}, until=self.delta, budget="samples" if self.match == "cost" else "epochs")

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.scores = torch.full((task.n,), float("inf"))
        self.missed: list[int] = []

    def select(self, epoch: int) -> Selection:
        n, k = self.task.n, self.task.k
        seen = self.scores.index_select(0, where(self.scores.isfinite()))
        below = self.scores < seen.mean()  # false everywhere while nothing was seen
        pool, others = where(below), where(~below)
        m = len(pool)
        if self.control == "exact":
            wanted = k - (n - m)
            kept = min(max(wanted, math.ceil(0.1 * m)), m)
            if kept != wanted:
                self.missed.append(epoch)
        else:
            share = max(0.1, self.task.keep if self.r is None else 1 - self.r)
            kept = max(1, int(share * m))
        if m == 0:
            return Selection(torch.arange(n))
        chosen = pool.index_select(0, sample(m, kept, self.rng))
        weights = torch.cat([torch.ones(n - m), torch.full((kept,), m / kept)])
        return Selection(torch.cat([others, chosen]), weights)

    def observe(self, signals: Signals) -> None:
        self.scores[signals.indices] = signals["loss"].float()
