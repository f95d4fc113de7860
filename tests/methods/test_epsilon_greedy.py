"""epsilon_greedy: the running losses followed by hand, the rest drawn uniformly."""

import pytest
import torch


def test_greedy_part_is_the_top_of_the_running_losses(make, drive, world):
    traces = drive(make("epsilon_greedy[eps=0.25,alpha=0.7]"))
    mean: dict[int, float] = {}
    for epoch, trace in enumerate(traces):
        chosen = trace.selection.indices.tolist()
        assert len(chosen) == 24
        greedy = sorted(range(60), key=lambda i: -mean.get(i, float("inf")))[:18]
        if len(mean) >= 42:  # the 18 greedy ones were all seen, so there are no ties
            assert set(greedy) <= set(chosen)
        else:
            assert len([i for i in chosen if i not in mean]) >= 18
        loss = world.signals(frozenset({"loss"}), torch.arange(60), epoch)["loss"].tolist()
        for i in chosen:
            mean[i] = 0.3 * mean[i] + 0.7 * loss[i] if i in mean else loss[i]
    assert len(mean) == 60


def test_the_rest_is_uniform(make, show, frequency):
    method = make("epsilon_greedy[eps=0.5]", n=20, keep=0.4, labels=None)
    show(method, loss=range(20))
    often = frequency(lambda: method.select(1).indices, 20, 4000)
    assert (often[16:] == 1).all()
    error = (0.25 * 0.75 / 4000) ** 0.5
    assert ((often[:16] - 4 / 16).abs() < 4 * error).all()


@pytest.mark.parametrize("text", ["epsilon_greedy", "epsilon_greedy[eps=0.5,period=3]"])
def test_state_and_order(resumes, order_free, text):
    resumes(text)
    order_free(text)
