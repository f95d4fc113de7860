"""RHO-Loss: the samples whose loss a model trained on other data would lower most."""

import torch

from dpbench.draws import top
from dpbench.method import Picks, Proxy, PruningMethod, Requires, Selection, Signals, Task, param


class RHOLoss(PruningMethod):
    """Of every forwarded batch keep the share `keep` of rows of largest l_i - IL_i.

    IL_i, the irreducible loss, is the loss of i under a proxy trained on holdout data for `proxy_epochs` epochs.
    1 / keep batches are offered per trained batch, so that it has about the usual size (paper: 32 of 320).
    """

    proxy_epochs: int = param(10, low=1, high=100)

    paper = "Mindermann et al., Prioritized training on points that are learnable, worth learning (ICML 2022)"

    def requires(self) -> Requires:
        return Requires({"loss"}, Proxy(self.proxy_epochs, data="holdout"))

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.irreducible = torch.zeros(task.n)

    def pool(self, task: Task) -> int:
        return max(1, round(1 / task.keep))

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n))

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        reducible = signals["loss"].float() - self.irreducible[signals.indices]
        return Picks(top(reducible, max(1, round(self.task.keep * len(signals))), rng))

    def observe(self, signals: Signals) -> None:
        if signals.proxy_run is not None:
            self.irreducible[signals.indices] = signals["loss"].float()
