"""orderdp_step: fresh losses, q of s in each step, Theorem 1's frequencies."""

import torch
from scipy.stats import hypergeom

from dpbench.method import Signals


def test_each_step_takes_the_top_of_its_candidates(make, drive, world):
    traces = drive(make("orderdp_step"))
    for epoch, trace in enumerate(traces):
        assert len(trace.selection.indices) == 48
        assert [len(part) for part in trace.forwarded] == [20, 20, 8]  # two batches are offered for each
        for part, pick in zip(trace.forwarded, trace.picks, strict=True):
            loss = world.signals(frozenset({"loss"}), part, epoch)["loss"]
            assert set(pick.positions.tolist()) == set(loss.argsort(descending=True)[: len(part) // 2].tolist())
            assert pick.weights is None


def test_frequency_of_each_rank(make, frequency):
    method = make("orderdp_step[explore=0.6]", n=20, keep=0.3, batch_size=20, labels=None)
    rank = torch.Generator().manual_seed(5)

    def step():
        rows = method.select(0).indices
        return rows[method.pick(Signals(rows, {"loss": -rows.float()}, 0), rank).positions]

    often = frequency(step, 20, 4000)
    expected = torch.tensor([12 / 20 * hypergeom(19, j, 11).cdf(5) for j in range(20)])
    assert ((often - expected).abs() <= 4 * (expected * (1 - expected) / 4000).sqrt() + 1e-9).all()


def test_state_and_order(resumes, order_free):
    resumes("orderdp_step[score=error_norm]")
    order_free("orderdp_step")
