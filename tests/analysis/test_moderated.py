"""Spreads over seeds, drawn towards those of all rows: limits in closed form, and the level of simulated boards."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dpbench.analysis import moderated
from dpbench.analysis.stats import Difference, paired_difference, with_spreads


def rows(accuracies: np.ndarray, step: float = 0.01) -> dict[int, pd.DataFrame]:
    """Rows of `accuracies` (seeds, rows)."""
    return {i: pd.DataFrame({"accuracy": column, "step": step}) for i, column in enumerate(accuracies.T)}


def test_few_rows_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    assert moderated.spreads(rows(rng.normal(90, 1, (3, 19)))) == {}
    assert len(moderated.spreads(rows(rng.normal(90, 1, (3, 20))))) == 20


def test_rows_of_one_variance_get_it_on_many_degrees_of_freedom() -> None:
    rng = np.random.default_rng(1)
    found = moderated.spreads(rows(rng.normal(50, 2, (4, 3000))))
    variances, freedom = np.array(list(found.values())).T
    assert np.quantile(variances, 0.05) == pytest.approx(4, rel=0.2)  # of the seeds alone it is 0.5
    assert np.median(freedom) > 15  # in place of 3
    assert freedom.min() > 3


def test_the_line_follows_the_binomial_variance() -> None:
    rng = np.random.default_rng(2)
    means = np.linspace(55, 99, 2000)
    sd = np.sqrt(means * (100 - means)) / 20
    found = moderated.spreads(rows(means + sd * rng.normal(size=(3, 2000))))
    low, high = (np.median([found[i][0] for i in part]) for part in (range(200), range(1800, 2000)))
    assert low / high == pytest.approx((sd[:200] ** 2).mean() / (sd[1800:] ** 2).mean(), rel=0.3)


def test_a_row_that_varies_more_keeps_its_variance() -> None:
    rng = np.random.default_rng(3)
    accuracies = rng.normal(90, 0.1, (3, 40))
    accuracies[:, 7] = [80, 90, 100]
    variance, freedom = moderated.spreads(rows(accuracies))[7]
    assert variance == pytest.approx(100)
    assert freedom == pytest.approx(2, abs=0.2), "the line tells next to nothing of it"


def test_equal_accuracies_vary_as_rounding_does() -> None:
    accuracies = np.full((3, 25), 90.0)
    for variance, _ in moderated.spreads(rows(accuracies, step=1.0)).values():
        assert 1 / 12 <= variance < 1 / 6


def test_a_difference_with_spreads_is_welchs_test() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 1, 6), rng.normal(1, 3, 6)
    pair = paired_difference(pd.Series(a), pd.Series(b))
    found = with_spreads(pair, [(a.var(ddof=1), 5), (b.var(ddof=1), 5)])
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert (found.mean, found.n) == (pair.mean, 6)
    assert found.p == pytest.approx(welch.pvalue)
    assert found.freedom == pytest.approx(welch.df)
    interval = welch.confidence_interval(0.95)
    assert found.half_width == pytest.approx((interval.high - interval.low) / 2)


def false_and_true(spread: float, outliers: float, boards: int) -> tuple[float, float]:
    """How often a board of 30 rows against one control says something false, and how often a gap is found."""
    rng, false, found = np.random.default_rng(5), 0, 0.0
    for _ in range(boards):
        sd = np.exp(rng.normal(0, spread / 2, 31)) * np.where(rng.random(31) < outliers, 10, 1)
        accuracies = 50 + sd * rng.normal(size=(3, 31))
        spreads = moderated.spreads(rows(accuracies))
        for gap in (0.0, 4.0):
            p = [
                with_spreads(Difference(mean, 0, 0, 3, 0, 2), [spreads[i], spreads[0]]).p
                for i, mean in enumerate((accuracies - accuracies[:, :1]).mean(0) + gap)
                if i
            ]
            if gap:
                found += float(np.mean(np.array(p) * 30 < 0.05))
            else:
                false += min(p) * 30 < 0.05
    return false / boards, found / boards


@pytest.mark.parametrize(("spread", "outliers", "power"), [(0, 0, 0.5), (1, 0, 0.2), (1.5, 0.1, 0.1)])
def test_boards_of_three_seeds_say_false_things_rarely_and_find_more(
    spread: float, outliers: float, power: float
) -> None:
    false, found = false_and_true(spread, outliers, boards=60)
    assert false <= 0.1  # 0.05 and three standard errors would be 0.13; docs/statistics.md has the full simulation
    assert found > power  # the paired t test finds 0.05 and less
