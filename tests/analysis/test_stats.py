import io
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from benchmarks import power
from scipy import stats
from statsmodels.stats.multitest import multipletests

from dpbench.analysis.ranks import (
    critical_difference_figure,
    iqm,
    probability_of_improvement,
    rank_intervals,
    rank_test,
)
from dpbench.analysis.stats import (
    NO_VERDICT,
    Difference,
    compare,
    equivalence,
    equivalence_verdict,
    holm,
    mean_interval,
    paired_difference,
    pareto_front,
    power_table,
    verdict,
)
from dpbench.training.derived import pearson

pytestmark = pytest.mark.filterwarnings("error")

A = pd.Series([91.3, 90.8, 91.9, 91.1, 92.0])
B = pd.Series([90.9, 90.9, 91.2, 90.6, 91.1])
GRIDS = 2000


def not_above(count: int, n: int, share: float = 0.05) -> bool:
    """Whether `count` of `n` is within Monte-Carlo error of at most `share`."""
    return bool(stats.binomtest(count, n, share, alternative="greater").pvalue > 0.001)


def make_runs(
    datasets: int, methods: str, seeds: int, effect: float = 0.3, rng: np.random.Generator | None = None
) -> pd.DataFrame:
    """Results in which each method is better by `effect` than the one before it."""
    rng = rng or np.random.default_rng(3)
    return pd.DataFrame(
        [
            {"dataset": f"d{d}", "method": m, "seed": s, "accuracy": rng.normal(80 + d + effect * i, 0.5)}
            for d in range(datasets)
            for i, m in enumerate(methods)
            for s in range(seeds)
        ]
    )


def table_differences(grid: np.ndarray, gap: float = 0.0, step: float = 0.0) -> dict[int, Difference]:
    """Differences of all other rows of (methods, seeds) + gap to the first one."""
    reference = pd.Series(grid[0])
    return {i: paired_difference(pd.Series(row + gap), reference, step=step) for i, row in enumerate(grid[1:], 1)}


def simulated(rng: np.random.Generator, grids: int, methods: int, seeds: int, sd: float = 0.3) -> np.ndarray:
    """Accuracies (grids, methods + 1, seeds) of equal methods, with an effect of the seed that all share."""
    return 90 + rng.normal(0, 0.5, (grids, 1, seeds)) + rng.normal(0, sd, (grids, methods + 1, seeds))


# --- means and paired differences


def test_mean_interval_equals_scipy() -> None:
    mean, half = mean_interval(A)
    low, high = stats.ttest_1samp(A, 0).confidence_interval(0.95)
    assert mean == pytest.approx(A.mean())
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_mean_interval_of_few_missing_or_equal_values() -> None:
    assert mean_interval([90.0, math.nan, 92.0]) == mean_interval([92.0, 90.0])
    assert mean_interval([0.1, 0.2, 0.3]) == mean_interval([0.3, 0.2, 0.1])
    assert mean_interval([91.0])[0] == 91.0
    assert math.isnan(mean_interval([91.0])[1])
    assert np.isnan(mean_interval([])).all()
    assert mean_interval([0.1] * 3) == (pytest.approx(0.1), 0.0)


def test_mean_interval_of_equal_coarse_values_has_the_width_of_rounding() -> None:
    _, half = mean_interval([90.0] * 4, step=0.5)
    assert half == pytest.approx(stats.t.ppf(0.975, 3) * 0.5 / math.sqrt(12) / 2)
    assert mean_interval([90.0, 95.0], step=0.5) == mean_interval([90.0, 95.0])  # a wider spread is left alone


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_paired_difference_equals_scipy(level: float) -> None:
    ours, theirs = paired_difference(A, B, level), stats.ttest_rel(A, B)
    low, high = theirs.confidence_interval(level)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.n == 5
    assert (ours.mean - ours.half_width, ours.mean + ours.half_width) == pytest.approx((low, high))


