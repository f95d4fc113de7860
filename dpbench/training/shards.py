"""The samples of several ranks as one population: exact draws and thresholds, though each rank holds only its own.

What crosses the network are counts: of samples for each rank, and of scores by the leading bits of their patterns.
A rank draws from two generators: `shared`, which is in the same state on all ranks, tells how many of a draw fall to
each; `own` tells which. A draw therefore has the law of one over the whole population, whatever the number of ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from dpbench.draws import sample
from dpbench.errors import UsageError
from dpbench.rng import derive, generator
from dpbench.training.driver import launched

BLOCK = 2**16  # samples that are worked on together, so that they stay in the cache
BINS = 2**20  # of a histogram over all classes: 8 MiB cross the network in each round


class Shards:
    """The `n` samples of this rank among those of all ranks of a process group, by default of the whole world.

    The group adds up tensors on the CPU: its backend is gloo, or "cpu:gloo,cuda:nccl". Every rank makes the same calls
    in the same order. Without torch.distributed the process is the only rank.
    """

    def __init__(self, n: int, group: Any = None) -> None:
        self.n, self.group = n, group
        self.class_sizes = torch.empty(0, dtype=torch.int64)  # (C,) on all ranks, where the samples have labels
        together = dist.is_available() and dist.is_initialized()
        if not together and launched() and os.environ["WORLD_SIZE"] != "1":
            raise UsageError("ShardedSelection: call torch.distributed.init_process_group first")
        self.rank = dist.get_rank(group) if together else 0
        self.size = dist.get_world_size(group) if together else 1

    def seed(self, seed: int, epoch: int) -> None:
        """Set both generators for the draws of an epoch."""
        self.shared = np.random.default_rng(derive(seed, "shards", epoch))
        self.own = generator(seed, "shards", epoch, self.rank + 1)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks, in place: the one operation that takes the network. It is exact for int64."""
        if self.size > 1:
            try:
                dist.all_reduce(values, group=self.group)
            except RuntimeError as error:
                if "device type cpu" not in str(error):
                    raise
                raise UsageError(
                    "ShardedSelection: the process group adds up nothing on the CPU; make it with "
                    "backend='cpu:gloo,cuda:nccl', or give group=torch.distributed.new_group(backend='gloo')"
                ) from error
        return values

    def total(self, number: int) -> int:
        """The sum of the ranks' numbers."""
        return int(self.sum(torch.tensor(number)))

    def each(self, values: Tensor) -> Tensor:
        """What every rank gives: (ranks, ...). Floats added up from this are the same on all, to the last bit."""
        every = values.new_zeros(self.size, *values.shape)
        every[self.rank] = values
        return self.sum(every)

    def sample(self, n: int, k: int) -> Tensor:
        """Draw k of what all ranks have, uniformly without replacement, this one having n: its positions in range(n).

        They are (k_r,) int64, sorted; the k_r of all ranks add up to k.
        """
        share = shares(self.each(torch.tensor(n)).numpy(), k, self.shared)[self.rank]
        return sample(n, int(share), self.own)

    def top(self, scores: Tensor, k: int) -> Tensor:
        """The k largest of the scores of all ranks, those of this one being (n,): its positions among them, sorted.

        float32 or float64. Ties at the threshold are broken uniformly at random; NaN ranks with +inf.
        """
        return self.top_of_each(scores, None, torch.tensor([k]))

    def top_of_each(self, scores: Tensor, classes: Tensor | None, k: Tensor) -> Tensor:
        """The same for several classes at once, k (C,) int64 of each; `classes` (n,) are the ids in range(C)."""
        keys, of = _ordered(scores.numpy()), None if classes is None else classes.numpy()
        cut, spare, tied = self._cut(keys, of, k.numpy())
        loose = np.flatnonzero(spare < tied)
        upper = cut.copy()
        upper[spare == tied] -= 1  # the class takes all that equal its cut
        chosen = np.empty(len(keys), dtype=bool)
        for part in _blocks(len(keys)):
            np.greater(keys[part], upper if of is None else upper[of[part]], out=chosen[part])
        for c in loose:
            equal = keys == cut[c]
            at = np.flatnonzero(equal if of is None else equal & (of == c))
            chosen[at[self.sample(len(at), int(spare[c])).numpy()]] = True
        return torch.from_numpy(np.flatnonzero(chosen))

    def _cut(self, keys: NDArray[Any], of: NDArray[Any] | None, k: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """For each class its k-th largest key, how many that equal it are among the k largest, and how many there are.

        A histogram of the leading bits tells which of its bins holds the k-th largest; the next bits of the keys in
        that bin come next, until none is left: 2 rounds for one class of 32-bit keys.
        """
        classes, low, kind = len(k), 8 * keys.itemsize, keys.dtype.type
        most = max(1, min(16, (BINS // classes).bit_length() - 1))
        cut, spare = np.zeros(classes, keys.dtype), k.copy()
        while low > 0:
            width = min(most, low)
            low -= width
            bins = 2**width
            counts = self.sum(torch.from_numpy(_histogram(keys, of, classes, low, width)))
            falling = counts.flip(1).cumsum(1).numpy()  # how many from the top down to each bin
            if (wrong := np.flatnonzero((spare < 0) | (spare > falling[:, -1]))).size:
                c = wrong[0]
                raise ValueError(f"cannot take the {spare[c]} largest of {falling[c, -1]} scores")
            place = (falling >= spare[:, None]).argmax(1)
            tied = counts.flip(1).numpy()[np.arange(classes), place]
            spare -= falling[np.arange(classes), place] - tied
            cut = (cut << kind(width)) | (bins - 1 - place).astype(keys.dtype)
            if low:
                keys, of = _matching(keys, of, cut, low)
        return cut, spare, tied


def shares(sizes: NDArray[np.int64], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many of k fall to each of populations of `sizes` (R,), drawn uniformly without replacement from all: (R,).

    The multivariate hypergeometric law, exactly, for populations of any size; numpy's own ends at 1e9. As in
    `draws.sample`, coins that are a little too unlikely come first, then uniform draws fill up to k. Which of a
    population's members were drawn does not matter here: they count as its first ones.
    """
    total = int(sizes.sum())
    if not 0 <= k <= total:
        raise ValueError(f"cannot draw {k} of {total} samples without replacement")
    few = min(k, total - k)  # the smaller side is drawn, so that the filling seldom misses
    coin = max(0.0, few - 4 * few**0.5) / max(1, total)
    chosen = rng.binomial(sizes, coin)
    while chosen.sum() > few:
        chosen = rng.binomial(sizes, coin)
    ends = sizes.cumsum()
    while missing := few - int(chosen.sum()):
        drawn = np.unique(rng.integers(0, total, missing))
        where = np.searchsorted(ends, drawn, side="right")
        fresh = drawn - (ends - sizes)[where] >= chosen[where]
        chosen += np.bincount(where[fresh], minlength=len(sizes))
    return chosen if few == k else sizes - chosen


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, n, BLOCK))


def _ordered(scores: NDArray[Any]) -> NDArray[Any]:
    """Unsigned integers (n,) that compare as float32 or float64 scores do; NaN as +inf, -0 as 0. None is 0."""
    bits = 8 * scores.itemsize
    unsigned, signed = np.dtype(f"u{scores.itemsize}"), np.dtype(f"i{scores.itemsize}")
    first = unsigned.type(1 << (bits - 1))
    keys = np.empty(len(scores), unsigned)
    for part in _blocks(len(scores)):
        values = scores[part] + 0.0
        np.copyto(values, np.inf, where=np.isnan(values))
        flips = (values.view(signed) >> signed.type(bits - 1)).view(unsigned) | first  # all bits where negative
        np.bitwise_xor(values.view(unsigned), flips, out=keys[part])
    return keys


def _histogram(keys: NDArray[Any], of: NDArray[Any] | None, classes: int, low: int, width: int) -> NDArray[np.int64]:
    """How many keys of each class have each value of the `width` bits above the `low` lowest: (classes, 2^width)."""
    counts = np.zeros(classes << width, np.int64)
    shift, mask = keys.dtype.type(low), keys.dtype.type((1 << width) - 1)
    for part in _blocks(len(keys)):
        bins = ((keys[part] >> shift) & mask).astype(np.int64)
        if of is not None:
            bins += of[part].astype(np.int64) << width
        np.add.at(counts, bins, 1)
    return counts.reshape(classes, -1)


def _matching(
    keys: NDArray[Any], of: NDArray[Any] | None, cut: NDArray[Any], low: int
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The keys whose bits above the `low` lowest are their class's `cut`, and their classes."""
    found, classes = [keys[:0]], [] if of is None else [of[:0]]
    for part in _blocks(len(keys)):
        match = keys[part] >> keys.dtype.type(low) == (cut if of is None else cut[of[part]])
        found.append(keys[part][match])
        if of is not None:
            classes.append(of[part][match])
    return np.concatenate(found), np.concatenate(classes) if classes else None
