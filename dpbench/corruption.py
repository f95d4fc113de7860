"""What is done to clean training samples on purpose: a long tail, wrong labels, copies. Every draw is seeded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dpbench.draws import sample
from dpbench.errors import UsageError

if TYPE_CHECKING:
    from dpbench.data import Source

NOISES = ("symmetric", "asymmetric", "instance")
SPREAD = 0.1  # standard deviation of the samples' own rates of instance-dependent noise, as in its public code


def long_tail(labels: Tensor, classes: int, ratio: float, rng: torch.Generator) -> Tensor:
    """The rows that are left, sorted, when class c keeps n_c = n_max ratio^(c / (C - 1)) samples (Cui et al. 2019).

    n_max is the largest number that all classes allow, so that the sizes are exact, and no class is left empty. What a
    smaller ratio keeps, a larger one does too, where they have the same n_max.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    profile = ratio ** (torch.arange(classes, dtype=torch.float64) / max(1, classes - 1))
    there = counts > 0
    largest = (counts[there] / profile[there]).min()
    wanted = (largest * profile).round().clamp(min=1).minimum(counts).long().tolist()
    shuffled = torch.randperm(len(labels), generator=rng)
    rows = [shuffled[labels[shuffled] == c][:count] for c, count in enumerate(wanted)]
    return torch.cat(rows).sort().values


def wrong_labels(train: Source, classes: int, noise: str, rate: float, rng: torch.Generator) -> Tensor:
    """The labels (n,) with the share `rate` of them wrong.

    "symmetric": another class, drawn uniformly. "asymmetric": class c becomes c + 1, the last one 0 (pair flips).
    "instance": each sample i draws its own rate q_i of a normal distribution around `rate`, truncated to [0, 1], and
    becomes class k with probability q_i softmax_k(x_i W), where x_i are its features, W is drawn once for its class,
    and its own class is left out (Xia et al. 2020, as in the public code). The share is exact in the first two, and the
    expectation of the last is the mean of the truncated distribution.
    """
    labels = train.labels
    if noise == "instance":
        return _by_instance(train, classes, rate, rng)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[sample(len(labels), round(rate * len(labels)), rng)] = True
    shift = torch.randint(1, classes, (len(labels),), generator=rng) if noise == "symmetric" else 1
    return torch.where(chosen, (labels + shift) % classes, labels)


def _by_instance(train: Source, classes: int, rate: float, rng: torch.Generator) -> Tensor:
    features = train.features()
    if features is None:
        raise UsageError(f"noise=instance needs features of the samples, and {type(train).__name__} gives none")
    features = features.double()
    mean = features.nanmean(0)
    scale = (features - mean).square().nanmean(0).sqrt()
    features = ((features - mean) / torch.where(scale > 0, scale, 1.0)).nan_to_num(0.0)
    low, high = torch.special.ndtr(torch.tensor([-rate, 1 - rate], dtype=torch.float64) / SPREAD)
    uniform, toss = torch.rand(2, len(features), generator=rng, dtype=torch.float64)
    rates = rate + SPREAD * torch.special.ndtri(low + uniform * (high - low))
    flips = toss < rates
    found = train.labels.clone()
    for label in range(classes):
        weights = torch.randn(features.shape[1], classes, generator=rng, dtype=torch.float64)
        rows = ((train.labels == label) & flips).nonzero().squeeze(1)
        if len(rows):
            scores = (features[rows] @ weights).index_fill_(1, torch.tensor(label), -torch.inf)
            found[rows] = scores.softmax(1).multinomial(1, generator=rng).squeeze(1)
    return found


def copies(n: int, share: float, rng: torch.Generator) -> Tensor:
    """The rows whose copies, appended to n samples, make up the share of all; a row may be copied more than once."""
    return torch.randint(n, (round(n * share / (1 - share)),), generator=rng)
