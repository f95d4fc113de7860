"""The ladder of rates with which each study begins: the same for all, never pruned, and what works on it."""

from collections.abc import Iterable
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from dpbench.errors import UsageError
from dpbench.experiments import ladder
from dpbench.experiments.plan import RATE, Plan, of_recipe
from dpbench.experiments.trials import AT_DEFAULT
from dpbench.grid_file import read_grid

GRID = """\
datasets: ["synthetic[n=100,n_test=50,d=16,classes=4]"]
models: ["mlp[width=8,depth=1]"]
methods: [full]
keep: [0.3]
seeds: 2
recipe: {epochs: 2, batch_size: 16, lr: 0.1, schedule: cosine, weight_decay: 0.002}
"""
LADDER = [0.1, 0.03, 0.3, 0.01, 1.0]


def plan(method: str = "orderdp", text: str = GRID, **changes: Any) -> Plan:
    base = read_grid(text, "g.yaml", "g")
    options = {"keep": 0.3, "trials": 9, "seeds": 1, "recipe": ("lr",), "grid": base} | changes
    return Plan(method=method, dataset=base.datasets[0], model=base.models[0], **options)


@pytest.mark.parametrize("method", ["full", "uniform", "orderdp", "infobatch", "el2n"])
def test_every_study_begins_with_the_same_rates_and_the_recipe_s_own_first(method: str) -> None:
    first = ladder.first_trials(plan(method))
    assert [params[RATE] for params in first] == LADDER
    assert all(params | {RATE: 0} == first[0] | {RATE: 0} for params in first), "at the same parameters"
    space = plan(method).space(0.3)
    assert (space[RATE].low, space[RATE].high, space[RATE].log) == (0.01, 1.0, True)  # type: ignore[attr-defined]


def test_parameters_are_at_their_defaults_on_the_ladder() -> None:
    """One that the method works out itself, or that is out of its range, is not set at all."""
    one = plan("infobatch")
    for params in ladder.first_trials(one):
        assert one.spec(params, 0.3, 1000).method == "infobatch"
    assert "r" in one.space(0.3)
    assert "r" not in ladder.first_trials(one)[0]
    assert ladder.first_trials(plan("orderdp", keep=0.9)) == [{RATE: rate} for rate in LADDER]  # explore is 0.8


def test_a_short_study_has_the_first_of_them() -> None:
    assert [params[RATE] for params in ladder.first_trials(plan(trials=3))] == LADDER[:3]


def test_without_the_rate_there_is_the_default_alone() -> None:
    assert ladder.first_trials(plan(recipe=())) == [{"explore": 0.8}]
    assert ladder.first_trials(plan(recipe=("weight_decay",))) == [{"explore": 0.8, "recipe.weight_decay": 0.002}]


def test_no_rate_is_below_the_one_that_the_schedule_ends_with() -> None:
    low = plan(text=GRID.replace("schedule: cosine", "schedule: cosine, lr_min: 0.02"))
    assert [params[RATE] for params in ladder.first_trials(low)] == [0.1, 0.03, 0.3, 0.02, 1.0]


def test_what_is_found_of_the_recipe_enters_the_run_and_its_hash() -> None:
    one = plan("uniform", recipe=("lr", "weight_decay"))
    specs = [one.spec({RATE: rate, "recipe.weight_decay": 0.001}, 0.3, 1000) for rate in (0.1, 0.2)]
    assert [(spec.method, spec.recipe.lr, spec.recipe.weight_decay) for spec in specs] == [
        ("uniform", 0.1, 0.001),
        ("uniform", 0.2, 0.001),
    ]
    assert specs[0].hash != specs[1].hash
    assert of_recipe({RATE: 0.2, "explore": 0.5}) == {"lr": 0.2}


def test_what_cannot_be_searched_of_a_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown value of a recipe that can be searched 'epochs'"):
        plan(recipe=("epochs",))
    with pytest.raises(UsageError, match="--recipe weight_decay: it is 0 in the recipe"):
        plan(recipe=("weight_decay",), text=GRID.replace("weight_decay: 0.002", "weight_decay: 0"))
    with pytest.raises(UsageError, match="nothing to tune but --recipe"):
        plan("full", recipe=())


def study(values: dict[float, float], others: dict[float, float] | None = None, cost: float = 0.3) -> optuna.Study:
    """A study whose ladder has these accuracies by rate, in which diverged is 0, and other trials."""
    return trials(
        ({"recipe": {"lr": rate}, "cost": [cost, cost + rate / 100]} | ({AT_DEFAULT: [RATE]} if first else {}), value)
        for first, part in ((True, values), (False, others or {}))
        for rate, value in part.items()
    )


def trials(told: Iterable[tuple[dict[str, Any], float]]) -> optuna.Study:
    """A study of trials with these attributes, and the values that Optuna was told."""
    found = optuna.create_study(direction="maximize")
    where = {RATE: FloatDistribution(1e-9, 1e9, log=True)}
    for attributes, value in told:
        params = {RATE: attributes["recipe"]["lr"]}
        found.add_trial(create_trial(value=value, params=params, distributions=where, user_attrs=attributes))
    return found


