"""The variance of each row over its few seeds, drawn towards what all rows of a board say.

The moderated t of Smyth (2004) with a trend (Law et al. 2014), made cautious. The true variance of a row is taken to
vary about s0^2(x), where log s0^2 is linear in x, the log of the variance that its accuracy would have if the test
samples on which its seeds disagree flipped independently (`flips`); without predictions, that of its binomial variance,
which tells less. The line, and how much rows vary about it (as d0 / chi2(d0) does), are estimated from all rows. A
variance on d degrees of freedom then becomes (d0 s0^2 + d s^2) / (d0 + d) on d0 + d. Where rows vary much about the
line d0 is small, and little changes.

It is done by row, not by comparison: comparisons with one control share its noise, and their variances are not many.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeAlias, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import digamma, polygamma

from dpbench.analysis import stats

Key = TypeVar("Key", bound=Hashable)
Floats: TypeAlias = NDArray[np.float64]
Spread: TypeAlias = tuple[float, float]  # a variance, and its degrees of freedom

FEWEST = 20  # rows of which the line can be told
MOST = 1e4  # degrees of freedom


def spreads(rows: Mapping[Key, pd.DataFrame], flips: Mapping[Key, float] | None = None) -> dict[Key, Spread]:
    """The spread of each row's `accuracy` (in points) over its seeds; empty where there are fewer than 20 such rows.

    `step` is the spacing of the accuracies, below which no standard deviation is told from that of rounding. `flips`
    are those of the rows' predictions; they are used where all rows have theirs.
    """
    several = {key: runs for key, runs in rows.items() if len(runs) > 1 and runs["step"].max() > 0}
    if len(several) < FEWEST:
        return {}
    of_rows = [
        (runs["step"].max(), runs["accuracy"].mean(), runs["accuracy"].var(ddof=1), len(runs))
        for runs in several.values()
    ]
    steps, means, variances, counts = np.array(of_rows, dtype=float).T
    if flips and flips.keys() >= several.keys():
        expected = np.maximum([flips[key] for key in several], 1 / 12) * steps**2
    else:  # the binomial variance, times 1 / 100, which is no matter
        expected = np.maximum(means, steps) * np.maximum(100 - means, steps) * steps
    found, freedom = moderate(np.maximum(variances, steps**2 / 12), counts - 1, expected)
    return dict(zip(several, zip(found.tolist(), freedom.tolist(), strict=True), strict=True))


def difference(
    values: pd.Series, reference: pd.Series, step: float, spreads: tuple[Spread | None, Spread | None]
) -> stats.Difference:
    """The paired difference of two rows, with the error that their spreads tell where both are known."""
    pair = stats.paired_difference(values, reference, step=step)
    mine, other = spreads
    return pair if mine is None or other is None else stats.with_spreads(pair, [mine, other])


def moderate(variances: Floats, freedom: Floats, expected: Floats) -> tuple[Floats, Floats]:
    """Return the variances (m,) and their degrees of freedom (m,), drawn towards their line; `expected` (m,) gives x.

    Cautious in three ways, so that simulated boards hold their level (tests/benchmarks/power.py): the spread about the
    line is taken two standard errors above its estimate, the line is that of the logarithms' means, which lies above
    s0^2, and a variance above the line stays what it is, lest a row that varies much is taken for a steady one, and
    the further above the line it lies, the less that adds to its degrees of freedom.
    """
    x = np.log(expected)
    z = np.log(variances) - digamma(freedom / 2) + np.log(freedom / 2)
    design = np.stack([np.ones_like(x), x - x.mean()], axis=1)[:, : 1 + bool(np.ptp(x) > 0)]
    fitted = design @ np.linalg.lstsq(design, z)[0]
    squares = (z - fitted) ** 2
    most = squares.sum() / (len(z) - design.shape[1]) + 2 * squares.std() / np.sqrt(len(z))
    beyond = most - polygamma(1, freedom / 2).mean()
    d0 = MOST
    if beyond > polygamma(1, MOST / 2):
        d0 = 2 * optimize.brentq(lambda half: polygamma(1, half) - beyond, 1e-9, MOST)
    line = np.exp(fitted)
    drawn = (d0 * line + freedom * variances) / (d0 + freedom)
    return np.maximum(variances, drawn), freedom + d0 * np.minimum(1, line / variances)
