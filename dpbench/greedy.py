"""Building blocks that a method file may import besides dpbench.method: kernels, greedy selection, neighbours.

Nothing here holds an n x n matrix or a gradient of C (d + 1) entries per sample: kernels give a few rows at a time,
and gradients of the last layer stay in their two factors.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

EVERY = slice(None)
Kernel: TypeAlias = Callable[..., Tensor]  # indices i (b,), j (m,) or all by default -> the kernel between them (b, m)

AHEAD = 64  # rows of a kernel computed at once for the likely next picks
POOL = 1024  # candidates whose gains are kept up to date
BLOCK = 2**21  # entries of a kernel computed at once
SPEED = 1e10  # a core's multiply-adds per second in products of matrices; a fourth of it where the matrix is a vector


def guard(what: str, products: float, floats: float) -> None:
    """Refuse what is predicted to take too long or not to fit, before it starts.

    `products` counts multiply-adds and `floats` the numbers of 4 bytes held at once. The limits are
    DPBENCH_SELECT_HOURS (12) and DPBENCH_SELECT_GB (all of the machine's memory).
    """
    hours = products / SPEED / torch.get_num_threads() / 3600
    allowed = float(os.environ.get("DPBENCH_SELECT_HOURS", 12))
    if hours > allowed:
        raise TimeoutError(
            f"{what} would take about {hours:.3g} hours, above DPBENCH_SELECT_HOURS = {allowed:g}; "
            "balanced=true divides this by about the number of classes"
        )
    gigabytes = 4 * floats / 2**30
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    room = float(os.environ.get("DPBENCH_SELECT_GB", installed))
    if gigabytes > room:
        raise MemoryError(f"{what} would take about {gigabytes:.3g} GB of memory, above the {room:.3g} GB there are")


# --- gradients of the last layer -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Factored:
    """n matrices g_i = e_i (x) f_i, held as `e` (n, C) and `f` (n, D). A single column e is all ones."""

    e: Tensor
    f: Tensor

    def __getitem__(self, rows: Tensor) -> Factored:
        return Factored(self.e[rows], self.f[rows])

    def __len__(self) -> int:
        return len(self.e)

    def products(self, i: Tensor, j: Tensor | slice = EVERY) -> Tensor:
        """<g_i, g_j>: (b, m)."""
        inner = (self.f[j] @ self.f[i].T).T  # in this order BLAS is fast for few rows too
        return inner if self.e.shape[1] == 1 else inner * (self.e[j] @ self.e[i].T).T

    def dot(self, matrix: Tensor) -> Tensor:
        """<g_i, matrix> for all i: (n,)."""
        return ((self.e @ matrix) * self.f).sum(1)

    def sum(self, weights: Tensor | None = None) -> Tensor:
        """Sum of (weighted) g_i: (C, D)."""
        return (self.e if weights is None else self.e * weights[:, None]).T @ self.f

    def squares(self) -> Tensor:
        """||g_i||^2: (n,)."""
        return self.e.square().sum(1) * self.f.square().sum(1)


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


def similarity(g: Factored) -> Kernel:
    """(1 + cos(g_i, g_j)) / 2."""
    unit = Factored(g.e, g.f * g.squares().clamp(min=1e-30).rsqrt()[:, None])
    return lambda i, j=EVERY: unit.products(i, j).mul_(0.5).add_(0.5)


def symmetric_kl(logits: Tensor) -> Kernel:
    """(KL(p_i || p_j) + KL(p_j || p_i)) / 2."""
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    own = (p * log_p).sum(1)
    left, right = torch.cat([p, log_p], 1), torch.cat([log_p, p], 1)
    return lambda i: (0.5 * (own[i, None] + own - left[i] @ right.T)).clamp_(min=0.0)


# --- greedy selection ------------------------------------------------------------------------------------------------


def greedy(
    score: Tensor, kernel: Kernel, update: Callable[[Tensor, Tensor], Tensor], k: int, first: int | None = None
) -> Tensor:
    """Pick k times the sample of highest score, each time followed by score = update(score, the pick's kernel row).

    The rows of the samples that rank highest are computed together, because some of them are picked soon: more of
    them when the last ranking foretold the next pick, fewer when not. The picks, in order (k,), do not depend on it.
    """
    score = score.clone()
    picked: list[int] = []
    likely: list[int] = []
    table, ahead = score.new_empty(0, 0), 1
    while len(picked) < k:
        best = int(score.argmax()) if picked or first is None else first
        if best not in likely[: len(table)]:
            ahead = min(AHEAD, 4 * ahead) if best in likely else max(1, ahead // 2)
            ranking = score.topk(min(AHEAD, len(score))).indices.tolist()
            likely = [best] + [i for i in ranking if i != best]
            table = kernel(torch.tensor(likely[: min(ahead, k - len(picked))]))
        picked.append(best)
        score = update(score, table[likely.index(best)])
        score[best] = float("-inf")
    return torch.tensor(picked, dtype=torch.int64)


def k_center(distance: Kernel, n: int, k: int, first: int) -> Tensor:
    """Start from `first`, then add the sample farthest from its nearest pick: the picks in order (k,)."""
    dtype = distance(torch.tensor([first])).dtype
    return greedy(torch.full((n,), float("inf"), dtype=dtype), distance, torch.minimum, k, first)


def herding(x: Tensor, k: int) -> Tensor:
    """Add argmin_i ||(t + 1) mu - sum of the picks - x_i||, mu the mean of x (n, d): the picks in order (k,).

    With x centred this is the largest -<x_i, sum of the picks> - ||x_i||^2 / 2.
    """
    x = x - x.mean(0)
    return greedy(-0.5 * x.square().sum(1), vectors(x).products, torch.sub, k)


def facility_location(kernel: Kernel, n: int, k: int) -> tuple[Tensor, Tensor]:
    """Maximise sum_j max_{i in S} s_ij, s >= 0: the picks in order (k,), and for each j which pick covers it (n,).

    The picks are those of the naive greedy algorithm, up to ties. Gains only shrink, so an old gain is an upper bound,
    and only samples whose bound exceeds the best known gain are evaluated (lazy greedy). The gains of a pool of such
    candidates are then kept up to date at the cost of the samples j that a pick covers better than before.
    """
    covered = torch.zeros_like(kernel(torch.tensor([0]))[0])
    owner = torch.zeros(n, dtype=torch.int64)

    def gains(rows: Tensor) -> Tensor:
        return (kernel(rows) - covered).clamp_(min=0.0).sum(1, dtype=torch.float64)

    bound = torch.cat([gains(part) for part in torch.arange(n).split(max(1, BLOCK // n))])
    picks, pool = torch.zeros(k, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    for t in range(k):
        stale, block = bound.index_fill(0, pool, float("-inf")), 8
        while stale.max() > (known := bound[pool].max() if len(pool) else float("-inf")):
            rows = stale.topk(min(block, n)).indices
            rows = rows[stale[rows] > known]
            bound[rows] = gains(rows)
            stale[rows] = float("-inf")
            pool, block = torch.cat([pool, rows]), min(max(1, BLOCK // n), 2 * block)
        picks[t] = best = int(pool[bound[pool].argmax()])
        row = kernel(picks[t : t + 1])[0]
        better = (row > covered).nonzero().squeeze(1)
        pool = pool[bound[pool].topk(min(POOL, len(pool))).indices]
        for part in better.split(max(1, BLOCK // len(pool))):
            gone = kernel(pool, part).clamp_(min=covered[part]).clamp_(max=row[part]).sub_(covered[part])
            bound[pool] -= gone.sum(1, dtype=torch.float64)
        covered[better], owner[better] = row[better], t
        bound[best] = float("-inf")
        pool = pool[pool != best]
    owner[picks] = torch.arange(k)  # a pick covers itself, also next to a duplicate
    return picks, owner


def matching_pursuit(g: Factored, target: Tensor, k: int, ridge: float) -> tuple[Tensor, Tensor]:
    """Orthogonal matching pursuit for min ||sum_i w_i g_i - target||^2 + ridge ||w||^2 with w >= 0.

    Adds the g_i that goes best along the residual, then solves for all weights; the non-negative solution comes at
    the end. Returns the picks in order and their weights, both (k,). O(n C D + t^2) at pick t, by a growing Cholesky
    factor of the picks' Gram matrix.
    """
    along = g.dot(target).double()
    factor = torch.zeros(k, k, dtype=torch.float64)
    right = torch.zeros(k, 1, dtype=torch.float64)  # factor^-1 <g_S, target>
    open_ = torch.ones(len(g), dtype=torch.bool)
    picks = torch.zeros(k, dtype=torch.int64)
    residual = target
    for t in range(k):
        best = int(torch.where(open_, g.dot(residual), float("-inf")).argmax())
        open_[best], picks[t] = False, best
        chosen = g[picks[: t + 1]]
        row = chosen.products(torch.tensor([t]))[0].double()
        before = torch.linalg.solve_triangular(factor[:t, :t], row[:t, None], upper=False)[:, 0]
        factor[t, :t] = before
        factor[t, t] = (row[t] + ridge - before @ before).clamp(min=1e-12 * float(row[t]) + 1e-30).sqrt()
        right[t] = (along[best] - before @ right[:t, 0]) / factor[t, t]
        upper = factor[: t + 1, : t + 1].T
        weights = torch.linalg.solve_triangular(upper, right[: t + 1], upper=True)[:, 0]
        residual = target - chosen.sum(weights.to(target.dtype))
    if (weights < 0).any():
        weights = non_negative(factor @ factor.T, along[picks], weights.clamp(min=0.0))
    return picks, weights


def non_negative(matrix: Tensor, along: Tensor, start: Tensor) -> Tensor:
    """The w >= 0 that minimises w^T matrix w / 2 - <along, w>, from `start` on, by L-BFGS-B. O(k^2) a step."""
    from scipy.optimize import minimize

    scale = float(along.abs().max())
    k, b = matrix.numpy(), (along / scale).numpy()

    def value(w: np.ndarray) -> tuple[float, np.ndarray]:
        product = k @ w
        return float(w @ product / 2 - b @ w), product - b

    found = minimize(
        value,
        (start / scale).numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * len(b),
        options={"maxiter": 2000, "maxcor": 30, "ftol": 1e-15, "gtol": 1e-9},
    )
    return torch.from_numpy(found.x * scale)


# --- neighbours and clusters -----------------------------------------------------------------------------------------


def neighbours(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest others of each x_i by Euclidean distance: distances and indices (n, count)."""
    n, distance = len(x), euclidean(x)
    near, which = [], []
    for part in torch.arange(n).split(max(1, BLOCK // n)):
        d = distance(part)
        d[torch.arange(len(part)), part] = float("inf")
        found = d.topk(min(count, n - 1), largest=False)
        near.append(found.values.sqrt())
        which.append(found.indices)
    return torch.cat(near), torch.cat(which)


def k_means(x: Tensor, count: int, rng: torch.Generator, rounds: int = 50) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from distinct random samples: centres (count, d) and each sample's cluster (n,)."""
    centres = x[torch.randperm(len(x), generator=rng)[:count]].clone()
    nearest = torch.full((len(x),), -1)
    for _ in range(rounds):
        before = nearest
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in x.split(max(1, BLOCK // count))])
        if torch.equal(nearest, before):
            break
        size = nearest.bincount(minlength=len(centres))
        means = torch.zeros_like(centres).index_add_(0, nearest, x) / size.clamp(min=1)[:, None]
        centres = torch.where(size[:, None] > 0, means, centres)
    return centres, nearest
