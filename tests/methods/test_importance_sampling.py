"""importance_sampling: unbiased steps, the criterion by its definition, uniform before it is met."""

import pytest
import torch

from dpbench.method import Signals

TRIALS = 20_000


def estimates(method, small, trials=TRIALS):
    signals, rank = Signals(torch.arange(12), {"error_norm": small.error_norm}, 0), torch.Generator().manual_seed(8)
    found = torch.empty(trials, 9, dtype=torch.float64)
    weighted = 0
    for trial in range(trials):
        picked = method.pick(signals, rank)
        weighted += picked.weights is not None
        weights = 1.0 if picked.weights is None else picked.weights[:, None]
        found[trial] = (weights * small.gradients[picked.positions]).mean(0)  # the runner divides by the rows
    return found, weighted


@pytest.mark.parametrize("active", [True, False])
def test_step_is_unbiased_for_the_mean_of_the_batch(make, show, small, deviation, active):
    method = make("importance_sampling[presample=3]", n=12, labels=None)
    if active:
        method.tau = 2.1
    found, weighted = estimates(method, small)
    assert weighted == (TRIALS if active else 0)
    assert deviation(found, small.gradients.mean(0)) < 4


def test_variance_is_lower_than_uniform(make, small):
    uniform, _ = estimates(make("importance_sampling[presample=3]", n=12, labels=None), small, 4000)
    method = make("importance_sampling[presample=3]", n=12, labels=None)
    method.tau = 2.1
    assert estimates(method, small, 4000)[0].var(0).sum() < uniform.var(0).sum()


def test_a_row_drawn_again_has_its_multiple(make):
    method = make("importance_sampling[presample=2]", n=4, labels=None)
    method.tau = 9.0
    score = torch.tensor([8.0, 1.0, 1.0, 0.0])
    rank, seen = torch.Generator().manual_seed(1), set()
    for _ in range(200):
        picked = method.pick(Signals(torch.arange(4), {"error_norm": score}, 0), rank)
        rows, weights = picked.positions.tolist(), picked.weights.tolist()
        assert 3 not in rows
        one = {row: 1 / (4 * float(score[row]) / 10) for row in rows}
        if len(rows) == 1:
            assert weights[0] == pytest.approx(2 * one[rows[0]] / 2)
        else:
            assert weights == pytest.approx([one[row] for row in rows])
        seen.add(len(rows))
    assert seen == {1, 2}


def test_tau(make, show, small):
    method = make("importance_sampling[presample=3]", n=12, labels=None)
    g = (small.error_norm / small.error_norm.sum()).double()
    one_step = 1 / float(1 - ((g - 1 / 12) ** 2).sum() / (g**2).sum()) ** 0.5
    tau = 0.0
    for _ in range(5):
        show(method, error_norm=small.error_norm)
        tau = 0.9 * tau + 0.1 * one_step
        assert method.tau == pytest.approx(tau, rel=1e-5)


def test_criterion_switches_at_its_threshold(make, small):
    signals = Signals(torch.arange(12), {"error_norm": small.error_norm}, 0)
    for text, threshold in [("importance_sampling[presample=3]", 2.0), ("importance_sampling", (2.5 + 3) / 3)]:
        method = make(text, n=12, labels=None)
        for tau, active in [(threshold - 1e-6, False), (threshold + 1e-6, True)]:
            method.tau = tau
            assert (method.pick(signals, torch.Generator()).weights is not None) == active


def test_state_and_order(resumes, order_free, drive, make):
    resumes("importance_sampling[momentum=0]")
    order_free("importance_sampling[momentum=0]", steps=True)
    picks = [pick for trace in drive(make("importance_sampling[momentum=0]")) for pick in trace.picks]
    assert {pick.weights is None for pick in picks} == {True, False}  # both sides of the criterion were compared
