"""SeTa: a uniform draw, grouped by loss, of which a window of groups slides from easy to hard."""

import torch
from torch import Tensor

from dpbench.draws import sample
from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, param


class SeTa(PruningMethod):
    """Draw (1 - r) n samples, cluster their losses by 1-D k-means into G groups, keep groups s, ..., s + W - 1.

    Groups are sorted from easy to hard, W = round(window_scale G), and s = t mod (G - W + 1) in epoch t; epoch 0
    keeps all groups. The last 1 - delta of the training uses the uniform draw alone. r defaults to 1 - keep as in
    the paper's tables; more is pruned, by the groups outside the window. Nothing is re-weighted.
    Unseen samples have the loss 3 (released code).
    """

    r: float | None = param(None, low=0.0, high=0.9)
    groups: int = param(5, low=2, high=20)
    window_scale: float = param(0.9, low=0.1, high=1.0)
    delta: float = param(0.875, low=0.0, high=1.0)

    paper = "Zhou et al., Scale efficient training for large datasets (CVPR 2025)"

    def requires(self) -> Requires:
        return Requires({"loss"})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.losses = torch.full((task.n,), 3.0)

    def select(self, epoch: int) -> Selection:
        n = self.task.n
        drawn = sample(n, self.task.k if self.r is None else max(1, round((1 - self.r) * n)), self.rng)
        if epoch == 0 or epoch >= self.delta * self.task.epochs:
            return Selection(drawn)
        drawn = drawn[torch.randperm(len(drawn), generator=self.rng)]  # equal losses in random order
        losses, order = self.losses[drawn].sort(stable=True)
        groups = min(self.groups, len(drawn))
        edges = kmeans_edges(losses, groups)
        window = min(groups, max(1, round(self.window_scale * groups)))
        start = epoch % (groups - window + 1)
        return Selection(drawn[order[edges[start] : edges[start + window]]])

    def observe(self, signals: Signals) -> None:
        loss = signals["loss"].float()
        self.losses[signals.indices] = loss.nan_to_num(nan=torch.finfo(loss.dtype).max)


def kmeans_edges(values: Tensor, groups: int) -> list[int]:
    """Cluster sorted `values` by k-means; group g is values[edges[g]:edges[g + 1]], and none is empty.

    In one dimension the optimum is found by dynamic programming, here over groups that begin at one of 256 quantiles
    or 256 evenly spaced values, which up to n = 256 are all there are.
    """
    n, values = len(values), values.double()
    even = torch.linspace(0, 1, 257, dtype=torch.float64) * (values[-1] - values[0]) + values[0]
    cuts = torch.cat([torch.linspace(0, n, 257).long(), torch.searchsorted(values, even)]).unique()
    moments = torch.stack([values.new_ones(n), values, values.square()]).cumsum(1)
    moments = torch.cat([moments.new_zeros(3, 1), moments], 1)[:, cuts]
    size, total, square = moments[:, None, :] - moments[:, :, None]  # of the values from one cut to another
    cost = square - total.square() / size + 1e-9 * size.square() / n  # the last term splits equal values evenly
    cost[size <= 0] = float("inf")
    best, before = cost[0], []
    for _ in range(groups - 1):
        best, cut = (best[:, None] + cost).min(0)
        before.append(cut)
    path = [len(cuts) - 1]
    for cut in reversed(before):
        path.append(int(cut[path[-1]]))
    return [0, *(int(cuts[at]) for at in reversed(path))]
