"""Facility location: every sample should have a similar one among those that are kept."""

import warnings

import torch

from dpbench.greedy import (
    facility_location,
    facility_location_cost,
    guard,
    stochastic_facility_location,
    stochastic_facility_location_cost,
)
from dpbench.kernels import directions, similarity, total_similarity
from dpbench.method import Proxy, Requires, Selection, param
from dpbench.scores import SubsetMethod

EPSILON = 0.1
EXACT = 1e15  # multiply-adds of greedy selection, 11 hours of a core; not of the machine, as the same run is the same


class FacilityLocation(SubsetMethod):
    """Greedily maximise sum_j max_{i in S} s_ij, s_ij = (1 + cos) / 2. O(n^2 d log n) time, less if `balanced`.

    The cosine is between the gradients in the last layer, as in DeepCore, or with `on="embedding"` the embeddings.
    What greedy selection is predicted to take more than 1e15 multiply-adds for is left, with a warning, to stochastic
    greedy with epsilon = 0.1 if that is faster, as it is for small keep.
    """

    on: str = param("gradient", choices=("gradient", "embedding"))
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Iyer et al., Submodular combinatorial information measures (ALT 2021)"

    def requires(self) -> Requires:
        return Requires({"logits", "embedding"}, Proxy(self.proxy_epochs), period=0)

    def among(self, members: torch.Tensor, seen: dict[str, torch.Tensor], k: int) -> Selection:
        h, logits = seen["embedding"], seen["logits"]
        n, width = len(members), h.shape[1] + logits.shape[1]
        products, floats = facility_location_cost(n, width)
        less = stochastic_facility_location_cost(n, width, k, EPSILON)
        lazier = products > EXACT and less < products
        guard("facility_location", less if lazier else products, floats)
        if lazier:
            warnings.warn(
                f"{n} samples would take {products:.2g} multiply-adds, above {EXACT:.0e}: it falls back to stochastic "
                f"greedy, whose expected value is at least 1 - 1/e - {EPSILON} of the best, where greedy's is 1 - 1/e",
                stacklevel=2,
            )
        g = directions(self.on, h, logits, self.labels()[members])
        if lazier:
            return Selection(stochastic_facility_location(similarity(g), n, k, EPSILON, self.rng))
        return Selection(facility_location(similarity(g), total_similarity(g), k))
