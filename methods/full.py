"""Full training: every sample in every epoch, the reference of every comparison."""

import torch

from dpbench.method import PruningMethod, Requires, Selection


class Full(PruningMethod):
    """Train on all samples."""

    def requires(self) -> Requires:
        return Requires(period=0, fixed_keep=1.0)

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n))