@pytest.mark.parametrize(
    ("values", "rates"),
    [
        ((0.80, 0.90, 0.905, 0.90, 0.00), (0.03, 0.3)),
        ((0.90, 0.90, 0.90, 0.90, 0.90), (0.01, 1.0)),
        ((0.90, 0.50, 0.905, 0.90, 0.00), (0.1, 0.3)),  # the lowest works, too, but not the one between
        ((0.10, 0.20, 0.300, 0.40, 0.90), (1.0, 1.0)),
        ((0.905, 0.895, 0.8949, 0.90, 0.90), (0.01, 0.03)),  # a point below the best still works, more does not
        ((0.90, 0.00, 0.000, 0.00, 0.00), (0.01, 0.01)),
        ((0.00, 0.00, 0.000, 0.00, 0.00), None),
    ],
)
def test_the_rates_that_work_by_hand(values: tuple[float, ...], rates: tuple[float, float] | None) -> None:
    by_rate = dict(zip(sorted(LADDER), values, strict=True))
    assert ladder.rates_that_work(study(by_rate)) == rates
    more = study(by_rate, {0.05: 0.99, 0.2: 0.1})
    assert ladder.rates_that_work(more) == rates, "trials of other parameters do not count"


def test_a_cost_is_too_high_above_that_of_the_rates_that_work() -> None:
    made = study({0.01: 0.8, 0.1: 0.9, 1.0: 0.0})
    assert ladder.dearest(made) == pytest.approx(0.3 + 0.1 / 100 + ladder.DEARER)
    assert ladder.dearest(study({})) == ladder.dearest(study({0.1: 0.0})) == float("inf")


def test_of_equal_trials_the_middle_rate_is_the_best() -> None:
    (chosen,) = ladder.best(study({0.1: 0.9, 0.03: 0.9, 0.3: 0.9, 0.01: 0.8}), plan())
    assert chosen.user_attrs["recipe"] == {"lr": 0.1}
    (chosen,) = ladder.best(study({0.3: 0.9, 0.1: 0.9, 0.01: 0.8}), plan())
    assert chosen.user_attrs["recipe"] == {"lr": 0.1}, "of two the lower"


@pytest.mark.parametrize(
    ("values", "others", "rate"),
    [
        ({0.01: 0.8, 0.03: 0.895, 0.1: 0.893, 0.3: 0.9, 1.0: 0.0}, {}, 0.03),  # 0.3 is the edge
        ({0.01: 0.8, 0.03: 0.895, 0.1: 0.893, 0.3: 0.9, 1.0: 0.0}, {0.5: 0.95, 0.2: 0.91}, 0.5),  # by more than a point
        ({0.01: 0.8, 0.03: 0.895, 0.1: 0.893, 0.3: 0.9, 1.0: 0.0}, {0.5: 0.912, 0.2: 0.905}, 0.2),
        ({0.01: 0.8, 0.03: 0.895, 0.1: 0.893, 0.3: 0.9, 1.0: 0.1}, {}, 0.3),  # 1.0 is bad, but did not diverge
        ({0.01: 0.8, 0.03: 0.885, 0.1: 0.883, 0.3: 0.9, 1.0: 0.0}, {}, 0.3),  # nothing below is as good
        ({0.01: 0.8, 0.03: 0.895, 0.1: 0.9, 0.3: 0.0, 1.0: 0.0}, {}, 0.1),  # the recipe's own
        ({0.01: 0.9, 0.03: 0.0, 0.1: 0.0, 0.3: 0.0, 1.0: 0.0}, {}, 0.01),
        ({0.01: 0.0, 0.03: 0.0, 0.1: 0.0}, {0.005: 0.9}, 0.005),
    ],
)
def test_a_rate_at_the_edge_of_divergence_is_taken_only_where_it_is_better_by_a_point(
    values: dict[float, float], others: dict[float, float], rate: float
) -> None:
    (chosen,) = ladder.best(study(values, others), plan())
    assert chosen.user_attrs["recipe"] == {"lr": rate}


def test_a_trial_is_judged_by_the_whole_ladder_whichever_part_had_ended_when_it_did() -> None:
    """The same trials, told to Optuna in any order and at any values, have the same best one."""
    dear, cheap = (
        {"recipe": {"lr": 0.05}, "accuracy_validation": [accuracy], "cost": [cost]}
        for accuracy, cost in ((0.99, 0.39), (0.91, 0.3))
    )
    first = {
        rate: {"recipe": {"lr": rate}, "cost": [cost], AT_DEFAULT: [RATE]} for rate, cost in ((0.1, 0.3), (0.3, 0.38))
    }
    told = [(first[0.1], 0.9), (first[0.3], 0.895), (dear, 0.99), (dear, 0.0), (cheap, 0.0)]
    for order in (told, told[::-1]):
        assert ladder.best(trials(order), plan())[0].user_attrs == dear, "the last of the ladder lets it cost so much"
    told[1] = (first[0.3], 0.8)  # which does not work, so that what it costs does not count
    for order in (told, told[::-1]):
        assert ladder.best(trials(order), plan())[0].user_attrs == cheap
        assert ladder.accuracy(ladder.best(trials(order), plan())[0]) == 0.91
