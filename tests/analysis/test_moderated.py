"""Spreads of differences over seeds, drawn towards those of all: limits in closed form, and the level of boards."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from benchmarks import power
from scipy import stats

from dpbench.analysis import moderated
from dpbench.analysis.stats import compare, paired_difference, with_spread
from dpbench.spec import Row


def row(i: int, dataset: str = "digits") -> Row:
    return (dataset, "cnn", f"{i:04}", 0.5)


def rows(accuracies: np.ndarray, step: float = 0.01, dataset: str = "digits") -> dict[Row, pd.DataFrame]:
    """Rows of `accuracies` (seeds, rows); a NaN is a seed that is missing."""
    frames = [pd.DataFrame({"accuracy": column, "step": step}).dropna() for column in accuracies.T]
    return {row(i, dataset): frame for i, frame in enumerate(frames)}


def told(accuracies: np.ndarray, step: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    variance, freedom = np.array(list(moderated.spreads(rows(accuracies, step)).values())).T
    return variance, freedom


def test_few_rows_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    assert moderated.spreads({}) == {}
    assert moderated.spreads(rows(rng.normal(90, 1, (3, 14)))) == {}
    assert len(moderated.spreads(rows(rng.normal(90, 1, (3, 15))))) == 15 * 14 / 2


def test_only_rows_of_one_dataset_and_model_are_compared() -> None:
    rng = np.random.default_rng(0)
    both = rows(rng.normal(90, 1, (3, 11))) | rows(rng.normal(90, 1, (3, 11)), dataset="wine")
    both |= rows(rng.normal(90, 1, (3, 1)), dataset="alone")
    found = moderated.spreads(both)
    assert len(found) == 2 * 11 * 10 / 2
    assert all(a < b and a[:2] == b[:2] for a, b in found)


def test_differences_of_one_variance_get_it_on_many_degrees_of_freedom() -> None:
    variances, freedom = told(np.random.default_rng(1).normal(50, 2, (4, 120)))
    assert np.quantile(variances, 0.05) > 4  # of 8; of the seeds alone it is 0.9
    assert np.median(freedom) > 15  # in place of 3
    assert freedom.min() > 3


def test_what_a_seed_does_to_all_rows_is_no_part_of_their_differences() -> None:
    rng = np.random.default_rng(1)
    own = rng.normal(50, 0.1, (4, 30))
    shared = moderated.spreads(rows(own + rng.normal(0, 5, (4, 1))))
    for pair, (variance, freedom) in moderated.spreads(rows(own)).items():
        assert shared[pair].variance == pytest.approx(variance, rel=0.5)
        assert shared[pair].freedom == pytest.approx(freedom, rel=0.5)


def test_the_curve_follows_the_binomial_variance() -> None:
    rng = np.random.default_rng(2)
    means = np.linspace(55, 99, 200)
    sd = np.sqrt(means * (100 - means)) / 20
    found = moderated.spreads(rows(means + sd * rng.normal(size=(3, 200))))
    low, high = (
        np.median([found[row(i), row(j)].variance for i, j in combinations(part, 2)])
        for part in (range(20), range(180, 200))
    )
    assert low / high == pytest.approx((sd[:20] ** 2).mean() / (sd[180:] ** 2).mean(), rel=0.35)


def test_a_row_that_varies_more_keeps_its_variance() -> None:
    accuracies = np.random.default_rng(3).normal(90, 0.1, (3, 40))
    accuracies[:, 7] = [80, 90, 100]
    found = moderated.spreads(rows(accuracies))
    variance, freedom = found[row(7), row(8)]
    assert variance == pytest.approx((accuracies[:, 7] - accuracies[:, 8]).var(ddof=1))
    assert freedom == pytest.approx(2, abs=0.2), "the curve tells next to nothing of it"
    assert found[row(8), row(9)].freedom > 2.5


def test_equal_differences_vary_as_rounding_does() -> None:
    accuracies = np.full((3, 25), 90.0) + np.arange(25)
    variance, _ = told(accuracies, step=1.0)
    assert (variance >= 2 / 12).all()
    assert (variance < 2 / 6).all()


def test_where_many_rows_vary_more_no_difference_is_told_from_beyond_the_others() -> None:
    """A parabola that is told from the steady rows alone would say anything of the others."""
    rng = np.random.default_rng(0)
    wide = np.arange(21) % 3 == 1
    most = 0.0
    for _ in range(100):
        found = moderated.spreads(rows(90 + np.where(wide, 5, 0.1) * rng.normal(size=(5, 21))))
        most = max(most, *(variance for variance, _ in found.values()))
    assert most < 400  # of 50, that of two of them


def test_rows_of_equal_accuracies_count_as_one() -> None:
    rng = np.random.default_rng(0)
    one, distinct = rng.normal(90, 1, (3, 1)), rng.normal(90, 1, (3, 15))
    assert moderated.spreads(rows(np.hstack([distinct[:, :5], *[one] * 15]))) == {}
    found = moderated.spreads(rows(np.hstack([distinct, one, one])))
    alone = moderated.spreads(rows(np.hstack([distinct, one])))
    assert {pair: found[pair] for pair in alone} == alone
    assert found[row(3), row(16)] == alone[row(3), row(15)]
    assert len(found) == len(alone) + 15


@pytest.mark.parametrize(("datasets", "each", "told"), [(15, 2, False), (30, 3, False), (8, 4, False), (8, 6, True)])
def test_of_datasets_of_few_rows_no_curve_is_told(datasets: int, each: int, told: bool) -> None:
    rng = np.random.default_rng(0)
    parts = [rows(rng.normal(90, 1, (3, each)), dataset=f"{i}") for i in range(datasets)]
    assert bool(moderated.spreads({key: frame for part in parts for key, frame in part.items()})) == told


def test_of_two_names_of_one_run_nothing_is_told() -> None:
    accuracies = np.random.default_rng(4).normal(90, 1, (3, 20))
    accuracies[:, 1] = accuracies[:, 0]
    found = moderated.spreads(rows(accuracies))
    assert len(found) == 20 * 19 / 2 - 1
    assert (row(0), row(1)) not in found


def test_a_difference_is_that_of_the_seeds_that_both_have() -> None:
    rng = np.random.default_rng(5)
    accuracies = rng.normal(90, 1, (6, 20))
    accuracies[3:, 0] = np.nan
    accuracies[:4, 1] = np.nan
    found = moderated.spreads(rows(accuracies))
    assert (row(0), row(1)) not in found, "they share no seed"
    shorter, whole = found[row(0), row(2)], found[row(2), row(3)]
    assert shorter.freedom < whole.freedom
    frames = rows(accuracies)
    got = found.difference(row(2), row(0), frames[row(2)]["accuracy"], frames[row(0)]["accuracy"], 0.01)
    assert got.n == 3
    assert got.mean == pytest.approx((accuracies[:3, 2] - accuracies[:3, 0]).mean())
    assert got.error == pytest.approx(np.sqrt(shorter.variance / 3))
    assert got.freedom == shorter.freedom


def test_a_difference_with_its_own_variance_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 1, 6), rng.normal(1, 3, 6)
    pair = paired_difference(pd.Series(a), pd.Series(b))
    same = with_spread(pair, float((a - b).var(ddof=1)), 5)
    assert (same.mean, same.n, same.freedom) == (pair.mean, 6, 5)
    assert (same.half_width, same.p) == pytest.approx((pair.half_width, pair.p))
    known = with_spread(pair, 4.0, 1e9)
    assert known.p == pytest.approx(2 * stats.norm.sf(abs(pair.mean) / np.sqrt(4 / 6)))
    assert known.half_width == pytest.approx(1.96 * np.sqrt(4 / 6), rel=1e-3)


def false_and_true(spread: float, outliers: float, shared: float, boards: int) -> np.ndarray:
    """How often a board of 20 rows against one control says something false, and how often a gap is found.

    By the paired t test and by the moderated one. `shared` is the standard deviation of what a seed does to all rows.
    """
    rng, told = np.random.default_rng(5), np.zeros((2, 2))
    for _ in range(boards):
        sd = np.exp(rng.normal(0, spread / 2, 21)) * np.where(rng.random(21) < outliers, 10, 1)
        accuracies = 50 + sd * rng.normal(size=(3, 21)) + shared * rng.normal(size=(3, 1))
        for gap in (0.0, 6.0):
            each = rows(accuracies + gap * (np.arange(21) > 0))
            for at, known in enumerate((moderated.Spreads(), moderated.spreads(each))):
                differences = {
                    key: known.difference(key, row(0), frame["accuracy"], each[row(0)]["accuracy"], 0.01)
                    for key, frame in each.items()
                    if key != row(0)
                }
                verdicts = compare(differences)["verdict"]
                if gap:
                    told[at, 1] += verdicts.str.startswith("better").mean()
                else:
                    told[at, 0] += verdicts.str.startswith(("better", "worse")).any()
    return told / boards


@pytest.mark.parametrize(
    ("spread", "outliers", "shared", "more"), [(0, 0, 0, 0.5), (0, 0, 5, 0.5), (1, 0, 5, 0.2), (1.5, 0.1, 0, 0.05)]
)
def test_boards_of_three_seeds_say_false_things_rarely_and_find_more(
    spread: float, outliers: float, shared: float, more: float
) -> None:
    (_, paired), (false, found) = false_and_true(spread, outliers, shared, boards=60)
    assert false <= 0.1  # 0.05 and three standard errors would be 0.13; docs/statistics.md has the full simulation
    assert found > paired + more


def test_boards_of_drawn_samples_hold_their_level_where_half_of_the_rows_share_their_seeds() -> None:
    rng, false, better = np.random.default_rng(6), np.zeros(3), 0
    for _ in range(60):
        right, _ = power.rows_of_samples(rng, "flips tell, shared by half", 21, 5, 500)
        widths = []
        for at, kind in enumerate(power.kinds(*power.of_rows(right), 0)):
            said = compare(dict(enumerate(kind)))
            false[at] += said["verdict"].str.startswith(("better", "worse")).any()
            widths.append(said["half_width"].to_numpy())
        better += np.median(widths[2][1::2]) < np.median(
            widths[1][1::2]
        )  # rows that share their seeds with the control
    assert (false <= 0.13 * 60).all()
    assert better > 50, "flips of pairs tell which rows go up and down with their control"
