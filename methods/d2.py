"""D2 pruning: message passing between difficulty and diversity on a nearest-neighbour graph."""

import math

import torch

from dpbench.draws import top
from dpbench.greedy import guard, neighbours, neighbours_cost
from dpbench.method import Proxy, Requires, Selection, param
from dpbench.scores import SubsetMethod, finite


class D2(SubsetMethod):
    """Spread difficulties to neighbours, then pick the largest and take it off its neighbours again.

    i and j are neighbours if either is among the other's `near` nearest embeddings, at distance d_ij.
    Forward: x_i <- x_i + sum_j e^{-d_ij} x_j. Reverse, after picking i: x_j <- x_j - e^{-gamma d_ij} x_i.
    The share `cut` of largest difficulty is left out first, as far as k allows. The difficulty is ||p - y||_2. The d_ij
    are of the `near` nearest neighbours; `approximate` leaves finding them to faiss.
    """

    near: int = param(5, low=1, high=50)
    approximate: bool = param(False)
    gamma: float = param(0.1, low=0.0, high=2.0)
    cut: float = param(0.0, low=0.0, high=0.5)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Maharana et al., D2 pruning: message passing for balancing diversity and difficulty (ICLR 2024)"

    def requires(self) -> Requires:
        return Requires({"embedding", "error_norm"}, Proxy(self.proxy_epochs), period=0)

    def among(self, members: torch.Tensor, seen: dict[str, torch.Tensor], k: int) -> Selection:
        h, x = seen["embedding"], finite(seen["error_norm"]).double()
        products, floats = neighbours_cost(h, self.near, self.approximate)
        guard("d2", 2 * products, 2 * floats + 30 * len(h) * self.near)  # in double precision
        start, end, distance = edges(h, self.near, self.approximate)
        density = x.index_add(0, start, (-distance).exp() * x[end])
        density[top(x, min(math.floor(self.cut * len(x) + 1e-9), len(x) - k), self.rng)] = float("-inf")
        return Selection(reverse(density, start, end, (-self.gamma * distance).exp(), k))


def edges(h: torch.Tensor, near: int, approximate: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The symmetric neighbour graph: starts, sorted, ends and distances of its edges, each in both directions."""
    distance, which = neighbours(h.double(), near, approximate)
    here = torch.arange(len(h))[:, None].expand_as(which)
    start, end = torch.cat([here, which]).flatten(), torch.cat([which, here]).flatten()
    key, slot = (start * len(h) + end).unique(return_inverse=True)
    length = distance.new_empty(len(key)).index_put_((slot,), distance.repeat(2, 1).flatten())
    return key // len(h), key % len(h), length


def reverse(
    density: torch.Tensor, start: torch.Tensor, end: torch.Tensor, weight: torch.Tensor, k: int
) -> torch.Tensor:
    """Pick k times the largest density and lower that of its neighbours."""
    first = torch.searchsorted(start, torch.arange(len(density) + 1)).tolist()
    picks = torch.zeros(k, dtype=torch.int64)
    for t in range(k):
        picks[t] = best = int(density.argmax())
        here = slice(first[best], first[best + 1])
        density[end[here]] -= weight[here] * density[best]
        density[best] = float("-inf")
    return picks
