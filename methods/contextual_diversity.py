"""Contextual diversity: add the sample whose prediction is farthest from those that are kept."""

import torch

from dpbench.greedy import FLAT, guard, k_center
from dpbench.kernels import symmetric_kl
from dpbench.method import Proxy, Requires, Selection, param
from dpbench.scores import SubsetMethod


class ContextualDiversity(SubsetMethod):
    """k-center greedy with the distance (KL(p_a || p_b) + KL(p_b || p_a)) / 2, from a random first sample on."""

    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Agarwal et al., Contextual diversity for active learning (ECCV 2020)"

    def requires(self) -> Requires:
        return Requires({"logits"}, Proxy(self.proxy_epochs), period=0)

    def among(self, members: torch.Tensor, seen: dict[str, torch.Tensor], k: int) -> Selection:
        logits = seen["logits"]
        guard(
            "contextual_diversity",
            (2 * FLAT * logits.shape[1] + 100) * len(logits) * k,
            10 * logits.numel() + 400 * len(logits),
        )
        first = int(torch.randint(len(logits), (1,), generator=self.rng))
        return Selection(k_center(symmetric_kl(logits), len(logits), k, first))
