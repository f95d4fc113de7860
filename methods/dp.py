"""Dataset pruning by optimisation: prune samples whose influences on the parameters cancel."""

import numpy as np

from dpbench.draws import others, top
from dpbench.kernels import kronecker_inverse, last_layer
from dpbench.method import Proxy, Requires, Selection, Signals, param
from dpbench.scores import Static


class DP(Static):
    """Find W in {0, 1}^n with sum W = n - k that minimises ||sum_i W_i H^-1 g_i||_2, and prune where W is 1.

    By simulated annealing, as in the paper: `steps` proposals to swap a pruned and a kept sample, from the n - k of
    smallest influence on, at a temperature that falls from 1e-2 to 1e-6 of the first squared norm. Gradients are those
    of the last layer and H is the Kronecker product of `influence`; both, and the schedule, are assumed.
    """

    steps: int = param(10000, low=1000, high=1000000, log=True)
    damping: float = param(0.01, low=1e-4, high=1.0, log=True)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Yang et al., Dataset pruning: reducing training data by examining generalization influence (ICLR 2023)"

    def requires(self) -> Requires:
        return Requires({"logits", "embedding"}, Proxy(self.proxy_epochs), period=0)

    def take(self, seen: Signals) -> None:
        g = last_layer(seen["logits"], self.labels(), seen["embedding"])
        influence = kronecker_inverse(g, seen["logits"], self.damping)
        pruned = top(-influence.squares(), self.task.n - self.task.k, self.rng)
        kept = others(self.task.n, pruned)
        if len(pruned):
            self._anneal(influence.e.numpy(), influence.f.numpy(), pruned.numpy(), kept.numpy())
        self.kept = kept

    def choose(self) -> Selection:
        return Selection(self.kept)

    def _anneal(self, e: np.ndarray, f: np.ndarray, pruned: np.ndarray, kept: np.ndarray) -> None:
        """Swap entries of `pruned` and `kept` in place."""
        rng = np.random.default_rng(0)  # the same proposals for every seed: the answer is the record's
        total = e[pruned].T @ f[pruned]
        energy = float((total**2).sum())
        heat = energy / 100 * 1e-4 ** (np.arange(self.steps) / self.steps)
        rows, columns = rng.integers(len(pruned), size=self.steps), rng.integers(len(kept), size=self.steps)
        luck = -np.log(1 - rng.random(self.steps))
        for step, (a, b) in enumerate(zip(rows, columns, strict=True)):
            i, j = pruned[a], kept[b]
            proposed = total + np.outer(e[j], f[j]) - np.outer(e[i], f[i])
            change = float((proposed**2).sum()) - energy
            if change <= heat[step] * luck[step]:
                total, energy = proposed, energy + change
                pruned[a], kept[b] = j, i
