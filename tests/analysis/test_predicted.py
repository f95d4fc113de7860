"""Predictions of two rows: closed forms, brute force, and what simulated rows of known truth say."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from dpbench.analysis.predicted import Pair, mcnemar, of_new_samples
from dpbench.analysis.stats import Difference, paired_difference, widened


def pair(gains: np.ndarray) -> Pair:
    """Rows whose difference in "right" is `gains` (seeds, n) of -1, 0 and 1; where it is 0 both are right."""
    return Pair(np.zeros(gains.shape[1], dtype=int), gains >= 0, gains <= 0)


def over_seeds(both: Pair) -> Difference:
    values = [pd.Series(100 * right.mean(axis=1)) for right in (both.a, both.b)]
    return paired_difference(*values, step=100 / both.a.shape[1])


def test_mcnemar_of_one_seed_is_the_binomial_test() -> None:
    for wins, losses in ((5, 0), (7, 2), (40, 61), (3, 3), (0, 0)):
        both = pair(np.array([[1] * wins + [-1] * losses + [0] * 9]))
        expected = scipy_stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1
        assert mcnemar(both) == pytest.approx(expected)


def test_mcnemar_of_several_seeds_counts_every_sign() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        both = pair(rng.integers(-1, 2, (3, 8)))
        sums = [abs(sum(sign * g for sign, g in zip(signs, both.gained, strict=True)))
                for signs in itertools.product((1, -1), repeat=8)]  # fmt: skip
        assert mcnemar(both) == pytest.approx(np.mean(np.array(sums) >= abs(both.gained.sum())))


def test_mcnemar_takes_equal_seeds_as_one() -> None:
    one = pair(np.array([[1] * 9 + [-1] * 2 + [0] * 5]))
    assert mcnemar(pair(np.repeat(one.gained[None], 4, axis=0))) == pytest.approx(mcnemar(one))


def test_mcnemar_is_calibrated_where_seeds_share_the_samples_noise() -> None:
    rng, p = np.random.default_rng(2), []
    for _ in range(200):
        own = rng.normal(0, 1, 200)  # of the sample, for all seeds
        a, b = (own + rng.normal(0, 1, 200) + rng.normal(0, 0.3, (5, 200)) > -1 for _ in range(2))
        p.append(mcnemar(Pair(own, a, b)))
    assert np.mean(np.array(p) < 0.05) <= 0.08
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.1)


def test_the_mixed_error_is_that_of_the_variance_components() -> None:
    rng = np.random.default_rng(2)
    both = pair(rng.choice([-1, 0, 0, 1], (4, 50)))
    x = pd.DataFrame((both.a.astype(float) - both.b) * 100).rename_axis("seed").melt(ignore_index=False).reset_index()
    squares = {
        name: x.groupby(name)["value"].transform("mean").sub(x["value"].mean()).pow(2).sum() / (x[name].nunique() - 1)
        for name in ("seed", "variable")
    }
    whole = x["value"].sub(x["value"].mean()).pow(2).sum()
    left = (whole - 3 * squares["seed"] - 49 * squares["variable"]) / (3 * 49)
    seed, sample = (squares["seed"] - left) / 50, max(0, squares["variable"] - left) / 4
    found = of_new_samples(over_seeds(both), both)
    assert found.error**2 == pytest.approx(seed / 4 + sample / 50 + left / 200)
    assert found.mean == pytest.approx(x["value"].mean())


def test_samples_that_all_seeds_agree_on_leave_the_noise_of_the_samples() -> None:
    gains = np.repeat(np.array([[1] * 30 + [-1] * 10 + [0] * 360]), 5, axis=0)
    both = pair(gains)
    found = of_new_samples(over_seeds(both), both)
    rounding = 100 / 400 * math.sqrt(2 / 12) / math.sqrt(5)
    assert found.error**2 == pytest.approx(rounding**2 + (100 * gains[0]).var(ddof=1) / 400)
    assert found.freedom > 100


def test_widened_by_nothing_is_the_same() -> None:
    one = paired_difference(pd.Series([1.0, 2.0, 4.0]), pd.Series([0.0, 0.5, 1.0]))
    assert widened(one, 0, 9) == one
    still = widened(one, one.error**2, one.freedom)
    assert (still.error, still.freedom) == (pytest.approx(one.error * math.sqrt(2)), pytest.approx(2 * one.freedom))


def drawn(rng: np.random.Generator, seeds: int, n: int) -> Pair:
    """Two rows of one true accuracy, with noise of the sample in each method, of the seed, and of both."""
    sample = rng.normal(0, 1, n)
    rows = []
    for _ in range(2):
        margin = sample + rng.normal(0, 1, n) + rng.normal(0, 0.05, (seeds, 1)) + rng.normal(0, 0.3, (seeds, n))
        rows.append(margin > -1.2)
    return Pair(np.zeros(n, dtype=int), *rows)


def test_only_the_mixed_interval_covers_the_difference_in_the_population() -> None:
    rng, covered = np.random.default_rng(3), np.zeros(2)
    for _ in range(200):
        both = drawn(rng, 4, 300)
        found = over_seeds(both), of_new_samples(over_seeds(both), both)
        covered += [abs(one.mean) <= one.half_width for one in found]
    seeds, mixed = covered / 200
    assert 0.91 <= mixed <= 0.99
    assert seeds < 0.85


def test_lost_and_won_samples_are_those_of_most_seeds() -> None:
    a = np.array([[0, 0, 1, 1, 0], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]], dtype=bool)
    b = np.array([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [0, 1, 0, 1, 1]], dtype=bool)
    lost, won = Pair(np.arange(5), a, b).lost()
    assert sorted(lost.tolist()) == [0, 1]
    assert won.tolist() == [2]
