"""ucb: running mean and variance followed by hand."""

import pytest
import torch


def test_selection_is_the_top_of_mean_plus_variance(make, drive, world):
    traces = drive(make("ucb[c=2,alpha=0.6]"))
    mean: dict[int, float] = {}
    variance: dict[int, float] = {}
    compared = 0
    for epoch, trace in enumerate(traces):
        chosen = set(trace.selection.indices.tolist())
        assert len(chosen) == 24
        unseen = set(range(60)) - mean.keys()
        assert len(chosen & unseen) == min(24, len(unseen))
        bound = {i: mean[i] + 2 * variance[i] for i in mean}
        best = sorted(bound, key=bound.__getitem__, reverse=True)[: 24 - min(24, len(unseen))]
        assert chosen - unseen == set(best)
        compared += len(best)
        loss = world.signals(frozenset({"loss"}), torch.arange(60), epoch)["loss"].tolist()
        for i in chosen:
            if i in mean:
                variance[i] = 0.4 * variance[i] + 0.6 * (loss[i] - mean[i]) ** 2
                mean[i] = 0.4 * mean[i] + 0.6 * loss[i]
            else:
                mean[i], variance[i] = loss[i], 0.0
    assert compared > 100


@pytest.mark.parametrize("text", ["ucb", "ucb[period=3]"])
def test_state_and_order(resumes, order_free, text):
    resumes(text)
    order_free(text)
