"""Building blocks of methods that choose a set: greedy selection by kernels, neighbours and clusters.

Nothing here holds an n x n matrix: kernels give a few rows at a time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dpbench.draws import sample
from dpbench.errors import UsageError
from dpbench.kernels import Factored, Kernel, euclidean, vectors

AHEAD = 64  # rows of a kernel computed at once for the likely next picks
KEPT = 256  # entries of a kernel's row that are few enough to be kept
CACHED = 16  # rows of a block that are worked on together, so that they stay in the cache
BLOCK = 2**21  # entries of a kernel computed at once, if that is not too few rows for BLAS to be fast
PROBED = 8  # one in so many cells is searched for approximate neighbours
SPEED = 2.5e10  # a core's multiply-adds per second in products of matrices; where one is a vector it takes FLAT times
FLAT = 4


def guard(what: str, products: float, floats: float) -> None:
    """Refuse what is predicted to take too long or not to fit, before it starts.

    `products` counts multiply-adds and `floats` the numbers of 4 bytes held at once. The limits are
    DPBENCH_SELECT_HOURS (12) and DPBENCH_SELECT_GB (all of the machine's memory).
    """
    hours = products / SPEED / torch.get_num_threads() / 3600
    allowed = _limit("DPBENCH_SELECT_HOURS", 12)
    if hours > allowed:
        raise TimeoutError(
            f"{what} would take about {hours:.3g} hours, above DPBENCH_SELECT_HOURS = {allowed:g}; "
            "choosing class by class (balanced=true) takes less than over all samples"
        )
    gigabytes = 4 * floats / 2**30
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    room = _limit("DPBENCH_SELECT_GB", installed)
    if gigabytes > room:
        raise MemoryError(f"{what} would take about {gigabytes:.3g} GB of memory, above the {room:.3g} GB there are")


def _limit(variable: str, default: float) -> float:
    """The positive number that an environment variable holds."""
    written = os.environ.get(variable, str(default))
    try:
        value = float(written)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise UsageError(f"{variable} = {written!r} is not a positive number")
    return value


# --- greedy selection ------------------------------------------------------------------------------------------------


def blocks(rows: Tensor, n: int) -> tuple[Tensor, ...]:
    """Split row numbers so that a block of rows of n entries is neither too large nor too flat for BLAS."""
    return rows.split(max(4 * AHEAD, BLOCK // n))


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
    table, ahead = score.new_empty(0, 0), 2
    while len(picked) < k:
        best = int(score.argmax()) if picked or first is None else first
        if best not in likely[: len(table)]:
            ahead = min(AHEAD, 2 * ahead) if best in likely else max(2, ahead // 2)  # two rows take less time than one
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


def herding(x: Tensor, k: int, farthest: bool = False) -> Tensor:
    """Add argmin_i ||(t + 1) mu - sum of the picks - x_i||, mu the mean of x (n, d): the picks in order (k,).

    With x centred this is the largest -<x_i, sum of the picks> - ||x_i||^2 / 2; the smallest is `farthest` away.
    """
    x = x - x.mean(0)
    square = 0.5 * x.norm(dim=1).square()
    return greedy(square if farthest else -square, vectors(x).products, torch.add if farthest else torch.sub, k)


def facility_location(kernel: Kernel, total: Tensor, k: int) -> Tensor:
    """Maximise sum_j max_{i in S} s_ij, s >= 0 symmetric: the picks in order (k,), naive greedy's up to ties.

    `total` is sum_j s_ij (n,), float64. The gains sum_j max(0, s_ij - c_j), c_j being how well j is covered, are kept
    up to date: a pick takes off what the samples j that it covers better had to give, one row of the kernel for each.
    As soon as only KEPT of that row are above c_j, they are kept, and j's row is not computed again.
    """
    n, covered = len(total), torch.zeros_like(kernel(torch.tensor([0]))[0])
    width = min(KEPT, n)
    which, value = torch.zeros(n, width, dtype=torch.int32), covered.new_zeros(n, width)
    kept = torch.zeros(n, dtype=torch.bool)

    def lose(gains: Tensor, block: Tensor, before: Tensor) -> None:
        rows = kernel(block)
        for part in torch.arange(len(block)).split(CACHED):
            j, s, was = block[part], rows[part], before[part, None]
            gone = torch.minimum((s - was).clamp_(min=0.0), covered[j, None] - was)
            gains -= gone.sum(0)  # few at a time, into float64
            keep(j, s)

    def keep(j: Tensor, s: Tensor) -> None:
        above = s.numpy() > covered[j, None].numpy()  # NumPy compares and counts several times faster
        count = torch.tensor([np.count_nonzero(row) for row in above], dtype=torch.int64)
        few = (count <= width).nonzero().squeeze(1)
        j, count = j[few], count[few]
        r = torch.arange(len(j)).repeat_interleave(count)
        i = torch.from_numpy(np.flatnonzero(above[few.numpy()])) - n * r
        place = torch.arange(len(r)) - (count.cumsum(0) - count)[r]
        which[j[r], place], value[j[r], place] = i.int(), s[few[r], i]
        kept[j] = True

    def lose_kept(gains: Tensor, j: Tensor, before: Tensor) -> None:
        s = value[j]
        gone = (s - before[:, None]).clamp_(min=0.0) - (s - covered[j, None]).clamp_(min=0.0)
        gains.index_add_(0, which[j].flatten(), gone.flatten().double(), alpha=-1)

    def cover(gains: Tensor, row: Tensor) -> Tensor:
        better = (row > covered).nonzero().squeeze(1)
        old, covered[better] = covered[better], row[better]
        known = kept[better]
        for j, before in zip(blocks(better[~known], n), blocks(old[~known], n), strict=True):
            lose(gains, j, before)
        for j, before in zip(better[known].split(1024), old[known].split(1024), strict=True):
            lose_kept(gains, j, before)
        return gains

    return greedy(total, kernel, cover, k)


def facility_location_cost(n: int, width: int) -> tuple[float, float]:
    """Multiply-adds and floats that facility location of n samples with `width` features takes, for `guard`.

    It computes the kernel 1 + ln(n / KEPT) times where each pick covers a random share of the samples better.
    """
    passes = 1 + math.log(max(1.0, n / KEPT))
    return passes * n * n * width, 3 * n * width + 2 * n * KEPT + 3 * max(4 * AHEAD * n, BLOCK)


def stochastic_facility_location_cost(n: int, width: int, k: int, epsilon: float) -> float:
    """Multiply-adds that stochastic greedy takes, for `guard`: at large keep its blocks are too flat for BLAS."""
    rows = math.ceil(n / k * math.log(1 / epsilon)) + 1
    return (FLAT if rows < 8 else 1) * k * rows * n * width


def covering(kernel: Kernel, picks: Tensor, n: int) -> Tensor:
    """For each of n samples the position in `picks` (k,) of the one that is most similar; a pick has its own. (n,)"""
    owner = torch.cat([kernel(j, picks).argmax(1) for j in blocks(torch.arange(n), len(picks))])
    owner[picks] = torch.arange(len(picks))  # also next to a duplicate
    return owner


def stochastic_facility_location(kernel: Kernel, n: int, k: int, epsilon: float, rng: torch.Generator) -> Tensor:
    """The same objective by stochastic greedy (Mirzasoleiman et al., Lazier than lazy greedy, AAAI 2015).

    Each pick is the best of a random (n / k) ln(1 / epsilon) of the samples that are left, so the kernel is computed
    ln(1 / epsilon) times. The expected value is at least 1 - 1 / e - epsilon of the best set's; exact greedy's is
    1 - 1 / e. The picks in order (k,).
    """
    size = math.ceil(n / k * math.log(1 / epsilon))
    covered = torch.zeros_like(kernel(torch.tensor([0]))[0])
    left, picks = torch.ones(n, dtype=torch.bool), torch.zeros(k, dtype=torch.int64)
    for t in range(k):
        rest = left.nonzero().squeeze(1)
        some = rest[sample(len(rest), min(size, len(rest)), rng)]
        gains = [(kernel(part) - covered).clamp_(min=0.0).sum(1, dtype=torch.float64) for part in blocks(some, n)]
        picks[t] = best = int(some[torch.cat(gains).argmax()])
        covered = torch.maximum(covered, kernel(picks[t : t + 1])[0])
        left[best] = False
    return picks


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


def neighbours(x: Tensor, count: int, approximate: bool = False) -> tuple[Tensor, Tensor]:
    """The `count` nearest others of each x_i by Euclidean distance: distances and indices (n, count).

    If `approximate` they are found by faiss in a fraction of the time: nearly all of them where x has clusters or few
    dimensions, half of them in noise of 100 dimensions, where the others that are found are 3 % farther away.
    """
    n, distance = len(x), euclidean(x)
    count = min(count, n - 1)
    near, which = x.new_full((n, count), float("inf")), torch.full((n, count), -1)
    if approximate:
        near, which = _inverted_file(x, count)
    for part in blocks((which < 0).any(1).nonzero().squeeze(1), n):
        d = distance(part)
        d[torch.arange(len(part)), part] = float("inf")
        found = d.topk(count, largest=False)
        near[part], which[part] = found.values.sqrt(), found.indices
    return near, which


def neighbours_cost(x: Tensor, count: int, approximate: bool = False) -> tuple[float, float]:
    """Multiply-adds and floats, those of x among them, that `neighbours` takes, for `guard`."""
    n = len(x)
    products = n * x.numel() * (2 / PROBED + 50 * n**-0.5 if approximate else 1)
    return products, 3 * x.numel() + 6 * n * count + 3 * max(4 * AHEAD * n, BLOCK)


def _inverted_file(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Search the nearest sqrt(n) / PROBED of sqrt(n) cells around centres: `neighbours`, -1 where it found too few."""
    try:
        import faiss
    except ImportError:
        raise ValueError("approximate=true needs faiss: pip install 'dpbench[faiss]'") from None
    rows, cells = (x - x.mean(0)).float().contiguous().numpy(), max(1, round(len(x) ** 0.5))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(x.shape[1]), x.shape[1], cells)
    faiss.omp_set_num_threads(torch.get_num_threads())
    index.cp.min_points_per_centroid = 1  # sqrt(n) samples a cell are few for faiss, which would warn
    index.train(rows)
    index.add(rows)
    index.nprobe = max(1, cells // PROBED)
    square, found = (torch.from_numpy(values) for values in index.search(rows, count + 1))
    itself = found == torch.arange(len(x))[:, None]
    itself[~itself.any(1), -1] = True  # next to duplicates
    near = square[~itself].view(-1, count).clamp(min=0.0).sqrt()
    return near.to(x.dtype), found[~itself].view(-1, count)


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
