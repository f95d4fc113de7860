"""Dynamic uniform sampling: a fresh random subset every epoch."""

import torch

from dpbench.draws import others, sample
from dpbench.method import PruningMethod, Selection, Task, param


class UniformEpoch(PruningMethod):
    """Draw k of n samples every epoch, uniformly without replacement within the epoch.

    `replace` is about the epochs: if true each is drawn afresh (Random*, and RS2 with replacement); if false the
    data is shuffled and walked in chunks of k, so that every sample is used once before any is used twice (RS2
    without replacement). The last chunk of a walk is filled up to k from the next one. The learning-rate schedule
    stretches over the k / batch steps of each epoch, as in RS2.
    """

    replace: bool = param(True)

    paper = "Raju et al., Accelerating deep learning with dynamic data pruning (arXiv 2111.12621, 2021)"

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.ahead = torch.empty(0, dtype=torch.int64)  # what the walk has not reached yet

    def select(self, epoch: int) -> Selection:
        n, k = self.task.n, self.task.k
        if self.replace:
            return Selection(sample(n, k, self.rng))
        chunk, self.ahead = self.ahead[:k], self.ahead[k:]
        if len(chunk) < k:  # fill up from the next walk, which puts off what this epoch has already
            fresh = self._shuffled(others(n, chunk))
            fill = k - len(chunk)
            self.ahead = self._shuffled(torch.cat([fresh[fill:], chunk]))
            chunk = torch.cat([chunk, fresh[:fill]])
        return Selection(chunk)

    def _shuffled(self, indices: torch.Tensor) -> torch.Tensor:
        return indices[torch.randperm(len(indices), generator=self.rng)]
