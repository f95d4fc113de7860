"""Selective-Backprop: send a sample backward with a probability that grows with the rank of its loss."""

import torch

from dpbench.method import Picks, PruningMethod, Requires, Selection, Signals, Task, param


class SelectiveBackprop(PruningMethod):
    """Pick a row with probability max(floor, CDF(l)^beta), CDF its percentile among the last R losses.

    beta defaults to 1 / keep - 1, since the expected share is 1 / (1 + beta). All samples are forwarded;
    1 / keep batches are offered per trained batch, so that a trained batch has about the usual size.
    """

    beta: float | None = param(None, low=0.0, high=9.0)
    history: int = param(1024, low=64, high=8192)
    floor: float = param(0.0, low=0.0, high=0.5)

    paper = "Jiang et al., Accelerating deep learning by focusing on the biggest losers (arXiv 1910.00762, 2019)"

    def requires(self) -> Requires:
        return Requires({"loss"}, online=True)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.losses = torch.empty(0)

    def pool(self, task: Task) -> int:
        return max(1, round(1 / task.keep))

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n))

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        beta = 1 / self.task.keep - 1 if self.beta is None else self.beta
        loss = signals["loss"].float()
        history = torch.cat([self.losses, loss])[-self.history :].sort().values
        percentile = torch.searchsorted(history, loss, right=True) / len(history)
        probability = percentile.pow(beta).clamp(min=self.floor)
        return Picks((torch.rand(len(loss), generator=rng) < probability).nonzero().squeeze(1))

    def observe(self, signals: Signals) -> None:
        self.losses = torch.cat([self.losses, signals["loss"].float()])[-self.history :]
