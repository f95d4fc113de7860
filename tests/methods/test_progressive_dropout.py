"""progressive_dropout: the sizes of each mode in closed form, the sets where they are determined."""

import math

import pytest
import torch


def test_difficulty_keeps_what_is_below_the_threshold(make, drive, world):
    traces = drive(make("progressive_dropout[threshold=0.5]"))
    for epoch in range(1, 7):
        prob_y = world.signals(frozenset({"prob_y"}), torch.arange(60), epoch - 1)["prob_y"]
        assert set(traces[epoch].selection.indices.tolist()) == set((prob_y < 0.5).nonzero().squeeze(1).tolist())
        assert traces[epoch].saw_all
    assert len(traces[0].selection.indices) == len(traces[7].selection.indices) == 60


def test_matched_draws_as_many(make, drive, frequency, show):
    counts = [len(t.selection.indices) for t in drive(make("progressive_dropout[threshold=0.5]"))]
    assert [len(t.selection.indices) for t in drive(make("progressive_dropout[threshold=0.5,mode=matched]"))] == counts
    method = make("progressive_dropout[mode=matched]", n=20, labels=None)
    show(method, prob_y=[0.1] * 5 + [0.9] * 15)
    often = frequency(lambda: method.select(1).indices, 20, 4000)
    assert ((often - 0.25).abs() < 4 * (0.25 * 0.75 / 4000) ** 0.5).all()


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.7, 1.0])
def test_random_meets_keep_on_average(make, keep):
    method = make("progressive_dropout[mode=random]", n=10_000, epochs=20, keep=keep, labels=None)
    sizes = [len(method.select(epoch).indices) for epoch in range(20)]
    assert sum(sizes) / (20 * 10_000) == pytest.approx(keep, abs=1e-4)
    assert sizes[0] == sizes[-1] == 10_000
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)


def test_random_with_given_gamma(make):
    method = make("progressive_dropout[mode=random,gamma=0.9]")
    assert [len(method.select(e).indices) for e in range(8)] == [math.ceil(0.9**e * 60) for e in range(7)] + [60]
    assert method.requires().signals == frozenset()


@pytest.mark.parametrize("mode", ["difficulty", "matched", "random"])
def test_state_and_order(resumes, order_free, mode):
    resumes(f"progressive_dropout[mode={mode}]")
    order_free(f"progressive_dropout[mode={mode}]")
