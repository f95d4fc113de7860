"""DynaMS, dynamic margin selection: the samples nearest to the decision boundary, chosen anew now and then."""

import torch

from dpbench.draws import others, top
from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, param


class DynaMS(PruningMethod):
    """Every `every` epochs choose the k samples of smallest distance to the decision boundary.

    Before each choice the samples left out are forwarded once with the current model, where the paper evaluates a
    slimmed proxy that shares its parameters. Assumed, since the paper's formula was not to be had: the distance is
    |z_y - max_{c != y} z_c| in logits, not divided by the norm of the two classes' weight difference; k is
    constant; the first choice is random; `every` = 5.
    """

    every: int = param(5, low=1, high=50)

    paper = "Wang et al., DynaMS: dynamic margin selection for efficient deep learning (ICLR 2023)"

    def requires(self) -> Requires:
        return Requires({"margin"})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.distance = torch.full((task.n,), float("nan"))
        self.chosen = torch.arange(task.n)

    def select(self, epoch: int) -> Selection:
        if epoch % self.every == 0:
            self.chosen = top(-self.distance, self.task.k, self.rng)
        due = (epoch + 1) % self.every == 0 and epoch + 1 < self.task.epochs
        return Selection(self.chosen, refresh=others(self.task.n, self.chosen) if due else None)

    def observe(self, signals: Signals) -> None:
        self.distance[signals.indices] = signals["margin"].float().abs()
