"""Building blocks of methods that choose a set: gradients of the last layer, and kernels between samples.

Nothing here holds an n x n matrix or a gradient of C (d + 1) entries per sample: kernels give a few rows at a time,
and gradients of the last layer stay in their two factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

EVERY = slice(None)
Kernel: TypeAlias = Callable[..., Tensor]  # indices i (b,), j (m,) or all by default -> the kernel between them (b, m)

# --- gradients of the last layer -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Factored:
    """n matrices g_i = e_i (x) f_i, held as `e` (n, C) and `f` (n, D)."""

    e: Tensor
    f: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Factored:
        return Factored(self.e[rows], self.f[rows])

    def double(self) -> Factored:
        return Factored(self.e.double(), self.f.double())

    def __len__(self) -> int:
        return len(self.e)

    def products(self, i: Tensor, j: Tensor | slice = EVERY) -> Tensor:
        """<g_i, g_j>: (b, m)."""
        few = len(i) < 32  # for these BLAS is fast in this order
        inner = (self.f[j] @ self.f[i].T).T if few else self.f[i] @ self.f[j].T
        if self.e.shape[1] == 1:
            return inner.mul_(self.e[i]).mul_(self.e[j].T)
        return inner.mul_((self.e[j] @ self.e[i].T).T)

    def dot(self, matrix: Tensor) -> Tensor:
        """<g_i, matrix> for all i: (n,)."""
        return ((self.f @ matrix.T) * self.e).sum(1)

    def sum(self, weights: Tensor | None = None) -> Tensor:
        """Sum of (weighted) g_i: (C, D)."""
        return (self.e if weights is None else self.e * weights[:, None]).T @ self.f

    def squares(self) -> Tensor:
        """||g_i||^2: (n,)."""
        return (self.e.norm(dim=1) * self.f.norm(dim=1)).square()


def kronecker_inverse(g: Factored, logits: Tensor, damping: float) -> Factored:
    """H^-1 g_i for the last layer's Hessian of the mean cross-entropy, approximated by E[diag p - p p^T] (x) E[f f^T].

    `damping` times the mean of its diagonal is added to that of each factor.
    """
    p = logits.double().softmax(1)
    f = g.f.double()
    inverse = []
    for factor in (p.mean(0).diag() - p.T @ p / len(p), f.T @ f / len(f)):
        ridge = damping * factor.diag().mean().clamp(min=1e-30)
        inverse.append(torch.linalg.inv(factor + ridge * torch.eye(len(factor), dtype=torch.float64)))
    return Factored((g.e.double() @ inverse[0]).to(g.e.dtype), (f @ inverse[1]).to(g.f.dtype))


def last_layer(logits: Tensor, labels: Tensor, embedding: Tensor) -> Factored:
    """Cross-entropy's gradients in the last layer and its bias: (p_i - y_i) (x) [h_i; 1]."""
    error = logits.double().softmax(1)
    error = error - F.one_hot(labels, logits.shape[1])  # in double: p - 1 cancels for confident samples
    return Factored(error.to(embedding.dtype), torch.cat([embedding, torch.ones_like(embedding[:, :1])], 1))


# --- kernels ---------------------------------------------------------------------------------------------------------


def vectors(x: Tensor) -> Factored:
    """Plain vectors x (n, d)."""
    return Factored(torch.ones_like(x[:, :1]), x)


def squared_distance(g: Factored) -> Kernel:
    """||g_i - g_j||^2."""
    square = g.squares()

    def kernel(i: Tensor, j: Tensor | slice = EVERY) -> Tensor:
        return g.products(i, j).mul_(-2).add_(square[i, None]).add_(square[j]).clamp_(min=0.0)

    return kernel


def euclidean(x: Tensor) -> Kernel:
    """||x_i - x_j||^2, of the centred x, whose smaller norms cancel less."""
    return squared_distance(vectors(x - x.mean(0)))


def unit(g: Factored) -> Factored:
    """g_i / ||g_i||."""
    return Factored(g.e / g.squares().clamp(min=1e-30).sqrt()[:, None], g.f)


def similarity(g: Factored) -> Kernel:
    """(1 + cos(g_i, g_j)) / 2, for g_i of length 1."""
    return lambda i, j=EVERY: g.products(i, j).mul_(0.5).add_(0.5)


def total_similarity(g: Factored) -> Tensor:
    """sum_j (1 + cos(g_i, g_j)) / 2, for g_i of length 1: (n,) float64."""
    parts = [slice(start, start + 1024) for start in range(0, len(g), 1024)]
    everything = torch.stack([g[part].double().sum() for part in parts]).sum(0)
    return 0.5 * len(g) + 0.5 * torch.cat([g[part].double().dot(everything) for part in parts])


def symmetric_kl(logits: Tensor) -> Kernel:
    """(KL(p_i || p_j) + KL(p_j || p_i)) / 2."""
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    own = (p * log_p).sum(1)
    left, right = torch.cat([p, log_p], 1), torch.cat([log_p, p], 1)
    return lambda i: (0.5 * (own[i, None] + own - left[i] @ right.T)).clamp_(min=0.0)


def directions(on: str, embedding: Tensor, logits: Tensor, labels: Tensor) -> Factored:
    """The gradients in the last layer, or the embeddings where `on` says so, scaled to length 1."""
    return unit(vectors(embedding) if on == "embedding" else last_layer(logits, labels, embedding))
