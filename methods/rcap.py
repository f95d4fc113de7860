"""RCAP: a budget for each class by its loss, filled by a random draw that prefers high losses."""

import math

import torch
from torch import Tensor

from dpbench.draws import top
from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, param


class RCAP(PruningMethod):
    """Share k among the classes by sqrt(L_c n_c / n); draw in each without replacement by softmax(l / beta).

    l is the last loss clipped to [0, log C], log C for unseen samples, and the softmax runs over the class. Assumed,
    since the paper's text was not to be had: L_c is the mean of the class's clipped losses. `aggregate="mass"` is
    the released code: L_c is the softmax mass of the class's part of the last selection. The budgets add up to
    exactly k: what exceeds a class's size goes to the others, and fractions are rounded by largest remainder.
    """

    beta: float = param(1.0, low=0.1, high=3.0, log=True)
    aggregate: str = param("mean", choices=("mean", "mass"))

    paper = "Hassan et al., RCAP: robust, class-aware, probabilistic dynamic dataset pruning (PMLR 286, 2025)"

    def requires(self) -> Requires:
        return Requires({"loss"})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        if task.labels is None:
            raise ValueError("rcap needs the labels of the samples")
        self.ceiling = math.log(len(task.labels.unique()))
        self.losses = torch.full((task.n,), self.ceiling, dtype=torch.float64)
        self.last = torch.ones(task.n, dtype=torch.bool)
        self.by_class = task.labels.argsort(stable=True)

    def select(self, epoch: int) -> Selection:
        labels, scores = self.task.labels, self.losses / self.beta
        assert labels is not None
        size = labels.bincount()
        if self.aggregate == "mean":
            level = labels.bincount(self.losses) / size.clamp(min=1)
        else:
            mass = scores.exp()
            level = labels.bincount(mass * self.last) / labels.bincount(mass).clamp(min=1)
        budget = self._budgets((level * size / self.task.n).sqrt(), size)
        keys = scores - torch.empty_like(scores).exponential_(generator=self.rng).log()  # Gumbel noise: top = draw
        classes = zip(self.by_class.split(size.tolist()), budget.tolist(), strict=True)
        chosen = torch.cat([rows[top(keys.index_select(0, rows), count, self.rng)] for rows, count in classes])
        self.last = torch.zeros_like(self.last).index_fill(0, chosen, True)
        return Selection(chosen)

    def observe(self, signals: Signals) -> None:
        loss = signals["loss"].double().nan_to_num(nan=self.ceiling)
        self.losses[signals.indices] = loss.clamp(0.0, self.ceiling)

    def _budgets(self, weights: Tensor, size: Tensor) -> Tensor:
        """Split k in proportion to `weights`, no class above its size."""
        weights, full = weights.clamp(min=1e-12), size == 0
        while True:
            share = (self.task.k - size[full].sum()) * weights / weights[~full].sum()
            over = ~full & (share >= size)
            if not over.any():
                break
            full |= over
        share = torch.where(full, size, share)
        budget = share.floor().long()
        budget[top(share - budget, self.task.k - int(budget.sum()), self.rng)] += 1
        return budget
