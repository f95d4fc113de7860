"""Full training: every sample in every epoch, the reference of every comparison."""

import torch

from dpbench.method import PruningMethod, Selection


class Full(PruningMethod):
    """Train on all samples."""

    keep = 1.0
    period = 0

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n))
