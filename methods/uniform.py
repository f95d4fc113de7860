"""Static uniform sampling: one random subset for the whole training."""

from dpbench.method import PruningMethod, Selection, sample


class Uniform(PruningMethod):
    """Draw k of n samples once, uniformly without replacement."""

    period = 0

    def select(self, epoch: int) -> Selection:
        return Selection(sample(self.task.n, self.task.k, self.rng))