def test_paired_difference_of_a_textbook_example() -> None:
    """Student (1908): extra hours of sleep with two drugs, ten patients; t = 4.0621, p = 0.00283."""
    first = pd.Series([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    second = pd.Series([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    found = paired_difference(second, first)
    assert found.mean == pytest.approx(1.58)
    assert found.mean / found.error == pytest.approx(4.0621, abs=1e-4)
    assert found.p == pytest.approx(0.00283, abs=1e-5)


def test_paired_difference_pairs_by_seed_and_leaves_out_what_one_side_lacks() -> None:
    a = pd.Series({3: 92.0, 1: 90.0, 2: 91.0, 4: math.nan, 9: 50.0})
    b = pd.Series({1: 89.0, 2: 90.5, 3: 90.0, 4: 10.0, 5: 10.0})
    assert paired_difference(a, b) == paired_difference(pd.Series([90.0, 91.0, 92.0]), pd.Series([89.0, 90.5, 90.0]))
    assert paired_difference(a, b).n == 3


def test_paired_difference_without_spread() -> None:
    same = paired_difference(A, A)
    assert (same.mean, same.half_width, same.p) == (0.0, 0.0, 1.0)
    for shift in (0.1, -0.7):
        constant = paired_difference(A + shift, A)  # A + 0.1 - A is not exactly constant in floats
        assert (constant.mean, constant.half_width, constant.p) == (pytest.approx(shift), 0.0, 0.0)
    for size in (1.0, 1e7):
        noise = paired_difference(A * size * (1 + 5e-16), A * size)
        assert (noise.mean, noise.p) == (0.0, 1.0)
    assert paired_difference(A * 0, A * 0).p == 1.0


def test_one_step_of_difference_on_three_seeds_proves_nothing() -> None:
    one_sample = 100 / 360
    found = paired_difference(A + one_sample, A, step=one_sample)
    three = paired_difference(A[:3] + one_sample, A[:3], step=one_sample)
    assert three.p > 0.05 > found.p > 0
    assert three.half_width > three.mean


def test_paired_difference_below_two_pairs() -> None:
    one = paired_difference(A[:1], B)
    assert (one.mean, one.n) == (pytest.approx(0.4), 1)
    assert np.isnan([one.half_width, one.p, one.error]).all()
    none = paired_difference(A[:2], B[2:])
    assert none.n == 0
    assert np.isnan([none.mean, none.half_width, none.p]).all()


def test_paired_difference_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match="seed 0 appears more than once"):
        paired_difference(pd.Series([1.0, 2.0], index=[0, 0]), B)
    with pytest.raises(ValueError, match="infinite"):
        paired_difference(pd.Series([1.0, math.inf]), B)
    with pytest.raises(ValueError, match="level"):
        paired_difference(A, B, level=95)


# --- Holm, TOST, verdicts


def test_holm_of_a_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("size", [1, 2, 7, 40])
@pytest.mark.parametrize("digits", [2, 16])
def test_holm_equals_statsmodels(size: int, digits: int) -> None:
    p = np.random.default_rng(size).random(size).round(digits) ** 3  # small ones, with ties
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_leaves_out_nan_and_takes_tables() -> None:
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)
    table = np.random.default_rng(0).random((4, 6))
    assert np.array_equal(holm(table), [holm(row) for row in table])
    assert holm([]).size == 0
    with pytest.raises(ValueError, match="p values"):
        holm([0.1, 1.2])


@pytest.mark.parametrize("delta", [0.3, 0.5, 1.0])
def test_equivalence_is_the_larger_of_two_one_sided_t_tests(delta: float) -> None:
    above = stats.ttest_rel(A, B - delta, alternative="greater").pvalue
    below = stats.ttest_rel(A, B + delta, alternative="less").pvalue
    assert equivalence(paired_difference(A, B), delta) == pytest.approx(max(above, below))
    assert equivalence(paired_difference(B, A), delta) == pytest.approx(max(above, below))


def test_equivalence_without_spread() -> None:
    assert equivalence(paired_difference(A, A), 0.5) == 0.0
    assert equivalence(paired_difference(A + 0.75, A), 0.5) == 1.0
    assert equivalence(Difference(mean=0.5, half_width=0.0, p=0.0, n=5, error=0.0, freedom=4), 0.5) == 0.5
    assert math.isnan(equivalence(paired_difference(A[:1], B), 0.5))
    with pytest.raises(ValueError, match="delta must be positive"):
        equivalence(paired_difference(A, B), 0)


def test_verdicts_in_words() -> None:
    up, down = paired_difference(A, B), paired_difference(B, A)
    assert verdict(up, up.mean - 0.01) == "better than random"
    assert verdict(down, up.mean - 0.01) == "worse than random"
    assert verdict(up, up.mean) == "not separable from random"
    assert verdict(up, 0.0, "full") == "better than full"
    assert equivalence_verdict(up, 0.99 - up.mean, 1.0) == "equivalent to full within 1"
    assert equivalence_verdict(up, 1.01 - up.mean, 1.0) == "not shown equivalent to full within 1"
    two = paired_difference(A[:2] + 50, B)
    assert verdict(two, 0.0) == equivalence_verdict(two, 0.0, 0.5) == NO_VERDICT


def test_compare_is_one_family_of_the_rows_that_get_a_verdict() -> None:
    rows = {
        "far": paired_difference(A + 5, B),
        "near": paired_difference(A, B),
        "same": paired_difference(A, A),
        "two seeds": paired_difference(A[:2] + 5, B),
        ("one", "seed"): paired_difference(A[:1], B),
    }
    table = compare(rows, {name: "full" if name == "near" else "random" for name in rows}, delta=0.5)
    assert list(table.index) == list(rows)
    assert table["p"].tolist()[:3] == pytest.approx([min(1, 3 * rows[name].p) for name in ("far", "near", "same")])
    assert table["verdict"].tolist() == [
        "better than random",
        "not separable from full",  # p = 0.044 alone, 0.13 as one of three
        "not separable from random",
        NO_VERDICT,
        NO_VERDICT,
    ]
    assert 0.04 < rows["near"].p < 0.05
    assert table["half_width"].iloc[1] == pytest.approx(paired_difference(A, B, level=1 - 0.05 / 3).half_width)
    assert table[["p", "half_width", "equivalence_p"]].isna().all(axis=1).tolist() == [False] * 3 + [True] * 2
    assert table["equivalence"].tolist()[2:] == ["equivalent to random within 0.5", NO_VERDICT, NO_VERDICT]
    tost = [min(1, 3 * 2 * equivalence(rows[name], 0.5)) for name in ("far", "near", "same")]
    assert table["equivalence_p"].tolist()[:3] == pytest.approx(tost)
    assert "equivalence" not in compare(rows)
    assert len(compare({}, delta=0.5)) == 0


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_no_interval_contradicts_its_verdict_on_random_boards(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    for grid in simulated(rng, 40, methods=8, seeds=seeds):
        gaps = rng.choice([0.0, 0.2, 0.5, 2.0], size=(len(grid), 1))
        table = compare(table_differences(np.round((grid + gaps) * 3) / 3), delta=0.5)
        outside = table["mean"].abs() > table["half_width"]
        assert (table["verdict"].str.startswith("not separable") == ~outside).all()
        assert ((table["p"] < 0.05) == outside).all()
        within = table["mean"].abs() + table["half_width"] < 0.5
        assert (table["equivalence"].str.startswith("equivalent") == within).all()
        assert ((table["equivalence_p"] < 0.05) == within).all()


# --- calibration: what the verdicts and intervals promise, on simulated grids


SETTINGS = ["equal", "controls apart", "one is the best", "unequal spreads", "heavy tails"]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_at_most_5_percent_of_boards_carry_a_false_verdict(setting: str, seeds: int) -> None:
    false = power.false_boards(np.random.default_rng(1), setting, seeds, boards=GRIDS)
    assert not_above(int(false["all at once"] * GRIDS), GRIDS)


def test_a_family_for_each_control_said_something_false_in_more_than_5_percent() -> None:
    false = power.false_boards(np.random.default_rng(1), "controls apart", 10, boards=GRIDS)
    assert not not_above(int(false["each control apart"] * GRIDS), GRIDS)
    assert false["all at once"] > 0.005, "nor is it bought with a test that never speaks"


def test_the_simulation_says_what_compare_says() -> None:
    grids = simulated(np.random.default_rng(1), 50, methods=5, seeds=5, sd=0.2)
    gaps = np.array([0, 0.3, 0.6, 1.0, 2.0])
    differences = grids[:, 1:] + gaps[:, None] - grids[:, :1]
    claimed = power.claims(differences, 0.5, family=5)
    for grid, (better, worse, equal) in zip(grids, np.moveaxis(claimed, 1, 0), strict=True):
        table = compare(
            {i: table_differences(np.stack([grid[0], grid[i] + gaps[i - 1]]))[1] for i in range(1, 6)}, delta=0.5
        )
        assert table["verdict"].str.startswith("better").tolist() == better.tolist()
        assert table["verdict"].str.startswith("worse").tolist() == worse.tolist()
        assert table["equivalence"].str.startswith("equivalent").tolist() == equal.tolist()


def test_a_gap_of_exactly_delta_is_called_equivalent_in_at_most_5_percent() -> None:
    grids = simulated(np.random.default_rng(2), GRIDS, methods=10, seeds=5, sd=0.15)
    _, _, equal = power.claims(grids[:, 1:] - 0.5 - grids[:, :1], 0.5, family=10)
    _, _, single = power.claims(grids[:, 1:] - 0.5 - grids[:, :1], 0.5, family=1)
    assert not_above(int(equal.any(axis=1).sum()), GRIDS)
    assert not_above(int(single[:, 0].sum()), GRIDS)
    assert single[:, 0].mean() > 0.015  # with a spread this small the test is nearly exact, at half of 5 %


def test_coarse_accuracies_on_three_seeds_are_calibrated_only_with_their_step() -> None:
    step = 100 / 360  # a test set of 360 samples
    grids = np.round(simulated(np.random.default_rng(3), 400, methods=10, seeds=3, sd=0.2) / step) * step

    def better(known: float) -> int:
        tables = [compare(table_differences(grid, step=known)) for grid in grids]
        return sum("better than random" in set(table["verdict"]) for table in tables)

    assert not not_above(better(0.0), len(grids))  # chance makes three equal differences, which then look certain
    assert not_above(better(step), len(grids))


def test_power_of_one_comparison_with_five_seeds_is_80_percent_at_two_standard_deviations() -> None:
    pairs = simulated(np.random.default_rng(4), GRIDS, methods=1, seeds=5)
    sd = 0.3 * math.sqrt(2)
    found = [compare(table_differences(pair, gap=2 * sd))["verdict"].iloc[0] for pair in pairs[:400]]
    share = np.mean([v == "better than random" for v in found])
    exact = stats.nct.sf(stats.t.ppf(0.975, 4), 4, 2 * math.sqrt(5))
    assert exact >= 0.8
    assert share == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_what_they_promise(seeds: int) -> None:
    pairs = simulated(np.random.default_rng(5 + seeds), GRIDS, methods=1, seeds=seeds)
    means = [mean_interval(pair[1]) for pair in pairs]
    differences = [table_differences(pair, gap=0.4)[1] for pair in pairs]
    assert 0.93 <= np.mean([abs(mean - 90) <= half for mean, half in means]) <= 0.97
    assert 0.93 <= np.mean([abs(d.mean - 0.4) <= d.half_width for d in differences]) <= 0.97


def test_power_table_equals_simulation_and_shows_what_a_family_costs() -> None:
    table = power_table()
    assert table.shape == (12, 4)
    assert table.T.apply(lambda row: row.is_monotonic_decreasing).all()
    differences = np.random.default_rng(6).standard_normal((20_000, 5))
    for gap, m in ((1.0, 1), (2.0, 1), (2.0, 10)):
        better, _, _ = power.claims(differences + gap, 0.5, family=m)
        assert table.at[(gap, 5), m] == pytest.approx(better.mean(), abs=0.015)
    assert power_table(seeds=[5], comparisons=[1], gaps=[0.0]).iloc[0, 0] == pytest.approx(0.025)


# --- several datasets


def test_rank_intervals_on_fixed_data() -> None:
    runs = make_runs(datasets=6, methods="abc", seeds=5, effect=0.3)
    table = rank_intervals(runs)
    means = runs.pivot_table(index="dataset", columns="method", values="accuracy")
    assert table["rank"].to_dict() == pytest.approx(means.rank(axis=1, ascending=False).mean().to_dict())
    assert (table["low"] <= table["rank"]).all()
    assert (table["rank"] <= table["high"]).all()
    assert table["low"].ge(1).all()
    assert table["high"].le(3).all()
    far = rank_intervals(make_runs(6, "abc", 5, effect=20))
    assert far.to_numpy().tolist() == [[3, 3, 3], [2, 2, 2], [1, 1, 1]]


def test_rank_intervals_count_who_is_found_better_and_who_worse() -> None:
    runs = make_runs(datasets=1, methods="abcd", seeds=6, effect=0.7)
    wide = runs.pivot(index="seed", columns="method", values="accuracy")
    expected = {}
    for method in wide:
        others = [stats.ttest_rel(wide[other], wide[method]) for other in wide if other != method]
        found = multipletests([test.pvalue for test in others], method="holm")[1] < 0.05
        signs = np.array([np.sign(test.statistic) for test in others])
        expected[method] = [1 + (found & (signs > 0)).sum(), 4 - (found & (signs < 0)).sum()]
    table = rank_intervals(runs)
    assert {m: table.loc[m, ["low", "high"]].tolist() for m in wide} == expected
    assert (table["high"] - table["low"]).max() > 0


def test_rank_intervals_pair_the_seeds_and_know_the_step() -> None:
    runs = make_runs(datasets=1, methods="ab", seeds=3, effect=0)
    runs["accuracy"] = 80 + 10 * runs["seed"] + 0.25 * (runs["method"] == "b")  # seeds differ far more
    assert rank_intervals(runs)["low"].tolist() == [2, 1]
    assert rank_intervals(runs.assign(step=0.25))["low"].tolist() == [1, 1], "one step on three seeds proves nothing"


@pytest.mark.parametrize("setting", power.RANKS)
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("datasets", [1, 3])
def test_rank_intervals_hold_all_ranks_of_a_tie_in_94_percent(setting: str, seeds: int, datasets: int) -> None:
    held, width = power.rank_coverage(np.random.default_rng(7), setting, datasets, seeds, GRIDS)
    assert held >= 0.94
    if setting == "two groups" and seeds == 10:
        assert width < 5.5, "what differs is told apart"


def test_methods_with_equal_accuracy_share_a_rank() -> None:
    runs = make_runs(datasets=1, methods="ab", seeds=3)
    runs["accuracy"] = [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]  # equal means whose float sums differ
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1
    assert rank_intervals(runs)["rank"].tolist() == [1.5, 1.5]


def test_iqm_equals_scipy() -> None:
    runs = make_runs(datasets=3, methods="ab", seeds=5)
    table = iqm(runs, np.random.default_rng(0))
    expected = [stats.trim_mean(runs.loc[runs["method"] == m, "accuracy"], 0.25) for m in "ab"]
    assert table["iqm"].tolist() == pytest.approx(expected)
    assert (table["low"] < table["iqm"]).all()
    assert (table["iqm"] < table["high"]).all()


def test_iqm_interval_of_one_dataset_equals_scipys_bootstrap() -> None:
    runs = make_runs(datasets=1, methods="a", seeds=20)
    ours = iqm(runs, np.random.default_rng(0), draws=20_000).loc["a"]
    theirs = stats.bootstrap(
        (runs["accuracy"],),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (ours["low"], ours["high"]) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_iqm_draws_seeds_but_not_datasets() -> None:
    runs = make_runs(datasets=4, methods="a", seeds=3).assign(accuracy=lambda r: r["dataset"].str[1:].astype(float))
    assert iqm(runs, np.random.default_rng(0)).to_numpy().tolist() == [[1.5, 1.5, 1.5]]


def test_probability_of_improvement_is_mann_whitney_averaged_over_datasets() -> None:
    runs = make_runs(datasets=3, methods="ab", seeds=6).round({"accuracy": 0})  # with ties
    wide = runs.pivot(index=["dataset", "seed"], columns="method", values="accuracy")
    shares = [stats.mannwhitneyu(t["b"], t["a"]).statistic / 36 for _, t in wide.groupby("dataset")]
    point, low, high = probability_of_improvement(runs, "b", "a", np.random.default_rng(0))
    assert point == pytest.approx(np.mean(shares))
    assert low < point < high
    back, *_ = probability_of_improvement(runs, "a", "b", np.random.default_rng(0))
    assert back == pytest.approx(1 - point)
    assert probability_of_improvement(runs, "a", "a", np.random.default_rng(0))[0] == 0.5
    with pytest.raises(ValueError, match="no run of c"):
        probability_of_improvement(runs, "a", "c", np.random.default_rng(0))


def test_probability_of_improvement_interval_equals_all_resamples_of_the_seeds() -> None:
    runs = make_runs(datasets=1, methods="ab", seeds=4, effect=0.2)
    a, b = (runs.loc[runs["method"] == m, "accuracy"].to_numpy() for m in "ab")
    draws = [list(draw) for draw in itertools.product(range(4), repeat=4)]
    every = [(b[draw][:, None] > a[draw]).mean() for draw in draws]
    _, low, high = probability_of_improvement(runs, "b", "a", np.random.default_rng(0), draws=20_000, level=0.8)
    assert (low, high) == pytest.approx(tuple(np.quantile(every, [0.1, 0.9])))


def test_a_single_run_has_no_interval_and_a_missing_seed_is_dropped_for_all() -> None:
    one = make_runs(datasets=1, methods="ab", seeds=1, effect=5)
    for table in (rank_intervals(one), iqm(one, np.random.default_rng(0))):
        assert table[["low", "high"]].isna().all(axis=None)
        assert table.iloc[:, 0].notna().all()
    assert np.isnan(probability_of_improvement(one, "b", "a", np.random.default_rng(0))[1:]).all()

    full = make_runs(datasets=2, methods="abc", seeds=4)
    holed = full.drop(index=full.query("dataset == 'd1' and method == 'b' and seed == 2").index)
    known_nan = full.assign(accuracy=full["accuracy"].mask(~full.index.isin(holed.index)))
    shared = full.query("dataset != 'd1' or seed != 2")
    expected = rank_intervals(shared)
    assert rank_intervals(holed).equals(expected)
    assert rank_intervals(known_nan).equals(expected)


def test_runs_that_cannot_be_paired_are_refused() -> None:
    runs = make_runs(datasets=2, methods="ab", seeds=3)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="lack the column accuracy"):
        rank_intervals(runs.drop(columns="accuracy"))
    with pytest.raises(ValueError, match="a has two results on d0 with seed 0"):
        iqm(pd.concat([runs, runs[:1]]), rng)
    with pytest.raises(ValueError, match="no seed has a result of every method on d1"):
        rank_intervals(runs.query("dataset == 'd0' or method == 'a'"))
    with pytest.raises(ValueError, match="no seed has a result"):
        rank_intervals(runs[:0])
    with pytest.raises(ValueError, match="infinite"):
        iqm(runs.assign(accuracy=math.inf), rng)
    with pytest.raises(ValueError, match="level"):
        iqm(runs, rng, level=95)


# --- tests over datasets

# Demsar (2006), JMLR 7, table 6: AUC of C4.5 with and without tuning of m and of cf on 14 data sets; 0.9751 is
# printed as 0.975 there, but ranked above the other 0.975 of its row
DEMSAR = pd.DataFrame(
    {
        "c45": [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957],
        "m": [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978],
        "cf": [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614, 0.9751, 0.946],
        "m_cf": [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669, 0.975, 0.970],
    }
)
DEMSAR_RUNS = DEMSAR.melt(var_name="method", value_name="accuracy", ignore_index=False).reset_index(names="dataset")
DEMSAR_RUNS = DEMSAR_RUNS.assign(seed=0)


def test_rank_test_of_a_textbook_example() -> None:
    """Demsar's section 3.2.2: ranks 3.143, 2.000, 2.893, 1.964; c45 falls short of m_cf by less than CD = 1.25."""
    test = rank_test(DEMSAR_RUNS)
    assert test.ranks.to_dict() == pytest.approx({"c45": 3.143, "m": 2.0, "cf": 2.893, "m_cf": 1.964}, abs=1e-3)
    assert test.friedman_p == pytest.approx(stats.friedmanchisquare(*DEMSAR.to_numpy().T).pvalue)
    assert test.friedman_p < 0.05
    p = test.p.loc["c45"].to_dict()  # at 10 %, where CD = 1.12, c45 does fall short of m and of m_cf
    assert 0.05 < p["m_cf"] < p["m"] < 0.1 < p["cf"]


def test_rank_test_equals_scikit_posthocs() -> None:
    runs = make_runs(datasets=8, methods="abcd", seeds=3)
    means = runs.pivot_table(index="dataset", columns="method", values="accuracy")
    nemenyi = scikit_posthocs.posthoc_nemenyi_friedman(means)
    pd.testing.assert_frame_equal(rank_test(runs).p, nemenyi, check_names=False)
    found = rank_test(runs, "wilcoxon").p
    pairs = list(itertools.combinations("abcd", 2))
    p = [stats.wilcoxon(means[i], means[j]).pvalue for i, j in pairs]
    for (i, j), expected in zip(pairs, multipletests(p, method="holm")[1], strict=True):
        assert [found.at[i, j], found.at[j, i]] == pytest.approx([expected, expected])


@pytest.mark.parametrize("post_hoc", ["nemenyi", "wilcoxon"])
def test_rank_test_of_identical_methods(post_hoc: str) -> None:
    test = rank_test(make_runs(datasets=5, methods="abc", seeds=2).assign(accuracy=90.0), post_hoc)  # type: ignore[arg-type]
    assert test.friedman_p == 1.0
    assert np.array_equal(test.p, np.ones((3, 3)))


def test_rank_test_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="at least 5 of them, got 4"):
        rank_test(make_runs(datasets=4, methods="abc", seeds=3))
    with pytest.raises(ValueError, match="at least 3 methods, got 2"):
        rank_test(make_runs(datasets=5, methods="ab", seeds=3))
    with pytest.raises(ValueError, match="post_hoc must be"):
        rank_test(make_runs(datasets=5, methods="abc", seeds=3), "tukey")  # type: ignore[arg-type]


def test_critical_difference_figure_draws_every_method_and_joins_what_is_not_separated() -> None:
    runs = make_runs(datasets=10, methods="abc", seeds=3, effect=9)
    runs["method"] = runs["method"].replace({"b": "$b_{$", "c": "{<c>}"})  # neither mathematics nor a format
    test = rank_test(runs)
    assert test.ranks.to_dict() == {"a": 3, "$b_{$": 2, "{<c>}": 1}
    figure = critical_difference_figure(test)
    figure.savefig(io.BytesIO(), format="png")
    (axes,) = figure.axes
    labels = {text.get_text().strip() for text in axes.texts}
    assert labels == {"{<c>} (1.0)", "$b_{$ (2.0)", "(3.0) a"}
    lines = [np.asarray(line.get_data()) for line in axes.lines]
    bars = [sorted(x.tolist()) for x, y in lines if len(set(y)) == 1]
    assert sorted(bars) == [[1, 2], [2, 3]]  # the critical difference of 3 methods on 10 datasets is 1.05


# --- rows in another order, front and correlation


def test_row_order_changes_no_bit() -> None:
    runs = make_runs(datasets=6, methods="abcd", seeds=5)
    turned = runs.sample(frac=1, random_state=1)

    def results(r: pd.DataFrame) -> list[pd.DataFrame]:
        rng = np.random.default_rng(0)
        by_seed = {m: g.set_index(["dataset", "seed"])["accuracy"] for m, g in r.groupby("method")}
        rows = {m: paired_difference(by_seed[m], by_seed["a"]) for m in r["method"].unique() if m != "a"}
        interval = mean_interval(r["accuracy"])
        improvement = probability_of_improvement(r, "b", "a", rng)
        nemenyi, wilcoxon = rank_test(r), rank_test(r, "wilcoxon")
        return [
            compare(rows, delta=0.5).sort_index(),
            rank_intervals(r),
            iqm(r, rng),
            pd.DataFrame([*interval, *improvement, nemenyi.friedman_p]),
            nemenyi.p,
            wilcoxon.p,
            pd.DataFrame([pearson(r["accuracy"], r["seed"])]),
        ]

    for straight, shuffled in zip(results(runs), results(turned), strict=True):
        pd.testing.assert_frame_equal(straight, shuffled, check_exact=True)


def test_pareto_front_keeps_what_no_other_point_beats() -> None:
    cost = [1.0, 2.0, 2.0, 3.0, 3.0, 1.0, math.nan, 0.5]
    value = [5.0, 7.0, 6.0, 7.0, 9.0, 5.0, 99.0, math.nan]
    # twins are both on the front; as good but dearer, or as dear but worse, is not
    assert pareto_front(cost, value).tolist() == [True, True, False, False, True, True, False, False]
    order = np.random.default_rng(0).permutation(8)
    shuffled = pareto_front(np.array(cost)[order], np.array(value)[order])
    assert shuffled.tolist() == pareto_front(cost, value)[order].tolist()
    assert pareto_front([], []).size == 0
    with pytest.raises(ValueError, match="one length"):
        pareto_front([1.0], [1.0, 2.0])


def test_pearson_equals_scipy_and_is_nan_without_spread() -> None:
    assert pearson(A, B) == pytest.approx(stats.pearsonr(A, B).statistic)
    assert pearson([*A, math.nan, 1.0], [*B, 1.0, math.nan]) == pearson(A, B)
    assert math.isnan(pearson([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
    assert math.isnan(pearson([1.0], [2.0]))
    with pytest.raises(ValueError, match="one length"):
        pearson(A, B[:3])
