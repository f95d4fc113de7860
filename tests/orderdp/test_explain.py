"""What `dpbench explain` tells: numbers that agree with the theory, as JSON and as a figure."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from dpbench import load_method
from dpbench.inclusion import inclusion_probability
from dpbench.method import Task
from dpbench.orderdp import explain, theory


@pytest.mark.parametrize(
    ("n", "explore", "keep"), [(1, 1.0, 1.0), (7, 0.6, 0.3), (1437, 0.8, 0.3), (1437, 0.3, 0.3), (1_281_167, 0.75, 0.6)]
)
def test_explain_agrees_with_the_functions(n: int, explore: float, keep: float) -> None:
    found = explain.explain(n, explore, keep)
    n, s, q = found.n, found.s, found.q
    assert q == max(1, round(keep * n))
    assert s == max(q, round(explore * n))
    assert found.prune_ratio == pytest.approx(1 - q / n)
    np.testing.assert_array_equal(found.inclusion_probability, inclusion_probability(n, s, q, found.ranks))
    np.testing.assert_array_equal(found.surrogate_weight, theory.surrogate_weight(n, s, q, found.ranks))
    running = np.cumsum(theory.surrogate_weight(n, s, q))
    np.testing.assert_allclose(found.cumulative_weight, running[found.ranks - 1], rtol=1e-9)
    np.testing.assert_array_equal(found.beta_limit, theory.beta_limit(found.ranks / n, s, q) / n)
    assert found.effective_samples == theory.effective_samples(n, s, q)
    assert found.tilt == {share: theory.tilt(n, s, q, share) for share in (0.01, 0.1)}
    assert found.total_variation == theory.total_variation(n, s, q)
    assert found.bias_factor == theory.bias_term(n, s)


@pytest.mark.parametrize(("n", "explore", "keep"), [(101, 0.2, 0.3), (101, 0.3, 0.3), (101, 0.8, 0.9), (101, 0.8, 0.3)])
def test_explain_tells_of_what_a_run_does(n: int, explore: float, keep: float) -> None:
    method = load_method(f"orderdp[explore={explore}]")
    method.setup(Task(n, 2, 10, keep, None), torch.Generator())
    found = explain.explain(n, explore, keep)
    assert (found.s, found.q) == (method.s, method.task.k)  # type: ignore[attr-defined]
    assert bool((found.inclusion_probability == found.q / n).all()) == (explore <= keep), "uniform sampling"


def test_report_is_json() -> None:
    explained = explain.explain(1437, 0.8, 0.3)
    found = json.loads(json.dumps(explain.report(explained), allow_nan=False))
    assert found["prune_ratio"] == pytest.approx(0.7, abs=1 / 1437)
    assert found["ranks"] == list(range(1, 1438))
    assert sum(found["inclusion_probability"]) == pytest.approx(found["q"])
    assert sum(found["surrogate_weight"]) == pytest.approx(1)
    assert found["tilt"].keys() == {"0.01", "0.1"}


def test_figure_shows_both_curves(tmp_path: object) -> None:
    explained = explain.explain(1437, 0.8, 0.3)
    drawing = explain.figure(explained)
    left, right = drawing.axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), explained.inclusion_probability)
    np.testing.assert_array_equal(left.lines[1].get_ydata(), explained.beta_limit)
    np.testing.assert_array_equal(right.lines[0].get_ydata(), explained.cumulative_weight)
    drawing.savefig(f"{tmp_path}/figure.png")


def test_numbers_need_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; from dpbench.orderdp.explain import explain; explain(10, 1, 1)\n"
        "sys.exit(bool({'torch', 'matplotlib'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
