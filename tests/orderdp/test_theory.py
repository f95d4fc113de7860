"""Theory against enumeration, exact rational arithmetic and the paper's statements."""

import math
from collections import defaultdict
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpbench.orderdp import explain, theory

untimed = settings(deadline=None)  # a busy machine is no failure

SMALL = [(n, s, q) for n in range(1, 10) for s in range(1, n + 1) for q in range(1, s + 1)]


def enumerate_kept(n: int, s: int) -> dict[int, list[Fraction]]:
    """For each place 1..s, the probability of each rank to come at that place among s candidates, hardest first."""
    places = {place: [Fraction(0)] * n for place in range(1, s + 1)}
    subsets = list(combinations(range(n), s))
    for subset in subsets:
        for place, rank in enumerate(subset, start=1):
            places[place][rank] += Fraction(1, len(subsets))
    return places


def kept_places(n: int, s: int, places: range) -> list[Fraction]:
    probability = enumerate_kept(n, s)
    return [sum((probability[place][rank] for place in places), Fraction(0)) for rank in range(n)]


def floats(values: list[Fraction]) -> list[float]:
    return [float(value) for value in values]


def exact(n: int, s: int, q: int) -> list[Fraction]:
    """P_j for all j in integers: P_j C(n, s) is the sum over how many harder candidates there are."""
    total = math.comb(n, s)
    return [
        Fraction(sum(math.comb(j - 1, k) * math.comb(n - j, s - 1 - k) for k in range(q)), total)
        for j in range(1, n + 1)
    ]


@st.composite
def sizes(draw: st.DrawFn, most: int = 3000) -> tuple[int, int, int]:
    """Any n, s, q, the extremes s = q, s = n and q = 1 often."""
    n = draw(st.integers(1, most))
    s = draw(st.one_of(st.just(n), st.integers(1, n)))
    q = draw(st.one_of(st.just(s), st.just(1), st.integers(1, s)))
    return n, s, q


# inclusion probability: Theorem 1


@pytest.mark.parametrize("n", range(1, 10))
def test_inclusion_probability_is_that_of_all_subsets(n: int) -> None:
    for s in range(1, n + 1):
        places = enumerate_kept(n, s)
        expected = [Fraction(0)] * n
        for q in range(1, s + 1):
            expected = [a + b for a, b in zip(expected, places[q], strict=True)]
            found = theory.inclusion_probability(n, s, q)
            np.testing.assert_allclose(found, floats(expected), rtol=1e-13, atol=0, err_msg=f"{n=} {s=} {q=}")


@untimed
@given(sizes())
def test_inclusion_probability_sums_to_q_and_falls(size: tuple[int, int, int]) -> None:
    n, s, q = size
    found = theory.inclusion_probability(n, s, q)
    assert found.shape == (n,)
    assert found[0] == s / n
    assert np.all(np.diff(found) <= 0)
    assert np.all(found[n - s + q :] == 0)
    assert found.sum() == pytest.approx(q, rel=1e-12)


@settings(untimed, max_examples=50)
@given(sizes(most=60))
def test_inclusion_probability_equals_rational_arithmetic(size: tuple[int, int, int]) -> None:
    np.testing.assert_allclose(theory.inclusion_probability(*size), floats(exact(*size)), rtol=1e-12, atol=0)


