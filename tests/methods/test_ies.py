"""ies: second differences by NumPy, at a fixed and at a solved threshold."""

import numpy as np
import pytest
import torch


def bends(world):
    losses = np.stack(
        [world.signals(frozenset({"loss"}), torch.arange(60), epoch)["loss"].double().numpy() for epoch in range(8)]
    )
    second = np.abs(losses[2:] - 2 * losses[1:-1] + losses[:-2])
    return {epoch: second[epoch - 5 : epoch - 2].mean(0) for epoch in range(5, 8)}


@pytest.mark.parametrize("text", ["ies[threshold=0.1]", "ies"])
def test_selection(make, drive, world, text):
    traces = drive(make(text))
    for epoch, bend in bends(world).items():
        cut = 0.1 if text != "ies" else np.sort(bend)[36]  # keep 0.4 drops 36 of 60
        dropped = set(np.flatnonzero(bend < cut).tolist())
        assert set(traces[epoch].selection.refresh.tolist()) == dropped
        assert set(traces[epoch].selection.indices.tolist()) == set(range(60)) - dropped
        assert 0 < len(dropped) < 60
    for trace in traces:
        assert trace.saw_all
    for trace in traces[:5]:
        assert len(trace.selection.indices) == 60


def test_never_drops_everything(make, show):
    method = make("ies[threshold=0.1]", n=4, labels=None)
    for epoch in range(5):
        show(method, epoch, loss=torch.ones(4))
    assert len(method.select(5).indices) == 1


def test_state_and_order(resumes, order_free):
    resumes("ies")
    order_free("ies")
