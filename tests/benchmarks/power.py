"""How often a board says something false, and what that promise costs: both simulated or computed, as markdown.

python tests/benchmarks/power.py [GRID ...]     # with the grids of $DPBENCH_HOME whose runs are asked, too
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from dpbench.analysis import flips, moderated, predicted
from dpbench.analysis.flips import Flips
from dpbench.analysis.ranks import rank_bounds
from dpbench.analysis.stats import (
    ALPHA,
    MIN_SEEDS,
    Difference,
    compare,
    holm,
    paired_difference,
    power_table,
)
from dpbench.experiments import grid as grids
from dpbench.spec import Row, row_of
from dpbench.training.results import read_predictions, read_result

GAP = 2.0  # standard deviations of the paired difference between two methods
CONTROLS = 4  # random, random per epoch, full, random at cost
METHODS, DELTA = 10, 0.5
COLUMNS = [f"{what}, {kind}" for what in ("false", "found") for kind in ("paired t", "moderated", "by flips")]
SETTINGS = {  # means of the controls, of the methods (taken in turn), and how runs scatter
    "equal": ([0, 0, 0, 0], [0], "normal"),
    "controls apart": ([0, 3, 6, 9], [0, 3, 6, 9], "normal"),  # each method equals one of them
    "one is the best": ([0, 0, 0.5, 0], [5, 0, 0], "normal"),
    "unequal spreads": ([0, 0, 0.5, 0], [0, 0.5, 0], "unequal"),
    "heavy tails": ([0, 0.5, 1, 0], [0, 0.5, 1], "t"),
}

SAMPLES: dict[str, tuple[float, float, float, Sequence[float]]] = {
    # how rows differ, as logarithms: in how much samples move, in what they have in common; share of outliers; and how
    # much of a row's noise is that of its seed in all rows, taken in turn
    "steady": (0.0, 0.0, 0.0, [0.0]),
    "flips tell": (0.5, 0.3, 0.0, [0.0]),
    "flips tell little": (0.2, 0.8, 0.0, [0.0]),
    "outliers": (0.3, 0.7, 0.05, [0.0]),
    "flips tell, seeds shared": (0.5, 0.3, 0.0, [0.9]),
    "flips tell little, seeds shared": (0.2, 0.8, 0.0, [0.9]),
    "outliers, seeds shared": (0.3, 0.7, 0.05, [0.9]),
    "flips tell, shared by half": (0.5, 0.3, 0.0, [0.9, 0.0]),
    "flips tell little, shared by half": (0.2, 0.8, 0.0, [0.9, 0.0]),
}
RANKS: dict[
    str, tuple[Sequence[float], Sequence[float], str]
] = {  # by how much methods are better, their spreads, tails
    "equal": ([0.0] * 7, [1] * 7, "normal"),
    "two": ([0.0, 0.0], [1, 1], "normal"),
    "two groups": ([0, 0, 0, 2, 2, 2, 2], [1] * 7, "normal"),
    "a ladder": ([0.7 * i for i in range(7)], [1] * 7, "normal"),
    "other orders": ([0, 0, 1, 2, 3, 4, 4], [1] * 7, "normal"),
    "unequal spreads": ([0, 0, 0, 0, 1, 1, 1], [0.1, 0.3, 1, 3, 0.1, 1, 10], "normal"),
    "heavy tails": ([0, 0, 0, 0, 1, 1, 1], [1] * 7, "t"),
}

Floats = NDArray[np.float64]


def claims(differences: Floats, delta: float, family: int) -> tuple[Floats, Floats, Floats]:
    """Return where (..., seeds) is called better, worse and equivalent, as `dpbench.analysis.stats.compare` does."""
    seeds = differences.shape[-1]
    mean, error = differences.mean(axis=-1), differences.std(axis=-1, ddof=1) / math.sqrt(seeds)
    half = error * stats.t.ppf(1 - ALPHA / family / 2, seeds - 1)
    return mean > half, mean < -half, np.abs(mean) + half < delta


def false_boards(rng: np.random.Generator, setting: str, seeds: int, boards: int) -> dict[str, float]:
    """Return the share of boards with any false verdict: all at once, and each control's family corrected apart."""
    at, mine, scatter = SETTINGS[setting]
    means = np.array([*at, *(mine[i % len(mine)] for i in range(METHODS))], float)
    shape = (boards, len(means), seeds)
    noise = rng.standard_t(5, shape) / math.sqrt(5 / 3) if scatter == "t" else rng.standard_normal(shape)
    spreads = np.geomspace(0.1, 10, len(means)) if scatter == "unequal" else np.full(len(means), 0.3)
    runs = means[:, None] + spreads[:, None] * noise + rng.normal(0, 1, (boards, 1, seeds))
    found = runs[:, CONTROLS:, None] - runs[:, None, :CONTROLS]  # (boards, methods, controls, seeds)
    true = np.round(means[CONTROLS:, None] - means[:CONTROLS], 9)
    better, worse, equal = claims(found, DELTA, METHODS * CONTROLS)
    equal = equal & (np.arange(CONTROLS) == 2)  # equivalence is said to full only
    false = (better & (true <= 0)) | (worse & (true >= 0)) | (equal & (np.abs(true) >= DELTA))
    mean, error = found.mean(axis=-1), found.std(axis=-1, ddof=1) / math.sqrt(seeds)
    said = holm(np.moveaxis(2 * stats.t.sf(np.abs(mean) / error, seeds - 1), 1, -1)) < ALPHA
    alike = holm(stats.t.sf((DELTA - np.abs(mean[..., 2])) / error[..., 2], seeds - 1)) < ALPHA
    wrong = np.moveaxis(said, -1, 1) & (np.sign(mean) != np.sign(true))
    apart = wrong.any(axis=(1, 2)) | (alike & (np.abs(true[:, 2]) >= DELTA)).any(axis=1)
    return {"all at once": float(false.any(axis=(1, 2)).mean()), "each control apart": float(apart.mean())}


