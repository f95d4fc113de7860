"""Ordered SGD: step on the samples of largest loss in each mini-batch, ever fewer as the training goes on."""

import torch

from dpbench.draws import top
from dpbench.method import Picks, PruningMethod, Requires, Selection, Signals, Task, param

SCHEDULE = ((0.995, 1 / 16), (0.95, 1 / 8), (0.9, 1 / 4), (0.8, 1 / 2))  # training accuracy reached -> q / s


class OrderedSGD(PruningMethod):
    """Step on the mean of the q largest losses in a mini-batch of s; all of it is forwarded.

    q = s at first, s/2, s/4, s/8 and s/16 once the training accuracy has reached 80, 90, 95 and 99.5 %: the schedule
    is the method's own and ignores the requested keep. `share` fixes q/s instead. The accuracy is that of the last
    forward pass of each sample, taken before the epoch; it may fall again, and q / s with it.
    """

    share: float | None = param(None, low=1 / 16, high=1.0)

    paper = "Kawaguchi & Lu, Ordered SGD: a new stochastic optimization framework for empirical risk (AISTATS 2020)"

    def requires(self) -> Requires:
        return Requires({"loss", "correct"})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.correct = torch.zeros(task.n)
        self.current = 1.0

    def select(self, epoch: int) -> Selection:
        accuracy = float(self.correct.double().mean())
        scheduled = next((share for reached, share in SCHEDULE if accuracy >= reached), 1.0)
        self.current = scheduled if self.share is None else self.share
        return Selection(torch.arange(self.task.n))

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        return Picks(top(signals["loss"].float(), max(1, int(self.current * len(signals))), rng))

    def observe(self, signals: Signals) -> None:
        self.correct[signals.indices] = signals["correct"].float()
