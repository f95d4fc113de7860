"""How many samples each epoch keeps where the share kept follows a schedule."""

from __future__ import annotations

import itertools

from dpbench.method import Task


def schedule(shape: str, task: Task) -> list[int]:
    """How many of n samples each of E epochs keeps; they sum to round(keep n E), at least 1 each.

    The share swings by half of what there is room for around the mean `keep`, min(keep, 1 - keep) / 2: in a straight
    line over the training, "rising" or "falling", or from epoch to epoch between low and high, "oscillating" (Yang et
    al., Beyond what to select: a plug-and-play oscillatory data-volume scheduling, PODS, arXiv 2605.14773, 2026; that
    its phases are of one epoch and of this height is assumed). The counts are the differences of their rounded sums.
    """
    n, epochs, mean = task.n, task.epochs, task.keep
    line = [2 * t / max(1, epochs - 1) - 1 for t in range(epochs)]
    offsets = {"rising": line, "falling": line[::-1], "oscillating": [(-1.0) ** (t + 1) for t in range(epochs)]}[shape]
    level = sum(offsets) / epochs  # of an odd number of epochs, or a single one
    shares = [mean + min(mean, 1 - mean) / 2 * (offset - level) for offset in offsets]
    sums = [0, *(round(n * sum(shares[: t + 1])) for t in range(epochs - 1)), round(mean * n * epochs)]
    return [max(1, after - before) for before, after in itertools.pairwise(sums)]
