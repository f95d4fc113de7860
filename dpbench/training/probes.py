"""What is measured beside the training without disturbing it: selection stability and gradient direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.stats import t as student
from torch import Tensor

from dpbench.data import Loader
from dpbench.draws import sample
from dpbench.training.rows import batches
from dpbench.training.train import Learner

CHUNKS = 16  # parts of a probe, between which the noise of its sampling is measured
SLICE = 2**20  # parameters whose products are summed at once


def jaccard(a: Tensor, b: Tensor) -> float:
    """|A and B| / |A or B| of two boolean masks (n,); 1 for two empty sets."""
    union = int((a | b).count_nonzero())
    return int((a & b).count_nonzero()) / union if union else 1.0


def jaccard_chance(a: int, b: int, n: int) -> float:
    """The Jaccard index at the expected overlap a b / n of two independent uniform draws of sizes a and b from n."""
    overlap = a * b / n
    return overlap / (a + b - overlap) if a + b else 1.0


def draw(n: int, samples: int, least: int, rng: torch.Generator) -> list[Tensor]:
    """Draw the rows of a probe in random order: all n in one part, or `samples` of them in parts of equal size.

    A part has `least` rows at least, unless there were less than two parts then.
    """
    if samples >= n:
        return [torch.randperm(n, generator=rng)]
    parts = max(2, min(CHUNKS, samples // least))
    rows = sample(n, samples - samples % parts, rng)
    return list(rows[torch.randperm(len(rows), generator=rng)].chunk(parts))


@dataclass(frozen=True)
class GradientProbe:
    """Full and selected mean gradient at the same parameters: their cosine, norm ratio, and the full one's norm.

    `cosine_ci95` is half the cosine's 95 % interval, 0 where all samples are probed. `cosine_surrogate` and
    `norm_ratio_surrogate` have the gradient of a surrogate loss in the place of the full one.
    """

    cosine: float
    cosine_ci95: float
    norm_ratio: float
    norm: float
    cosine_surrogate: float = float("nan")
    norm_ratio_surrogate: float = float("nan")

    def measures(self, surrogate: bool) -> dict[str, float]:
        """The probe by the names of the measures, with those of the surrogate loss where there is one."""
        found = {"gradient_cosine": self.cosine, "gradient_cosine_ci95": self.cosine_ci95}
        found |= {"gradient_norm_ratio": self.norm_ratio, "gradient_norm": self.norm}
        if surrogate:
            found["gradient_cosine_surrogate"] = self.cosine_surrogate
            found["gradient_norm_ratio_surrogate"] = self.norm_ratio_surrogate
        return found


def probe_gradient(
    learner: Learner,
    loader: Loader,
    parts: list[Tensor],
    weights: Callable[[Tensor], tuple[Tensor, int]],
    chunk: int,
    surrogate: Tensor | None = None,
) -> GradientProbe:
    """Compare the mean gradient over the loader's samples with the weighted mean over those that are trained on.

    Both are estimated on the rows of `parts`, as `draw` gives them; see `products`. `weights` gives each of at most
    `chunk` rows its weight, zero where it is not trained on, and how many are trained on. `surrogate` (n,) are the
    weights of a loss over all samples, whose gradient is a third. Evaluation mode, no augmentation. A gradient whose
    norm is zero, or is so by its estimate, gives NaN. For fp16, which
    would need a scaled loss, the passes are in float32.
    """
    learner.model.eval()
    scaled = learner.recipe.precision == "fp16"
    parameters = [p for p in learner.network.parameters() if p.requires_grad]
    kinds = 2 if surrogate is None else 3
    size = sum(p.numel() for p in parameters)
    means = torch.zeros(kinds, len(parts), size, device=learner.device)  # of x, of w x, and of the surrogate's w x
    count = 0
    for number, part in enumerate(parts):
        for rows in batches(part, chunk):
            weight, trained = weights(rows)
            inputs, labels = loader.batch(rows, augment=False)
            outputs = learner.network(inputs) if scaled else learner.forward(inputs, learner.network)
            losses = learner.workload.losses(outputs, labels)
            count += trained
            of_kinds = [losses, losses * weight] + ([] if surrogate is None else [losses * surrogate[rows]])
            for kind, weighted in enumerate(of_kinds):
                gradients = torch.autograd.grad(weighted.sum(), parameters, retain_graph=kind + 1 < kinds)
                means[kind, number] += torch.cat([x.flatten() for x in gradients]) / len(part)
    rows = torch.cat(parts)
    gram = _gram(means.flatten(0, 1)).view(kinds, len(parts), kinds, len(parts))
    probed = len(rows) / len(loader)
    found = products(gram, probed)
    norms = found.diagonal().clamp(min=0).sqrt()
    trained_share = count / len(rows)
    norm_ratio = _ratio(float(norms[1]), float(norms[0]) * trained_share)
    cosine, norm = _cosine(found, 0), float(norms[0]) if found[0, 0] > 0 else float("nan")
    interval = _interval(gram, probed)
    if surrogate is None:
        return GradientProbe(cosine, interval, norm_ratio, norm)
    share = float(surrogate[rows].mean() / surrogate.sum())  # of the weights, on a probed sample
    ratio = _ratio(float(norms[1]) * share, float(norms[2]) * trained_share)
    return GradientProbe(cosine, interval, norm_ratio, norm, _cosine(found, 2), ratio)


def products(gram: Tensor, probed: float) -> Tensor:
    """Inner products (a, a) of a kinds' mean vectors over all samples, unbiased, from those of parts of a sample.

    `gram` (a, b, a, b) has the inner products of the kinds' means in b parts, of equal size and drawn without
    replacement, which are the share `probed` of all samples. The square of a mean has the mean's variance in it, by
    which a probe of 512 samples makes equal gradients look different; the parts tell how much that is.
    """
    parts = gram.shape[1]
    plain = gram.mean((1, 3))
    if parts == 1:
        return plain
    covariance = (gram.diagonal(dim1=1, dim2=3).sum(-1) - parts * plain) / (parts - 1)
    return plain - (1 - probed) * covariance / parts


def _interval(gram: Tensor, probed: float) -> float:
    """Half the cosine's 95 % interval by the jackknife over the parts; 0 where all samples are probed."""
    parts = gram.shape[1]
    if parts == 1:
        return 0.0
    without = [torch.arange(parts) != part for part in range(parts)]
    left = torch.tensor(
        [_cosine(products(gram[:, kept][..., kept], probed * (parts - 1) / parts), 0) for kept in without]
    )
    variance = (1 - probed) * (parts - 1) * float(left.var(correction=0))
    return float(student.ppf(0.975, parts - 1)) * variance**0.5


def _gram(vectors: Tensor) -> Tensor:
    """Inner products (k, k) of `vectors` (k, p) in double precision, on the CPU."""
    return sum((part.double() @ part.double().T for part in vectors.split(SLICE, 1)), torch.tensor(0.0)).cpu()


def _cosine(found: Tensor, other: int) -> float:
    """The cosine of the selected gradient, kind 1, and the `other`."""
    squared = float(found[1, 1]), float(found[other, other])
    return float(found[1, other]) / (squared[0] * squared[1]) ** 0.5 if min(squared) > 0 else float("nan")


def _ratio(a: float, b: float) -> float:
    return a / b if min(a, b) > 0 else float("nan")