@untimed
@given(st.integers(1, 500), st.data())
def test_special_cases(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    np.testing.assert_array_equal(theory.inclusion_probability(n, k, k), np.full(n, k / n))
    np.testing.assert_allclose(theory.inclusion_probability(n, n, k), np.arange(1, n + 1) <= k, rtol=1e-13)
    # q = 1: rank j is kept if it is drawn and none of the harder ones is
    none_harder = [Fraction(math.comb(n - j, k - 1), math.comb(n, k)) for j in range(1, n + 1)]
    np.testing.assert_allclose(theory.inclusion_probability(n, k, 1), floats(none_harder), rtol=1e-11, atol=1e-300)


def test_at_middle_size_it_equals_rational_arithmetic_far_into_the_tail() -> None:
    n, s, q = 20_000, 9_000, 4_000
    # C(n, s) P_j falls from j to j + 1 by the draws that have j + 1 after exactly q harder ones, in integers
    term = math.comb(n - q - 1, s - q - 1)
    falls = []
    for j in range(q, n - s + q + 1):
        falls.append(term)
        term = term * j * (n - s + q - j) // ((j - q + 1) * (n - 1 - j)) if j < n - s + q else 0
    tails = np.cumsum(np.array(falls[::-1], dtype=object))[::-1]
    total = math.comb(n - 1, s - 1)
    assert tails[0] == total
    ranks = np.array([q, 8_000, 8_700, 8_888, 8_889, 9_100, 10_000, 11_000, 12_000])
    expected = [float(Fraction(s * tails[j - q], n * total)) for j in ranks]
    assert expected[-1] < 1e-280
    np.testing.assert_allclose(theory.inclusion_probability(n, s, q, ranks), expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize(("s", "q"), [(4_000, 3), (50, 20), (4_000, 3_990)])
def test_at_large_n_it_equals_rational_arithmetic(s: int, q: int) -> None:
    n = 1_281_167
    mean = q * n // s
    ranks = [j for j in (1, 2, q, mean // 2, mean, mean + 100, 2 * mean, n - s + q, n - s + q + 1, n) if 1 <= j <= n]
    fewer, total = min(q, s - q), math.comb(n - 1, s - 1)
    expected = []
    for j in ranks:
        # the shorter of the two tails; the terms of one hypergeometric sum are integers
        counts = range(q) if fewer == q else range(q, s)
        draws = sum(math.comb(j - 1, k) * math.comb(n - j, s - 1 - k) for k in counts)
        expected.append(float(Fraction(s, n) * Fraction(draws if fewer == q else total - draws, total)))
    found = theory.inclusion_probability(n, s, q, ranks)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-300)


@untimed
@given(sizes(most=200), st.data())
def test_ranks_may_come_in_any_order(size: tuple[int, int, int], data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(1, size[0]), min_size=1, max_size=20))
    everything = theory.inclusion_probability(*size)
    np.testing.assert_array_equal(theory.inclusion_probability(*size, ranks), everything[np.array(ranks) - 1])


# floor, trim, order


@pytest.mark.parametrize(("n", "s", "q"), [(n, s, q) for n, s, q in SMALL if n <= 6])
def test_floor_is_that_of_all_draws(n: int, s: int, q: int) -> None:
    subsets = list(combinations(range(n), s))
    for uniform in range(q + 1):
        probability: defaultdict[int, Fraction] = defaultdict(Fraction)
        for subset in subsets:
            ordered = set(subset[: q - uniform])
            extras = list(combinations(sorted(set(range(n)) - ordered), uniform))
            for extra in extras:
                for rank in ordered.union(extra):
                    probability[rank] += Fraction(1, len(subsets) * len(extras))
        found = theory.inclusion_probability(n, s, q, floor=uniform / q)
        np.testing.assert_allclose(found, [float(probability[rank]) for rank in range(n)], rtol=1e-13)


@untimed
@given(sizes(), st.floats(0, 1))
def test_floor_leaves_no_rank_out(size: tuple[int, int, int], floor: float) -> None:
    n, _, q = size
    found = theory.inclusion_probability(*size, floor=floor)
    uniform = round(floor * q)
    assert found.sum() == pytest.approx(q, rel=1e-12)
    assert found.min() >= uniform / n * (1 - 1e-12)


@pytest.mark.parametrize(("n", "s", "q"), SMALL)
def test_trim_drops_the_hardest_candidates(n: int, s: int, q: int) -> None:
    for trim in range(s - q + 1):
        expected = kept_places(n, s, range(trim + 1, trim + q + 1))
        found = theory.inclusion_probability(n, s, q, trim=trim)
        np.testing.assert_allclose(found, floats(expected), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("n", "s", "q"), SMALL)
def test_order_low_keeps_the_easiest_candidates(n: int, s: int, q: int) -> None:
    expected = kept_places(n, s, range(s - q + 1, s + 1))
    np.testing.assert_allclose(theory.inclusion_probability(n, s, q, order="low"), floats(expected), rtol=1e-13)


def test_options_combine() -> None:
    n, s, q, trim = 8, 6, 4, 2
    ordered = np.array(floats(kept_places(n, s, range(trim + 1, trim + 4))))
    found = theory.inclusion_probability(n, s, q, floor=0.25, trim=trim)
    np.testing.assert_allclose(found, ordered + (1 - ordered) / (n - 3), rtol=1e-13)
    high = theory.inclusion_probability(n, s, q, floor=0.5)
    np.testing.assert_allclose(theory.inclusion_probability(n, s, q, floor=0.5, order="low"), high[::-1], rtol=1e-13)


# the Beta limit: Proposition 2


@pytest.mark.parametrize(("s", "q"), [(20, 5), (8, 1), (50, 49)])
def test_beta_limit_is_approached_as_one_over_n(s: int, q: int) -> None:
    z = np.linspace(0.02, 0.98, 49)
    counts = [10**3, 10**4, 10**5, 10**6]
    errors = []
    for n in counts:
        ranks = np.rint(z * n).astype(int)
        limit = theory.beta_limit(ranks / n, s, q)
        errors.append(np.abs(n * theory.inclusion_probability(n, s, q, ranks) - limit).max())
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


@pytest.mark.parametrize(("n", "s", "q"), [(n, s, q) for n, s, q in SMALL if n in (1, 5, 8)])
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
    found = theory.inclusion_probability(n, s, q, explain.rank_grid(n, s, q))
    assert np.abs(np.diff(found)).max() < 0.01


# what is wrong is told


@pytest.mark.parametrize(("n", "s", "q"), [(0, 0, 0), (5, 6, 2), (5, 3, 4), (5, 3, 0), (-1, -1, -1)])
def test_impossible_sizes_are_refused(n: int, s: int, q: int) -> None:
    for function in (theory.inclusion_probability, theory.effective_samples, theory.total_variation, explain.rank_grid):
        with pytest.raises(ValueError, match="1 <= q <= s <= n"):
            function(n, s, q)


@pytest.mark.parametrize("ranks", [[0], [6], [1.0], [[1]]])
def test_impossible_ranks_are_refused(ranks: list[float]) -> None:
    with pytest.raises(ValueError, match=r"integers in 1\.\.5"):
        theory.inclusion_probability(5, 3, 2, ranks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floor": 1.5}, "floor"),
        ({"floor": math.nan}, "floor"),
        ({"trim": -1}, r"expected 0\.\.1"),
        ({"trim": 2}, r"expected 0\.\.1"),
        ({"order": "middle"}, '"high" or "low"'),
        ({"order": "low", "trim": 1}, "no meaning"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        theory.inclusion_probability(5, 3, 2, **options)  # type: ignore[arg-type]


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
