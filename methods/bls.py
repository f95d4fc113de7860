"""BLS: a method that prunes by the loss, where only the loss of whole batches is known."""

import torch
from torch import Tensor

from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, named, param


class BLS(PruningMethod):
    """Prune as the method `of` does, with s_i <- alpha s_i + (1 - alpha) L(B) as the loss of i, L(B) its batch's mean.

    s_i is updated once for each epoch that trains on i, and begins as its first L(B); the released code begins at 0.
    A batch measures l_i / |B| with the losses of the others as noise, which the running mean filters. The paper does
    so for InfoBatch and SeTa. In one's own loop `observe(rows, loss)` and `reduce` take the batch's one number.
    """

    of: str = param("infobatch", choices=("infobatch", "seta", "orderdp", "ucb", "epsilon_greedy"))
    alpha: float = param(0.7, low=0.0, high=0.99)

    paper = "Zhou et al., Batch loss score for dynamic data pruning (CVPR 2026)"

    def requires(self) -> Requires:
        stated = named(self.of).requires()
        return Requires({"batch_loss"}, until=stated.until)

    def uses(self) -> tuple[str, ...]:
        return (self.of,)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.inner = named(self.of)
        self.inner.setup(task, rng)
        self.mean = torch.full((task.n,), float("nan"))
        self.past = self.mean  # the means before `epoch`
        self.epoch = -1

    def select(self, epoch: int) -> Selection:
        self.inner.task = self.task
        return self.inner.select(epoch)

    def observe(self, signals: Signals) -> None:
        if signals.epoch != self.epoch:  # each epoch counts once, however often it shows a sample
            self.past, self.epoch = self.mean.clone(), signals.epoch
        i, loss = signals.indices, signals["batch_loss"].float()
        past = self.past[i]
        self.mean[i] = torch.where(past.isnan(), loss, self.alpha * past + (1 - self.alpha) * loss)
        self.inner.observe(Signals(i, {"loss": self.mean[i]}, signals.epoch))

    def surrogate(self) -> Tensor | None:
        return self.inner.surrogate()
