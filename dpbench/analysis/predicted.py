"""What the kept test predictions of two rows say of their difference, beside what their accuracies over seeds say.

Three questions, each with its own noise. The t test over seeds: would new seeds say so on this test set?
`of_new_samples`: would new seeds on new test samples? `mcnemar`: would new test samples, of these trained models?
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from dpbench.analysis import stats
from dpbench.spec import Row, row_of
from dpbench.training.results import RunResult, is_finished, read_predictions

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Pair:
    """Of two rows and the seeds they share whether each of n test samples was predicted right, (seeds, n) both.

    `labels` (n,) are the samples' classes.
    """

    labels: NDArray[Any]
    a: Bools
    b: Bools

    @property
    def gained(self) -> NDArray[np.int64]:
        """In how many seeds more each sample (n,) is right with `a` than with `b`."""
        gained: NDArray[np.int64] = self.a.sum(axis=0) - self.b.sum(axis=0)
        return gained

    def lost(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The samples that are right in most seeds of `b` and wrong in most of `a`, and those the other way round.

        Those that differ in the most seeds come first.
        """
        a, b = (2 * right.sum(axis=0) - len(right) for right in (self.a, self.b))
        lost, won = (np.flatnonzero(x) for x in ((a < 0) & (b > 0), (a > 0) & (b < 0)))
        return lost[np.argsort(self.gained[lost], kind="stable")], won[np.argsort(-self.gained[won], kind="stable")]


def pair(results: Iterable[RunResult], a: Row, b: Row) -> Pair | None:
    """The predictions of two rows for the seeds that both finished; None where one of these runs kept none."""
    found: dict[Row, dict[int, RunResult]] = {a: {}, b: {}}
    for result in results:
        row = row_of(result["spec"])
        if row in found and is_finished(result):
            found[row][result["spec"]["seed"]] = result
    seeds = sorted(found[a].keys() & found[b].keys())
    read = [[read_predictions(found[row][seed]) for seed in seeds] for row in (a, b)]
    whole = [[one for one in of_row if one is not None] for of_row in read]
    labels = [one.labels for of_row in whole for one in of_row]
    if not seeds or len(labels) < 2 * len(seeds) or any(not np.array_equal(labels[0], one) for one in labels):
        return None
    right_a, right_b = (np.stack([one.correct for one in of_row]) for of_row in whole)
    return Pair(labels[0], right_a, right_b)


def of_new_samples(difference: stats.Difference, both: Pair) -> stats.Difference:
    """The same difference with the error that new test samples add to that of new seeds.

    Seeds and samples are crossed random effects: a sample's share of the difference varies by the excess of the mean
    square between samples over that of what neither explains. Its variance, by the number of samples, is added to that
    of the mean over seeds; the degrees of freedom are Satterthwaite's.
    """
    x = 100 * (both.a.astype(float) - both.b)
    seeds, n = x.shape
    if seeds < 2 or n < 2:
        return difference
    by_sample = x.mean(axis=0)
    rest = x - x.mean(axis=1, keepdims=True) - by_sample + x.mean()
    between, left = seeds * by_sample.var(ddof=1), (rest**2).sum() / ((seeds - 1) * (n - 1))
    return stats.widened(difference, max(0.0, between - left) / (seeds * n), n - 1)


def mcnemar(both: Pair) -> float:
    """The exact p of McNemar's test, two-sided, over all seeds at once; of one seed it is the usual one.

    A sample counts by in how many seeds more it is right with one row than with the other, and each sample's sign is
    as likely as its opposite: so a sample that all seeds say the same of is one observation, not several.
    """
    counts = np.bincount(np.abs(both.gained))
    chance = np.ones(1)  # of each sum of the samples that speak for one row
    for size, samples in enumerate(counts[1:], 1):
        part = np.zeros(size * samples + 1)
        part[::size] = binom.pmf(np.arange(samples + 1), samples, 0.5)
        chance = np.convolve(chance, part)
    total = len(chance) - 1
    as_far = np.abs(2 * np.arange(total + 1) - total) >= abs(int(both.gained.sum()))
    return min(1.0, float(chance[as_far].sum()))
