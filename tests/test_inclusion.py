"""The inclusion probability against enumeration and exact rational arithmetic."""

import math
from collections import defaultdict
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import sizes, untimed

from dpbench.inclusion import inclusion_probability

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


@pytest.mark.parametrize("n", range(1, 10))
def test_inclusion_probability_is_that_of_all_subsets(n: int) -> None:
    for s in range(1, n + 1):
        places = enumerate_kept(n, s)
        expected = [Fraction(0)] * n
        for q in range(1, s + 1):
            expected = [a + b for a, b in zip(expected, places[q], strict=True)]
            found = inclusion_probability(n, s, q)
            np.testing.assert_allclose(found, floats(expected), rtol=1e-13, atol=0, err_msg=f"{n=} {s=} {q=}")


@untimed
@given(sizes())
def test_inclusion_probability_sums_to_q_and_falls(size: tuple[int, int, int]) -> None:
    n, s, q = size
    found = inclusion_probability(n, s, q)
    assert found.shape == (n,)
    assert found[0] == s / n
    assert np.all(np.diff(found) <= 0)
    assert np.all(found[n - s + q :] == 0)
    assert found.sum() == pytest.approx(q, rel=1e-12)


@settings(untimed, max_examples=50)
@given(sizes(most=60))
def test_inclusion_probability_equals_rational_arithmetic(size: tuple[int, int, int]) -> None:
    np.testing.assert_allclose(inclusion_probability(*size), floats(exact(*size)), rtol=1e-12, atol=0)


@untimed
@given(st.integers(1, 500), st.data())
def test_special_cases(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    np.testing.assert_array_equal(inclusion_probability(n, k, k), np.full(n, k / n))
    np.testing.assert_allclose(inclusion_probability(n, n, k), np.arange(1, n + 1) <= k, rtol=1e-13)
    # q = 1: rank j is kept if it is drawn and none of the harder ones is
    none_harder = [Fraction(math.comb(n - j, k - 1), math.comb(n, k)) for j in range(1, n + 1)]
    np.testing.assert_allclose(inclusion_probability(n, k, 1), floats(none_harder), rtol=1e-11, atol=1e-300)


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
    np.testing.assert_allclose(inclusion_probability(n, s, q, ranks), expected, rtol=1e-11, atol=0)


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
    found = inclusion_probability(n, s, q, ranks)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-300)


@untimed
@given(sizes(most=200), st.data())
def test_ranks_may_come_in_any_order(size: tuple[int, int, int], data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(1, size[0]), min_size=1, max_size=20))
    everything = inclusion_probability(*size)
    np.testing.assert_array_equal(inclusion_probability(*size, ranks), everything[np.array(ranks) - 1])


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
        found = inclusion_probability(n, s, q, floor=uniform / q)
        np.testing.assert_allclose(found, [float(probability[rank]) for rank in range(n)], rtol=1e-13)


@untimed
@given(sizes(), st.floats(0, 1))
def test_floor_leaves_no_rank_out(size: tuple[int, int, int], floor: float) -> None:
    n, _, q = size
    found = inclusion_probability(*size, floor=floor)
    uniform = round(floor * q)
    assert found.sum() == pytest.approx(q, rel=1e-12)
    assert found.min() >= uniform / n * (1 - 1e-12)


@pytest.mark.parametrize(("n", "s", "q"), SMALL)
def test_trim_drops_the_hardest_candidates(n: int, s: int, q: int) -> None:
    for trim in range(s - q + 1):
        expected = kept_places(n, s, range(trim + 1, trim + q + 1))
        found = inclusion_probability(n, s, q, trim=trim)
        np.testing.assert_allclose(found, floats(expected), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("n", "s", "q"), SMALL)
def test_order_low_keeps_the_easiest_candidates(n: int, s: int, q: int) -> None:
    expected = kept_places(n, s, range(s - q + 1, s + 1))
    np.testing.assert_allclose(inclusion_probability(n, s, q, order="low"), floats(expected), rtol=1e-13)


def test_options_combine() -> None:
    n, s, q, trim = 8, 6, 4, 2
    ordered = np.array(floats(kept_places(n, s, range(trim + 1, trim + 4))))
    found = inclusion_probability(n, s, q, floor=0.25, trim=trim)
    np.testing.assert_allclose(found, ordered + (1 - ordered) / (n - 3), rtol=1e-13)
    high = inclusion_probability(n, s, q, floor=0.5)
    np.testing.assert_allclose(inclusion_probability(n, s, q, floor=0.5, order="low"), high[::-1], rtol=1e-13)


# what is wrong is told


@pytest.mark.parametrize(("n", "s", "q"), [(0, 0, 0), (5, 6, 2), (5, 3, 4), (5, 3, 0), (-1, -1, -1)])
def test_impossible_sizes_are_refused(n: int, s: int, q: int) -> None:
    with pytest.raises(ValueError, match="1 <= q <= s <= n"):
        inclusion_probability(n, s, q)


@pytest.mark.parametrize("ranks", [[0], [6], [1.0], [[1]]])
def test_impossible_ranks_are_refused(ranks: list[float]) -> None:
    with pytest.raises(ValueError, match=r"integers in 1\.\.5"):
        inclusion_probability(5, 3, 2, ranks)


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
        inclusion_probability(5, 3, 2, **options)  # type: ignore[arg-type]
