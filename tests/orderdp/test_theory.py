"""Theory against enumeration, exact rational arithmetic and the paper's statements."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import sizes, untimed

from dpbench.inclusion import inclusion_probability
from dpbench.orderdp import explain, theory

SMALL = [(n, s, q) for n in (1, 5, 8) for s in range(1, n + 1) for q in range(1, s + 1)]


# the Beta limit: Proposition 2


@pytest.mark.parametrize(("s", "q"), [(20, 5), (8, 1), (50, 49)])
def test_beta_limit_is_approached_as_one_over_n(s: int, q: int) -> None:
    z = np.linspace(0.02, 0.98, 49)
    counts = [10**3, 10**4, 10**5, 10**6]
    errors = []
    for n in counts:
        ranks = np.rint(z * n).astype(int)
        limit = theory.beta_limit(ranks / n, s, q)
        errors.append(np.abs(n * inclusion_probability(n, s, q, ranks) - limit).max())
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-1, abs=0.03)


@untimed
@given(st.integers(1, 40), st.data(), st.fractions(0, 1, max_denominator=50))
def test_beta_limit_is_the_binomial_tail(s: int, data: st.DataObject, z: Fraction) -> None:
    q = data.draw(st.integers(1, s))
    tail = sum((math.comb(s - 1, k) * z**k * (1 - z) ** (s - 1 - k) for k in range(q)), Fraction(0))
    assert float(theory.beta_limit(float(z), s, q)) == pytest.approx(float(s * tail), rel=1e-9, abs=1e-12)


# the surrogate loss


@untimed
@given(sizes(most=300))
def test_surrogate_summaries_follow_from_the_weights(size: tuple[int, int, int]) -> None:
    n, s, q = size
    weights = theory.surrogate_weight(n, s, q)
    assert weights.sum() == pytest.approx(1, rel=1e-12)
    assert theory.effective_samples(n, s, q) == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-11)
    assert q * (1 - 1e-12) <= theory.effective_samples(n, s, q) <= n * (1 + 1e-12)
    for share in (0.001, 0.01, 0.1, 0.5, 1.0):
        count = max(1, round(share * n))
        assert theory.tilt(n, s, q, share) == pytest.approx(weights[:count].sum(), rel=1e-12)
    assert theory.total_variation(n, s, q) == pytest.approx(np.abs(weights - 1 / n).sum() / 2, abs=1e-12)


@untimed
@given(st.integers(1, 1000), st.data())
def test_plain_loss_and_plain_top_q_are_the_extremes(n: int, data: st.DataObject) -> None:
    q = data.draw(st.integers(1, n))
    assert theory.effective_samples(n, q, q) == pytest.approx(n)
    assert theory.effective_samples(n, n, q) == pytest.approx(q)
    assert theory.total_variation(n, q, q) == pytest.approx(0, abs=1e-12)
    assert theory.total_variation(n, n, q) == pytest.approx(1 - q / n, abs=1e-12)


@pytest.mark.parametrize(("n", "s", "q"), SMALL)
def test_surrogate_gap_is_the_bias_of_the_mean_loss_kept(n: int, s: int, q: int) -> None:
    losses = np.random.default_rng(n).exponential(size=n)
    means = [np.sort(losses[list(subset)])[::-1][:q].mean() for subset in combinations(range(n), s)]
    gap = theory.surrogate_gap(losses, s, q)
    assert gap == pytest.approx(np.mean(means) - losses.mean(), abs=1e-13)
    assert gap <= theory.total_variation(n, s, q) * losses.max() + 1e-13


def test_total_variation_is_reached() -> None:
    n, s, q = 40, 20, 8
    heavier = int((theory.surrogate_weight(n, s, q) > 1 / n).sum())
    losses = np.where(np.arange(n) < heavier, 3.0, 0.0)
    assert theory.surrogate_gap(losses, s, q) == pytest.approx(3 * theory.total_variation(n, s, q))


def test_bias_term_holds_the_variance_of_a_mean_without_replacement() -> None:
    values = np.array([0.3, 1.0, 2.5, 4.0, 4.1, 7.0])
    for s in range(1, 7):
        means = [values[list(subset)].mean() for subset in combinations(range(6), s)]
        assert theory.bias_term(6, s) == pytest.approx(math.sqrt(2 * np.var(means) / np.var(values)), abs=1e-7)
    assert theory.bias_term(1, 1) == 0
    assert theory.bias_term(6, 2, c_s=3.0, bound=2.0) == pytest.approx(6 * theory.bias_term(6, 2))
    assert theory.bias_term(6, 2, correction=0.4) == 0


@given(sizes(most=10**7))
@settings(untimed, max_examples=30)
def test_rank_grid_is_ascending_and_spans_all(size: tuple[int, int, int]) -> None:
    n, s, q = size
    grid = explain.rank_grid(n, s, q)
    assert grid[0] == 1
    assert grid[-1] == n
    assert np.all(np.diff(grid) > 0)
    assert len(grid) == n if n <= 2000 else len(grid) <= 2000


def test_rank_grid_is_dense_where_the_probability_falls() -> None:
    n, s, q = 10**8, 5 * 10**7, 3 * 10**7
    found = inclusion_probability(n, s, q, explain.rank_grid(n, s, q))
    assert np.abs(np.diff(found)).max() < 0.01


# what is wrong is told


@pytest.mark.parametrize(("n", "s", "q"), [(0, 0, 0), (5, 6, 2), (5, 3, 4), (5, 3, 0), (-1, -1, -1)])
def test_impossible_sizes_are_refused(n: int, s: int, q: int) -> None:
    for function in (inclusion_probability, theory.effective_samples, theory.total_variation, explain.rank_grid):
        with pytest.raises(ValueError, match="1 <= q <= s <= n"):
            function(n, s, q)


def test_other_bad_input_is_refused() -> None:
    for keep, explore in ((0.0, 0.5), (1.1, 0.5), (0.5, 0.0), (0.5, math.nan)):
        with pytest.raises(ValueError, match="share in"):
            explain.explain(10, explore, keep)
    with pytest.raises(ValueError, match="1 <= q <= s <= n"):
        explain.explain(0, 0.5, 0.5)
    with pytest.raises(ValueError, match="share in"):
        theory.tilt(10, 5, 2, 0.0)
    with pytest.raises(ValueError, match="lie in"):
        theory.beta_limit([0.5, 1.5], 5, 2)
    with pytest.raises(ValueError, match="correction"):
        theory.bias_term(10, 5, correction=0.2)
    with pytest.raises(ValueError, match="finite"):
        theory.surrogate_gap([1.0, math.inf], 2, 1)
