"""ZCore: samples that cover the embedding's space where few others do, seen in many small subspaces."""

import torch
from torch import Tensor

from dpbench.greedy import FLAT, guard
from dpbench.method import Proxy, Requires, Signals, param
from dpbench.scores import ScoreMethod


class ZCore(ScoreMethod):
    """Keep the k samples of largest coverage less redundancy, added up over `rounds` random subspaces.

    Each round draws `dims` dimensions, in each a value from the triangular distribution with the embedding's least,
    median and largest value as its ends and mode, and gives the sample i nearest to it, by the sum of absolute
    differences in these dimensions, a score of 1. The `near` samples j nearest to i share a score of -1 in
    proportion to d_ij^-`power`; where one coincides with i it has all of it. Scores start from U(0, 1).
    No label is used. The released code has `rounds` = 10^6, `dims` = 2, `near` = 1000 and `power` = 4; a round takes
    O(n), so that 10^6 of them take hours. Its embedding is CLIP's beside a ResNet's, here it is the proxy's.
    """

    rounds: int = param(2000, low=1, high=10_000_000, log=True)
    dims: int = param(2, low=1, high=64)
    near: int = param(1000, low=1, high=10_000)
    power: float = param(4.0, low=0.0, high=16.0)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Griffin et al., Zero-shot coreset selection via iterative subspace sampling (arXiv 2411.15349, 2024)"

    def requires(self) -> Requires:
        return Requires({"embedding"}, Proxy(self.proxy_epochs), period=0)

    def take(self, seen: Signals) -> None:
        h = seen["embedding"].T.contiguous()  # (d, n): a round reads whole rows
        d, n = h.shape
        dims, near = min(self.dims, d), min(self.near, n - 1)
        guard("zcore", 2 * FLAT * self.rounds * n * (dims + 2), 3 * h.numel())
        low, mode, high = h.amin(1), h.median(1).values, h.amax(1)
        self.total = torch.rand(n, generator=self.rng, dtype=torch.float64)
        for _ in range(self.rounds):
            dim = torch.randperm(d, generator=self.rng)[:dims]
            point = triangular(low[dim], mode[dim], high[dim], torch.rand(dims, generator=self.rng))
            best = int(distances(h, dim, point).argmin())
            self.total[best] += 1
            apart = distances(h, dim, h[dim, best])
            apart[best] = float("inf")
            distance, others = apart.topk(near, largest=False)
            if near and distance[0] == 0:
                self.total[others[0]] -= 1
            elif near:
                closeness = (distance[0] / distance.double()).pow(self.power)
                self.total[others] -= closeness / closeness.sum()

    def scores(self) -> Tensor:
        return self.total


def distances(h: Tensor, dim: Tensor, point: Tensor) -> Tensor:
    """The sum of |h_ci - point_c| over the dimensions c in `dim` of h (d, n): (n,)."""
    return torch.stack([(h[c] - x).abs_() for c, x in zip(dim.tolist(), point, strict=True)]).sum(0)


def triangular(low: Tensor, mode: Tensor, high: Tensor, u: Tensor) -> Tensor:
    """The values at which triangular distributions' cumulative probability is `u`, all (c,)."""
    width = (high - low).clamp(min=1e-30)
    left = u < (mode - low) / width
    return torch.where(left, low + (u * width * (mode - low)).sqrt(), high - ((1 - u) * width * (high - mode)).sqrt())
