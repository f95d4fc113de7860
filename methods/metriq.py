"""MetriQ, the class quotas of DRoP: keep more of the classes that a query model gets wrong."""

import torch

from dpbench.draws import sample
from dpbench.method import Proxy, Requires, Selection, Signals, Task, param
from dpbench.scores import Static, groups


class MetriQ(Static):
    """Share k among the classes in proportion to 1 - accuracy of the class; draw uniformly within each.

    What exceeds a class's size goes to the others. The paper takes the accuracies on validation samples, which a
    method does not see; here each is over the training samples of the class just before they are trained on, in the
    first `proxy_epochs` epochs.
    """

    proxy_epochs: int = param(5, low=1, high=200)

    paper = "Vysogorets et al., DRoP: distributionally robust data pruning (ICLR 2025)"

    def requires(self) -> Requires:
        return Requires({"correct"}, Proxy(self.proxy_epochs, at="steps"), period=0)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.wrong = torch.zeros(task.n)

    def take(self, seen: Signals) -> None:
        self.wrong += 1 - seen["correct"].nan_to_num(0.0, 0.0, 0.0)

    def choose(self) -> Selection:
        error = self.labels().bincount(self.wrong.double()) / self.labels().bincount().clamp(min=1)
        among = groups(self.task, True, error)
        return Selection(torch.cat([members[sample(len(members), k, self.rng)] for members, k in among]))
