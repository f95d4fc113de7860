"""Facility location: every sample should have a similar one among those that are kept."""

import torch

from dpbench.greedy import facility_location, guard, last_layer, similarity, vectors
from dpbench.method import Proxy, Selection, param
from dpbench.scores import SubsetMethod


class FacilityLocation(SubsetMethod):
    """Maximise sum_j max_{i in S} s_ij by lazy greedy, s_ij = (1 + cos) / 2. O(n^2 d) time, less if `balanced`.

    The cosine is between the gradients in the last layer, as in DeepCore, or with `on="embedding"` the embeddings.
    """

    on: str = param("gradient", choices=("gradient", "embedding"))
    proxy_epochs: int = param(30, low=1, high=200)

    needs = frozenset({"logits", "embedding"})
    paper = "Iyer et al., Submodular combinatorial information measures (ALT)"
    year = 2021

    @property
    def proxy(self) -> Proxy:
        return Proxy(self.proxy_epochs)

    def among(self, members: torch.Tensor, k: int) -> Selection:
        h, logits = self.seen["embedding"][members], self.seen["logits"][members]
        width = h.shape[1] + logits.shape[1]
        guard("facility_location", 5 * len(h) * (len(h) + k) * width, 3 * len(h) * width + 2**25)
        g = last_layer(logits, self.labels()[members], h) if self.on == "gradient" else vectors(h)
        return Selection(facility_location(similarity(g), len(h), k)[0])
