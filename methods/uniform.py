"""Static uniform sampling: one random subset for the whole training."""

import torch

from dpbench.draws import sample
from dpbench.method import PruningMethod, Requires, Selection, param
from dpbench.scores import groups


class Uniform(PruningMethod):
    """Draw k of n samples once, uniformly without replacement; `balanced` draws its share of k from each class."""

    balanced: bool = param(False)

    def requires(self) -> Requires:
        return Requires(period=0)

    def select(self, epoch: int) -> Selection:
        among = groups(self.task, self.balanced)
        return Selection(torch.cat([members[sample(len(members), k, self.rng)] for members, k in among]))
