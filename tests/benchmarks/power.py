"""How often a board says something false, and what that promise costs: both simulated or computed, as markdown.

python tests/benchmarks/power.py
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from dpbench.analysis import moderated
from dpbench.analysis.stats import ALPHA, MIN_SEEDS, compare, holm, paired_difference, power_table, with_spreads

GAP = 2.0  # standard deviations of the paired difference between two methods
CONTROLS = 4  # random, random per epoch, full, random at cost
METHODS, DELTA = 10, 0.5
SETTINGS = {  # means of the controls, of the methods (taken in turn), and how runs scatter
    "equal": ([0, 0, 0, 0], [0], "normal"),
    "controls apart": ([0, 3, 6, 9], [0, 3, 6, 9], "normal"),  # each method equals one of them
    "one is the best": ([0, 0, 0.5, 0], [5, 0, 0], "normal"),
    "unequal spreads": ([0, 0, 0.5, 0], [0, 0.5, 0], "unequal"),
    "heavy tails": ([0, 0.5, 1, 0], [0, 0.5, 1], "t"),
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


def moderated_boards(boards: int = 500, rows: int = 40) -> str:
    """Boards of rows with one control, by paired t and moderated: any false verdict, and the share of gaps found."""
    lines = {}
    for seeds in (MIN_SEEDS, 5):
        for scatter, outliers in ((0.0, 0.0), (1.0, 0.0), (1.0, 0.05), (1.5, 0.1)):
            rng, told = np.random.default_rng(0), np.zeros(4)
            for _ in range(boards):
                sd = np.exp(rng.normal(0, scatter / 2, rows + 1)) * np.where(rng.random(rows + 1) < outliers, 10, 1)
                runs = 50 + sd * rng.standard_normal((seeds, rows + 1))
                each = [pd.DataFrame({"accuracy": column, "step": 0.01}) for column in runs.T]
                spreads = moderated.spreads(dict(enumerate(each)))
                paired = [paired_difference(one["accuracy"], each[0]["accuracy"]) for one in each[1:]]
                drawn = [with_spreads(one, [spreads[i], spreads[0]]) for i, one in enumerate(paired, 1)]
                for at, kind in enumerate((paired, drawn)):
                    said = compare(dict(enumerate(kind)))["verdict"].str.startswith(("better", "worse"))
                    moved = {i: replace(one, mean=one.mean + 2 * GAP) for i, one in enumerate(kind)}
                    found = compare(moved)["verdict"].str.startswith("better")
                    told[[at, 2 + at]] += said.any(), found.mean()
            lines[f"{seeds} seeds, scatter {scatter:g}, {outliers:.0%} outliers"] = told / boards
    columns = ["false, paired t", "false, moderated", "found, paired t", "found, moderated"]
    return _markdown(pd.DataFrame.from_dict(lines, "index", columns=columns), "boards", ".3f")


def _markdown(table: pd.DataFrame, corner: str, form: str) -> str:
    lines = [[corner, *map(str, table.columns)], ["---"] * (1 + table.shape[1])]
    lines += [
        [str(name), *(format(value, form) for value in row)]
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(f"Power at {GAP:g} standard deviations\n\n{power()}\n\nOne family a control\n\n{before()}\n")
    print(f"Boards with any false verdict\n\n{false()}\n")
    print(f"Spreads of rows drawn together, gaps of {2 * GAP:g} standard deviations\n\n{moderated_boards()}")
