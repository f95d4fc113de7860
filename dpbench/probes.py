"""What is measured beside the training without disturbing it: selection stability and gradient direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dpbench.data import Loader
from dpbench.sampler import batches
from dpbench.train import Learner


def jaccard(a: Tensor, b: Tensor) -> float:
    """|A and B| / |A or B| of two boolean masks (n,); 1 for two empty sets."""
    union = int((a | b).count_nonzero())
    return int((a & b).count_nonzero()) / union if union else 1.0


def jaccard_chance(a: int, b: int, n: int) -> float:
    """The Jaccard index at the expected overlap a b / n of two independent uniform draws of sizes a and b from n."""
    overlap = a * b / n
    return overlap / (a + b - overlap) if a + b else 1.0


@dataclass(frozen=True)
class GradientProbe:
    """Full and selected mean gradient at the same parameters: their cosine, norm ratio, and the full one's norm.

    `cosine_surrogate` and `norm_ratio_surrogate` have the gradient of a surrogate loss in the place of the full one.
    """

    cosine: float
    norm_ratio: float
    norm: float
    cosine_surrogate: float = float("nan")
    norm_ratio_surrogate: float = float("nan")


def probe_gradient(
    learner: Learner,
    loader: Loader,
    rows: Tensor,
    weights: Callable[[Tensor], tuple[Tensor, int]],
    chunk: int,
    surrogate: Tensor | None = None,
) -> GradientProbe:
    """Compare the mean gradient over `rows` with the weighted mean over those of them that are trained on.

    `weights` gives each of a chunk's rows its weight, zero where it is not trained on, and how many are trained on.
    `surrogate` (n,) are the weights of a loss over all samples, whose gradient is estimated on `rows`.
    Evaluation mode, no augmentation. A selection without any of the rows gives NaN.
    """
    learner.model.eval()
    parameters = [p for p in learner.network.parameters() if p.requires_grad]
    full = [torch.zeros_like(p) for p in parameters]
    selected = [torch.zeros_like(p) for p in parameters]
    minimised = [torch.zeros_like(p) for p in parameters]
    count = 0
    for part in batches(rows, chunk):
        weight, trained = weights(part)
        losses, _ = learner.measure(*loader.batch(part, augment=False), frozenset())
        _accumulate(full, torch.autograd.grad(losses.sum(), parameters, retain_graph=True))
        _accumulate(selected, torch.autograd.grad((losses * weight).sum(), parameters, retain_graph=True))
        if surrogate is not None:
            _accumulate(minimised, torch.autograd.grad((losses * surrogate[part]).sum(), parameters))
        count += trained
    g, s = _vector(full) / len(rows), _vector(selected) / max(count, 1)
    found = GradientProbe(*_compare(s, g), float(g.norm()))
    if surrogate is None:
        return found
    share = float(surrogate[rows].sum() / surrogate.sum())  # of the weights, on the probed samples
    cosine, ratio = _compare(s, _vector(minimised) / share) if share else (float("nan"), float("nan"))
    return replace(found, cosine_surrogate=cosine, norm_ratio_surrogate=ratio)


def _vector(gradients: list[Tensor]) -> Tensor:
    return torch.cat([x.flatten() for x in gradients]).double()


def _compare(selected: Tensor, other: Tensor) -> tuple[float, float]:
    """Cosine and norm ratio of two gradients, NaN where one is zero."""
    norm_selected, norm = float(selected.norm()), float(other.norm())
    if norm == 0 or norm_selected == 0:
        return float("nan"), float("nan")
    return float(other @ selected) / (norm * norm_selected), norm_selected / norm


def _accumulate(total: list[Tensor], gradients: tuple[Tensor, ...]) -> None:
    for a, b in zip(total, gradients, strict=True):
        a.add_(b)
