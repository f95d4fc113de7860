"""small_loss: the top of each batch, and a biased gradient."""

import torch

from dpbench.method import Signals


def test_selection(make, drive, world):
    for epoch, trace in enumerate(drive(make("small_loss"))):
        for part, pick in zip(trace.forwarded, trace.picks, strict=True):
            loss = world.signals(frozenset({"loss"}), part, epoch)["loss"]
            best = loss.argsort(descending=False)[: max(1, round(0.4 * len(part)))]
            assert set(pick.positions.tolist()) == set(best.tolist())
            assert pick.weights is None
        assert trace.saw_all


def test_gradient_is_biased(make, small, deviation):
    """The test that OrderDP, InfoBatch, importance sampling and RePB pass."""
    method, rng = make("small_loss", n=12, labels=None), torch.Generator().manual_seed(9)
    found = torch.empty(20_000, 9, dtype=torch.float64)
    for trial in range(20_000):
        rows = torch.randperm(12, generator=rng)[:8]
        picked = method.pick(Signals(rows, {"loss": small.loss[rows]}, 0), rng).positions
        found[trial] = small.gradients[rows[picked]].mean(0)
    assert deviation(found, small.gradients.mean(0)) > 4


def test_state_and_order(resumes, order_free):
    resumes("small_loss")
    order_free("small_loss")
