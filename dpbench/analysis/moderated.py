"""The variance of a difference over few seeds, drawn towards what all differences of a board say.

The moderated t of Smyth (2004) with a trend (Law et al. 2014), made cautious, for the paired differences of each two
rows of a dataset and model. The true variance of a difference is taken to vary about s0^2(x), where log s0^2 is a
parabola in x, the log of the variance that it would have if the test samples on which the two rows differ from seed to
seed flipped independently (`flips`); where these are not known, of the sum of both rows' own, or of their binomial
variances, which tell less. The curve, and how much differences vary about it (as d0 / chi2(d0) does), are estimated
from all differences of the board, not only from those to a control: these share the control's noise. A variance s^2 on
d degrees of freedom then becomes (d0 s0^2 + d s^2) / (d0 + d) on d0 + d. Where differences vary much about the curve d0
is small, and little changes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import combinations, product
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import digamma, polygamma

from dpbench.analysis import stats
from dpbench.analysis.flips import Flips
from dpbench.spec import Row

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

FEWEST = 15  # rows of one dataset and model of which the curve can be told
MOST = 1e4  # degrees of freedom
FAR, LEAST = 5.0, 0.3  # a row lies far above the curve beyond 5 robust deviations of rows, of 0.3 in the log at least
ROUNDS = 3


class Spread(NamedTuple):
    """The variance of a difference over seeds, and its degrees of freedom."""

    variance: float
    freedom: float


class Spreads(dict[tuple[Row, Row], Spread]):
    """The spreads of the differences of two rows, the lesser one first."""

    def difference(
        self, row: Row, reference: Row, values: pd.Series, others: pd.Series, step: float
    ) -> stats.Difference:
        """The paired difference of a row's `values` to the `others` of its reference, with the spread that is told."""
        pair = stats.paired_difference(values, others, step=step)
        spread = self.get((min(row, reference), max(row, reference)))
        return stats.with_spread(pair, *spread) if spread else pair


def spreads(rows: Mapping[Row, pd.DataFrame], flips: Flips | None = None) -> Spreads:
    """The spread of the difference of each two rows of a dataset and model that share seeds, in points.

    The frames have `accuracy` by seed, and `step`, the spacing of the accuracies, below which no standard deviation is
    told from that of rounding. `flips` are those of the rows' predictions; they are used where all rows have theirs.
    Rows of equal accuracies count as one. Empty where there are fewer differences than 15 rows of one dataset have.
    """
    several = sorted(row for row, runs in rows.items() if len(runs) > 1 and runs["step"].max() > 0)
    alike: dict[Hashable, list[Row]] = {}
    for row in several:
        accuracies = rows[row]["accuracy"].sort_index()
        alike.setdefault((*row[:2], *accuracies.index, *accuracies), []).append(row)
    flips = flips if flips and all((row, row) in flips for row in several) else {}
    several = [first for first, *_ in alike.values()]
    steps = np.array([rows[row]["step"].max() for row in several])
    own = np.array([_own(rows[row], flips.get((row, row))) for row in several])
    runs = pd.DataFrame({i: rows[row]["accuracy"] for i, row in enumerate(several)}).to_numpy().T  # NaN: a missing seed
    ends = np.array([(i, j) for i, j in combinations(range(len(several)), 2) if several[i][:2] == several[j][:2]])
    if not len(ends):
        return Spreads()
    differences = runs[ends[:, 0]] - runs[ends[:, 1]]
    shared = np.isfinite(differences).sum(axis=1)
    told = (shared > 1) & (np.nan_to_num(differences) != 0).any(axis=1)
    ends, differences, shared = ends[told], differences[told], shared[told]
    if len(ends) < FEWEST * (FEWEST - 1) / 2:
        return Spreads()
    pairs = [(several[i], several[j]) for i, j in ends]
    least = (steps[ends] ** 2).sum(axis=1) / 12
    variances = np.maximum(np.nanvar(differences, axis=1, ddof=1), least)
    together = [flips.get(pair, np.nan) for pair in pairs] * steps[ends[:, 0]] ** 2
    expected = np.where(np.isnan(together), own[ends].sum(axis=1), together)
    found = moderate(variances, shared - 1.0, np.maximum(expected, least), ends)
    names = {among[0]: among for among in alike.values()}
    each = zip(pairs, map(Spread, *(part.tolist() for part in found)), strict=True)
    return Spreads(((min(a, b), max(a, b)), one) for (i, j), one in each for a, b in product(names[i], names[j]))


def _own(runs: pd.DataFrame, flips: float | None) -> float:
    """The variance that a row's accuracy would have by its flips; without them its binomial variance, times 1 / 100."""
    step, mean = runs["step"].max(), runs["accuracy"].mean()
    return float(max(mean, step) * max(100 - mean, step) * step if flips is None else flips * step**2)


def moderate(variances: Floats, freedom: Floats, expected: Floats, ends: Integers) -> tuple[Floats, Floats]:
    """Return the variances (m,) and their degrees of freedom (m,), drawn towards their curve.

    `expected` (m,) gives x, `ends` (m, 2) the numbers of the two rows of each difference. Differences that share a row
    are not independent, so what they tell of the curve and its error is counted by rows.

    Cautious in three ways, so that simulated boards hold their level (tests/benchmarks/power.py): the spread about the
    curve is taken two standard errors above its estimate, the curve is that of the logarithms' means, which lies above
    s0^2, and a variance above the curve stays what it is, lest a row that varies much is taken for a steady one, and
    the further above the curve it lies, the less that adds to its degrees of freedom. Since such a row keeps its own
    variance, it is left out of the curve and of the spread about it, lest it makes all others badly known, too.
    """
    row = np.unique(ends, return_inverse=True)[1].reshape(ends.shape)
    x = np.log(expected)
    z = np.log(variances) - digamma(freedom / 2) + np.log(freedom / 2)
    design = np.vander(x - x.mean(), min(3, len(np.unique(x))), increasing=True)
    used = np.ones(len(z), dtype=bool)
    for _ in range(ROUNDS):
        fitted = design @ np.linalg.lstsq(design[used], z[used])[0]
        fitted = np.clip(fitted, z[used].min(), z[used].max())  # a parabola says anything where little is told
        above = _by_row(z - fitted, row)
        centred = above - np.median(above)
        far = centred > FAR * max(1.4826 * np.median(np.abs(centred)), LEAST)
        used = ~far[row].any(axis=1)
    squares = _by_row((z - fitted)[used] ** 2, row[used])
    rows = len(squares)
    error = 2 * squares.std(ddof=1) / np.sqrt(rows)  # each square is that of two rows
    most = squares.mean() * rows / (rows - design.shape[1]) + 2 * error
    beyond = most - polygamma(1, freedom[used] / 2).mean()
    d0 = MOST
    if beyond > polygamma(1, MOST / 2):
        d0 = 2 * optimize.brentq(lambda half: polygamma(1, half) - beyond, 1e-9, MOST)
    curve = np.exp(fitted)
    drawn = (d0 * curve + freedom * variances) / (d0 + freedom)
    return np.maximum(variances, drawn), freedom + d0 * np.minimum(1, curve / variances)


def _by_row(values: Floats, row: Integers) -> Floats:
    """The mean of what is said of differences (m,) over those of each row; rows without one are left out."""
    count = np.bincount(row.ravel())
    total = np.bincount(row.ravel(), weights=np.repeat(values, 2))
    return total[count > 0] / count[count > 0]