def power() -> str:
    """One line a number of seeds, one column a number of methods at one keep, each compared with all controls."""
    methods = (1, 5, 10, 20, 40)
    table = power_table(comparisons=[m * CONTROLS for m in methods], gaps=(GAP,)).loc[GAP]
    table.columns = pd.Index([f"{m} method{'s' * (m > 1)}" for m in methods])
    return _markdown(table, "seeds", ".2f")


def before() -> str:
    """The same with a family for each control, as it was until protocol 3: too many false verdicts."""
    return _markdown(power_table(comparisons=(1, 5, 10, 20, 40), gaps=(GAP,)).loc[GAP], "seeds", ".2f")


def false(boards: int = 20_000) -> str:
    """The share of simulated boards with any false verdict."""
    lines = {
        (setting, seeds): false_boards(np.random.default_rng(0), setting, seeds, boards)
        for setting in SETTINGS
        for seeds in (MIN_SEEDS, 5, 10)
    }
    table = pd.DataFrame(lines).T
    table.index = pd.Index([f"{setting}, {seeds} seeds" for setting, seeds in lines])
    return _markdown(table, "boards", ".1%")


@cache
def margins(samples: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Margins of test samples (samples,) and, by the variance with which training moves them, what to add for 90 %.

    Beside these two the slope of the accuracy there, in points.
    """
    of_samples = 1.5 * stats.norm.ppf((np.arange(samples) + 0.5) / samples)
    variances = np.geomspace(0.05, 20, 100)

    def off(x: float, variance: float) -> float:
        return float(stats.norm.cdf((of_samples + x) / math.sqrt(variance)).mean() - 0.9)

    added = np.array([brentq(off, -40, 40, args=(variance,)) for variance in variances])
    spread = np.sqrt(variances)[:, None]
    slopes = 100 * (stats.norm.pdf((of_samples + added[:, None]) / spread) / spread).mean(axis=1)
    return of_samples, variances, added, slopes


def rows_of_samples(
    rng: np.random.Generator, setting: str, rows: int, seeds: int, samples: int
) -> tuple[NDArray[np.bool_], Floats]:
    """Whether test samples are predicted right (rows, seeds, samples), by rows of one true accuracy, 90 %.

    A sample is right where its margin, moved by training, is above 0. Rows differ in how much that moves it, in how
    much of this all samples have in common, which makes the accuracy vary more than flips do, and in how much of it
    one seed does to all rows. The second is the standard deviation (rows,) of the accuracy by the common part, in
    points.
    """
    varied, common, outliers, shared = SAMPLES[setting]
    of_samples, variances, added, slopes = margins(samples)
    moved = np.exp(rng.normal(0, varied, rows))
    share = 0.02 * moved * np.exp(rng.normal(0, common, rows)) * np.where(rng.random(rows) < outliers, 10, 1)
    of_all = np.sqrt(moved * np.minimum(share, 0.2))
    of_each = np.sqrt(moved - of_all**2)
    of_seed = np.array([shared[i % len(shared)] for i in range(rows)])[:, None, None]

    def drawn(count: int) -> Floats:
        own, of_all_rows = (rng.standard_normal((among, seeds, count)) for among in (rows, 1))
        noise: Floats = np.sqrt(1 - of_seed) * own + np.sqrt(of_seed) * of_all_rows
        return noise

    noise = of_all[:, None, None] * drawn(1) + of_each[:, None, None] * drawn(samples)
    right = of_samples + np.interp(moved, variances, added)[:, None, None] + noise > 0
    return right, np.interp(moved, variances, slopes) * of_all


def paired_samples(boards: int = 300, rows: int = 40, samples: int = 1000) -> str:
    """Boards of rows with one control, drawn sample by sample: any false verdict, and the share of gaps found.

    A gap is four standard deviations of a run of the typical row. By the paired t test, by variances drawn towards a
    curve of binomial variances, and by those drawn towards a curve of flips.
    """
    lines = {}
    for setting, seeds in itertools.product(SAMPLES, (MIN_SEEDS, 5)):
        rng, told = np.random.default_rng(0), np.zeros(6)
        for _ in range(boards):
            right, spreads = rows_of_samples(rng, setting, rows + 1, seeds, samples)
            each, known = of_rows(right)
            own = [math.sqrt(count) / samples for (a, b), count in known.items() if a == b]
            gap = 4 * float(np.median(np.hypot(spreads, 100 * np.array(own))))
            for at, kind in enumerate(kinds(each, known, 0)):
                said = compare(dict(enumerate(kind)))["verdict"].str.startswith(("better", "worse"))
                moved = {i: replace(one, mean=one.mean + gap) for i, one in enumerate(kind)}
                told[[at, 3 + at]] += said.any(), compare(moved)["verdict"].str.startswith("better").mean()
        lines[f"{setting}, {seeds} seeds"] = told / boards
    return _markdown(pd.DataFrame.from_dict(lines, "index", columns=COLUMNS), "boards", ".3f")


def of_rows(right: Iterable[NDArray[np.bool_]]) -> tuple[dict[Row, pd.DataFrame], Flips]:
    """The accuracies by seed and the flips of rows, (seeds, samples) each."""
    named = {("", "", f"{i:03}", 1.0): row.astype(np.int8) for i, row in enumerate(right)}
    step = 100 / len(next(iter(named.values()))[0])
    each = {key: pd.DataFrame({"accuracy": step * row.sum(axis=1), "step": step}) for key, row in named.items()}
    return each, flips.of_rows({key: dict(enumerate(row)) for key, row in named.items()})


def kinds(each: dict[Row, pd.DataFrame], known: Flips, control: int) -> list[list[Difference]]:
    """The differences of all other rows to one: with their own errors, moderated, and moderated by flips."""
    reference = list(each)[control]
    step = each[reference]["step"][0]
    return [
        [
            given.difference(row, reference, runs["accuracy"], each[reference]["accuracy"], step)
            for row, runs in each.items()
            if row != reference
        ]
        for given in (moderated.Spreads(), moderated.spreads(each), moderated.spreads(each, known))
    ]


def trained(grid: str, boards: int = 300) -> str:
    """The same of a grid's runs in this home, which have more seeds than a board: boards of some of these seeds.

    The mean over all seeds of a row is taken as true. One row, drawn anew for each board, is the control. A gap is one
    of half a point and more.
    """
    runs: dict[Row, dict[int, NDArray[np.bool_]]] = {}
    for key in grids.read_manifest(grid).cells:
        if (result := read_result(key)) is not None and (told := read_predictions(result)) is not None:
            runs.setdefault(row_of(result["spec"]), {})[result["spec"]["seed"]] = told.correct
    all_seeds = set().union(*runs.values())
    right = np.stack(
        [[of_row[seed] for seed in sorted(of_row)] for of_row in runs.values() if set(of_row) == all_seeds]
    )
    means = 100 * right.mean(axis=(1, 2))
    lines = {}
    for seeds in (MIN_SEEDS, 5):
        rng, false, found, gaps = np.random.default_rng(0), np.zeros(3), np.zeros(3), 0
        for _ in range(boards):
            control = int(rng.integers(len(right)))
            true = np.delete(means, control) - means[control]
            gaps += int((np.abs(true) >= 0.5).sum())
            drawn = right[:, rng.permutation(right.shape[1])[:seeds]]
            for at, kind in enumerate(kinds(*of_rows(drawn), control)):
                said = compare(dict(enumerate(kind)))["verdict"]
                better, worse = (said.str.startswith(word).to_numpy() for word in ("better", "worse"))
                false[at] += ((better & (true <= 0)) | (worse & (true >= 0))).any()
                found[at] += ((better & (true >= 0.5)) | (worse & (true <= -0.5))).sum()
        lines[f"{grid}, {seeds} seeds"] = np.concatenate([false / boards, found / max(gaps, 1)])
    return _markdown(pd.DataFrame.from_dict(lines, "index", columns=COLUMNS), "boards", ".3f")


def new_samples(pairs: int = 2000, samples: int = 500) -> str:
    """How often 95 % intervals of the difference of two equal rows hold 0, of test samples that are drawn anew."""
    lines = {}
    for own, seeds in itertools.product((0.0, 0.5, 1.0), (MIN_SEEDS, 5)):
        rng, held = np.random.default_rng(0), np.zeros(2)
        for _ in range(pairs):
            sample = rng.normal(0, 1, samples)
            noise = own * rng.standard_normal((2, 1, samples)) + 0.05 * rng.standard_normal((2, seeds, 1))
            a, b = sample + noise + 0.5 * rng.standard_normal((2, seeds, samples)) > -1.2
            both = predicted.Pair(np.zeros(samples, dtype=int), a, b)
            x, y = (pd.Series(100 * right.mean(axis=1)) for right in (a, b))
            over_seeds = paired_difference(x, y, step=100 / samples)
            for at, one in enumerate((over_seeds, predicted.of_new_samples(over_seeds, both))):
                held[at] += abs(one.mean) <= one.half_width
        lines[f"methods differ by {own:g} on a sample, {seeds} seeds"] = held / pairs
    columns = ["on this test set", "for new test samples, too"]
    return _markdown(pd.DataFrame.from_dict(lines, "index", columns=columns), "rows", ".3f")


def separated_boards(
    rng: np.random.Generator, spreads: str, boards: int, looks: Sequence[int], shared: bool
) -> tuple[float, float, float]:
    """Boards whose open rows get more seeds by look, as `dpbench.analysis.separation` does it.

    Return the share of boards that say anything false at any look, the share of real differences that are found in
    the end, and the mean number of seeds of a method. Without `shared` each look has all of the 5 %.
    """
    means = np.array([0.0] * CONTROLS + [0.0] * 5 + [0.4, 0.6, 0.8, 1.2, 2.0])
    wide = (
        np.geomspace(0.1, 3, len(means))[rng.permutation(len(means))]
        if spreads == "unequal"
        else 0.3 * np.ones(len(means))
    )
    noise = rng.standard_t(5, (boards, len(means), looks[-1])) / math.sqrt(5 / 3)
    noise = noise if spreads == "t" else rng.standard_normal(noise.shape)
    runs = means[:, None] + wide[:, None] * noise
    found = runs[:, CONTROLS:, None] - runs[:, None, :CONTROLS]
    true = means[CONTROLS:, None] - means[:CONTROLS]
    family = true.size * (len(looks) if shared else 1)
    reached = np.full(runs.shape[:2], looks[0])
    false, right = np.zeros(boards, dtype=bool), np.zeros(found.shape[:3], dtype=bool)
    for look, more in itertools.zip_longest(looks, looks[1:], fillvalue=looks[-1]):
        here = (reached[:, CONTROLS:, None] >= look) & (reached[:, None, :CONTROLS] >= look)
        better, worse, equal = claims(found[..., :look], DELTA, family)
        wrong = (better & (true <= 0)) | (worse & (true >= 0)) | (equal & (np.abs(true) >= DELTA))
        false |= (here & wrong).any(axis=(1, 2))
        right = np.where(here, better, right)
        go_on = here & ~(better | worse | equal)
        open_rows = np.concatenate([go_on.any(axis=1), go_on.any(axis=2)], axis=1)
        reached = np.where(open_rows, more, reached)
    return float(false.mean()), float(right[:, true > 0].mean()), float(reached[:, CONTROLS:].mean())


def separated(boards: int = 4000) -> str:
    """Seeds until rows are separated, at 5, 10 and 20 of them, beside looks that are not planned, and 20 at once."""
    lines = {}
    for spreads in ("normal", "unequal", "t"):
        planned, naive, at_once = (
            separated_boards(np.random.default_rng(0), spreads, boards, looks, shared)
            for looks, shared in (((5, 10, 20), True), ((5, 10, 20), False), ((20,), True))
        )
        lines[spreads] = [planned[0], naive[0], at_once[0], planned[1], at_once[1], planned[2]]
    columns = ["false", "false, looks not planned", "false, 20 seeds at once", "found", "found, 20 seeds at once"]
    return _markdown(pd.DataFrame.from_dict(lines, "index", columns=[*columns, "seeds of a method"]), "runs", ".3f")


def rank_coverage(
    rng: np.random.Generator, setting: str, datasets: int, seeds: int, boards: int
) -> tuple[float, float]:
    """How often the interval of a method's mean rank holds all ranks of its ties, of the method where it does least.

    Beside it the mean width of the intervals. With "other orders" each dataset has an order of its own.
    """
    gaps, spreads, tails = RANKS[setting]
    lows, highs, tables = [], [], []
    for _ in range(datasets):
        true = np.asarray(gaps, float)
        true = rng.permutation(true) if setting == "other orders" else true
        lows.append(1 + (true > true[:, None]).sum(axis=1))
        highs.append(len(true) - (true < true[:, None]).sum(axis=1))
        shape = (boards, seeds, len(true))
        noise = rng.standard_normal(shape) if tails == "normal" else rng.standard_t(5, shape) / math.sqrt(5 / 3)
        tables.append(true + np.asarray(spreads) * noise + rng.normal(0, 2, (boards, seeds, 1)))
    low, high = rank_bounds(tables, [0.0] * datasets)
    held = (low <= np.mean(lows, axis=0) + 1e-9) & (high >= np.mean(highs, axis=0) - 1e-9)
    return float(held.mean(axis=0).min()), float((high - low).mean())


def ranks(boards: int = 10_000) -> str:
    """The coverage of rank intervals and, in brackets, their mean width, over one dataset and over several."""
    lines = {
        f"{setting}, {seeds} seeds": {
            f"{count} dataset{'s' * (count > 1)}": "{:.3f} ({:.1f})".format(
                *rank_coverage(np.random.default_rng(0), setting, count, seeds, boards)
            )
            for count in (1, 3, 6)
        }
        for setting in RANKS
        for seeds in (MIN_SEEDS, 5, 10)
    }
    return _markdown(pd.DataFrame(lines).T, "methods", "")


def _markdown(table: pd.DataFrame, corner: str, form: str) -> str:
    lines = [[corner, *map(str, table.columns)], ["---"] * (1 + table.shape[1])]
    lines += [
        [str(name), *(format(value, form) for value in row)]
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"Boards of rows that were trained, {name}\n\n{trained(name)}\n")
    print(f"Power at {GAP:g} standard deviations\n\n{power()}\n\nOne family a control\n\n{before()}\n")
    print(f"Boards with any false verdict\n\n{false()}\n")
    print(f"Rows drawn sample by sample, moderated tests beside the paired t test\n\n{paired_samples()}\n")
    print(f"Intervals that hold the difference of two rows in the population\n\n{new_samples()}\n")
    print(f"Seeds until rows are separated\n\n{separated()}\n")
    print(f"Rank intervals that hold all ranks of a tie, and their width\n\n{ranks()}")
