"""EL2N: keep the samples with the largest error vector early in training."""

import torch

from dpbench.method import Proxy, PruningMethod, Selection, Signals, Task, param, top


class EL2N(PruningMethod):
    """Score a sample by ||p - y||_2 after `at_epoch` epochs, averaged over `runs` proxy runs; keep the k largest."""

    at_epoch: int = param(10, low=1, high=50)
    runs: int = param(1, low=1, high=20)

    needs = frozenset({"error_norm"})
    period = 0
    paper = "Paul et al., Deep learning on a data diet (NeurIPS)"
    year = 2021

    @property
    def proxy(self) -> Proxy:
        return Proxy(epochs=self.at_epoch, seeds=self.runs, at="end")

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.scores = torch.zeros(task.n, self.runs)

    def select(self, epoch: int) -> Selection:
        return Selection(top(self.scores.mean(1), self.task.k, self.rng))

    def observe(self, signals: Signals) -> None:
        if signals.proxy_run is not None:
            self.scores[signals.indices, signals.proxy_run] = signals["error_norm"].float()
