"""repb: window rule and weights followed by hand, the expected weight in closed form, unbiasedness."""

import pytest
import torch

from dpbench.method import Signals

COPIES = 20_000


@pytest.mark.parametrize("batches", [1, 4])
def test_window_rule_and_weights(make, drive, world, batches):
    method = make(f"repb[rho=0.9,batches={batches}]")
    times = torch.zeros(60)
    stay = set(range(60))
    returned = 0
    for epoch, trace in enumerate(drive(method)):
        chosen = trace.selection.indices
        assert stay <= set(chosen.tolist())
        returned += len(chosen) - len(stay)
        if epoch:
            assert torch.allclose(trace.selection.weights, epoch / times[chosen])
        times[chosen] += 1
        stay = set()
        for first in range(0, len(trace.forwarded), batches):
            window = torch.cat(trace.forwarded[first : first + batches])
            loss = world.signals(frozenset({"loss"}), window, epoch)["loss"].double()
            stay |= set(window[loss >= loss.mean()].tolist())
    assert 0 < returned < 0.2 * 60 * 7  # about a tenth of the others


def run(make, small, rho, epochs):
    """After `epochs` epochs of fixed losses the estimates of the next, one for each copy of the small data."""
    n = 12 * COPIES
    method = make(f"repb[rho={rho}]", n=n, labels=None)
    loss, gradients = small.loss.repeat(COPIES), small.gradients.repeat(COPIES, 1)
    for epoch in range(epochs):
        chosen = method.select(epoch).indices
        method.observe(Signals(chosen, {"loss": loss[chosen]}, epoch))
    chosen = method.select(epochs)
    weighted = torch.zeros(n, 9, dtype=torch.float64)
    weighted[chosen.indices] = chosen.weights[:, None] * gradients[chosen.indices]
    return weighted.view(COPIES, 12, 9).mean(1)


def test_unbiased_in_the_long_run(make, small, deviation):
    assert deviation(run(make, small, 0.5, 25), small.gradients.mean(0)) < 4


def test_expected_weight_after_few_epochs(make, small, deviation):
    found = run(make, small, 0.7, 3)
    below = (small.loss < small.loss.mean())[:, None]
    assert deviation(found, torch.where(below, 1 - 0.7**3, 1.0).mul(small.gradients).mean(0)) < 4
    assert deviation(found, small.gradients.mean(0)) > 4


def test_state_and_order(resumes, order_free):
    resumes("repb")
    resumes("repb[batches=4]")
    order_free("repb", steps=True)
