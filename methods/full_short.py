"""Full training for fewer epochs: the control that sees as many samples as a pruned run."""

import torch

from dpbench.method import PruningMethod, Requires, Selection, Task


class FullShort(PruningMethod):
    """Train on all samples for round(keep x epochs) epochs; the schedule is compressed to these epochs."""

    def requires(self) -> Requires:
        return Requires(period=0)

    def epochs(self, task: Task) -> int:
        return max(1, round(task.keep * task.epochs))

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n))
