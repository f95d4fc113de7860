"""CCS, coverage-centric coreset selection: leave out the hardest, then cover all levels of difficulty."""

from functools import partial

import torch

from dpbench.method import Proxy, Requires, Selection, Signals, Task, param
from dpbench.scores import Static, groups, pick, stratified


class CCS(Static):
    """Drop the share `cut` of lowest AUM, split the rest into `strata` of equal score width, draw from each.

    The budget is filled from the smallest stratum on: each gives all it has, or an equal part of what is missing.
    AUM is the mean over the epochs of z_y - max_{c != y} z_c; the released code sums margins of probabilities. The
    paper tunes `cut` (its beta) to each keep, 0.3 at a tenth of CIFAR-10. Never more than n - k are cut.
    """

    cut: float = param(0.1, low=0.0, high=0.5)
    strata: int = param(50, low=2, high=200)
    balanced: bool = param(False)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Zheng et al., Coverage-centric coreset selection for high pruning rates (ICLR 2023)"

    def requires(self) -> Requires:
        return Requires({"margin"}, Proxy(self.proxy_epochs, at="steps"), period=0)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.hardness = torch.zeros(task.n)

    def take(self, seen: Signals) -> None:
        self.hardness -= seen["margin"]

    def choose(self) -> Selection:
        rule = partial(stratified, cut=self.cut, strata=self.strata)
        return Selection(pick(self.hardness, groups(self.task, self.balanced), rule, self.rng))
