"""RePB: drop samples of low loss within a window of batches, weight each by how seldom it was selected."""

import torch
from torch import Tensor

from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, param


class RePB(PruningMethod):
    """Keep a sample if its loss is not below the mean of its window; all others with probability 1 - rho.

    A window is `batches` batches of training in a row; the others are the samples below their window's mean and
    those that the last epoch left out. In epoch E + 1 the weight is E / N_i, with N_i the number of epochs 1, ..., E
    that selected i; epoch 1 uses all data. While a sample stays below the mean, its expected weight is 1 - rho^E, so
    that the sum of the weighted gradients tends to the full one. rho defaults to 1 - keep; less is pruned, since
    only samples below the mean can go. That N_i leaves out the epoch being weighted is our reading of a digest.
    """

    rho: float | None = param(None, low=0.0, high=0.9)
    batches: int = param(1, low=1, high=64)

    paper = "Zhou et al., Inconsistency biases in dynamic data pruning (ICLR 2026)"

    def requires(self) -> Requires:
        return Requires({"loss"}, online=True)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.stays = torch.ones(task.n, dtype=torch.bool)  # not below the mean of its window
        self.times = torch.zeros(task.n)
        self.epochs_done = 0
        self.window_indices: list[Tensor] = []
        self.window_losses: list[Tensor] = []

    def select(self, epoch: int) -> Selection:
        self._close_window()
        share = self.task.keep if self.rho is None else 1 - self.rho
        kept = self.stays | (torch.rand(self.task.n, generator=self.rng) < share)
        indices = kept.nonzero().squeeze(1)
        weights = self.epochs_done / self.times[indices] if self.epochs_done else None
        self.times[indices] += 1
        self.epochs_done += 1
        self.stays = torch.zeros_like(kept)
        return Selection(indices, weights)

    def observe(self, signals: Signals) -> None:
        self.window_indices.append(signals.indices)
        self.window_losses.append(signals["loss"].double())
        if len(self.window_losses) == self.batches:
            self._close_window()

    def _close_window(self) -> None:
        if self.window_losses:
            losses = torch.cat(self.window_losses).nan_to_num(nan=float("inf"))
            self.stays[torch.cat(self.window_indices)] = losses >= losses.mean()
            self.window_indices, self.window_losses = [], []
