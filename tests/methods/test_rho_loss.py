"""rho_loss: the largest loss in excess of the holdout model's."""

import torch

from dpbench.method import Proxy


def test_selection(make, drive, world):
    method = make("rho_loss[proxy_epochs=7]")
    assert method.requires().proxy == Proxy(epochs=7, seeds=1, at="end", data="holdout")
    everyone = torch.arange(60)
    irreducible = world.signals(method.requires().signals, everyone, 0)["loss"]  # what the driver replays
    for epoch, trace in enumerate(drive(method)):
        reducible = world.signals(method.requires().signals, everyone, epoch)["loss"] - irreducible
        for part, pick in zip(trace.forwarded, trace.picks, strict=True):
            best = reducible[part].argsort(descending=True)[: max(1, round(0.4 * len(part)))]
            if epoch:  # in epoch 0 the driver's excess is 0 for all
                assert set(pick.positions.tolist()) == set(best.tolist())
            assert len(pick.positions) == len(best)
        assert trace.saw_all


def test_state_and_order(resumes, order_free):
    resumes("rho_loss")
    order_free("rho_loss")
