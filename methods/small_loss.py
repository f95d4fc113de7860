"""Small loss: train on the rows of smallest loss in each batch, a plain control."""

import torch

from dpbench.draws import top
from dpbench.method import Picks, PruningMethod, Requires, Selection, Signals, Task


class SmallLoss(PruningMethod):
    """Of every forwarded batch keep the share `keep` of rows of smallest loss, without weights.

    It learns from what it knows, and from the clean where labels are noisy. 1 / keep batches are offered per trained
    batch, so that it has about the usual size. The gradient is biased towards easy samples.
    """

    def requires(self) -> Requires:
        return Requires({"loss"})

    def pool(self, task: Task) -> int:
        return max(1, round(1 / task.keep))

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n))

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        return Picks(top(-signals["loss"].float(), max(1, round(self.task.keep * len(signals))), rng))
