"""The theorems as experiments: the parts against independent computations, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from threadpoolctl import threadpool_limits

from dpbench.orderdp import experiments, page, theory, unbiased
from dpbench.orderdp.problem import Effort, Network, Problem, descent

TINY = Effort(draws=400, steps=60, seeds=2, splits=2, largest=3162)


def small(kind: type[Problem]) -> Problem:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=(30, 3)), np.ones(30)])
    return kind(x, np.eye(3)[rng.integers(0, 3, 30)], 0.1)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return small(Problem)


@pytest.mark.parametrize("kind", [Problem, Network])
def test_the_surrogates_gradient_is_that_of_its_value(kind):
    problem, weights = small(kind), theory.surrogate_weight(30, 12, 5)
    theta = np.random.default_rng(1).normal(size=(2, 3, problem.size))  # replicas, each as if it were alone
    values, gradients = problem.surrogate(theta, weights)
    assert values.shape == (2, 3)
    for at in np.ndindex(2, 3):
        numeric = approx_fprime(theta[at], lambda flat: problem.surrogate(flat, weights)[0], 1e-6)
        assert gradients[at] == pytest.approx(numeric, abs=1e-5)
        assert values[at] == pytest.approx(problem.surrogate(theta[at], weights)[0])


@pytest.mark.parametrize("kind", [Problem, Network])
def test_steps_have_the_surrogates_gradient_on_average(kind):
    problem, rng = small(kind), np.random.default_rng(2)
    theta = np.random.default_rng(1).normal(size=problem.size)
    steps = problem.step(np.tile(theta, (4000, 1)), rng, 12, 5)  # replicas draw for themselves
    _, gradient = problem.surrogate(theta, theory.surrogate_weight(30, 12, 5))
    error = (steps.mean(0) - gradient) / (steps.std(0) / 4000**0.5)
    assert np.abs(error).max() < 4.5


def test_momenta_share_their_draws_and_go_equally_far(problem):
    momenta = np.reshape([0.0, 0.0, 0.9], (-1, 1, 1))
    start = np.full((3, 2, problem.size), 3.0)
    rng = np.random.default_rng(4)
    path = [theta - start for theta in descent(problem, start, rng, 12, 5, 2e-3, [0, 1, 400], momenta)]
    assert np.array_equal(path[2][0], path[2][1])
    assert not np.allclose(path[2][0, 0], path[2][0, 1])  # the seeds differ
    assert path[1][2] == pytest.approx(0.1 * path[1][0])  # the first step is 1 - momentum of the others'
    far = np.linalg.norm(path[2], axis=-1)
    assert far[2] == pytest.approx(far[0], rel=0.1)


def test_the_minimum_is_not_beaten_by_perturbations(problem):
    for q in (12, 5):
        weights = theory.surrogate_weight(30, 12, q)
        theta = problem.minimise(weights)
        least = problem.surrogate(theta, weights)[0]
        rng = np.random.default_rng(3)
        for scale in (1e-3, 1e-2, 1e-1):
            for _ in range(20):
                assert problem.surrogate(theta + scale * rng.normal(size=theta.shape), weights)[0] >= least - 1e-9


def test_the_variance_of_the_cut_is_smaller_by_the_share_not_drawn():
    found = unbiased.proposition_2(TINY)
    for row in found["fixed"] + found["growing"]:
        assert row["variance_ratio"] == pytest.approx(1 - row["s"] / row["n"], rel=1e-6)


def test_all_is_written_and_the_same_twice(tmp_path: Path):
    found = experiments.run(tmp_path, TINY)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "theory.json"} | {
        f"{name}.png" for name in experiments.STUDIES
    }
    assert found.keys() == page.TITLES.keys()
    read = json.loads((tmp_path / "theory.json").read_text())
    assert read["proposition_2"]["slope"] == found["proposition_2"]["slope"]
    with threadpool_limits(1):  # as in the command: the last bit depends on the number of threads
        assert unbiased.theorem_1(TINY) == found["theorem_1"]
    assert found["theorem_1"]["held"]
    fresh = [row["distance"] for row in found["staleness"]["rows"] if row["scores"] == "fresh"]
    assert max(fresh) < 0.03
