"""bls: the running mean written out, what it hands to InfoBatch, and one number a batch in one's own loop."""

import pytest
import torch

from dpbench import PruningSampler
from dpbench.method import Signals
from dpbench.signals import compute


def test_the_running_mean(make):
    method = make("bls[alpha=0.6]", n=4, keep=0.5)
    expected = [float("nan")] * 4
    for epoch, batches in enumerate([[([0, 1], 2.0), ([2], 5.0)], [([0, 2], 1.0)], [([0, 1], 3.0), ([2, 3], 4.0)]]):
        for rows, loss in batches:
            seen = Signals(torch.tensor(rows), {"batch_loss": torch.full((len(rows),), loss)}, epoch)
            method.observe(seen)
            method.observe(seen)  # once more is no harm
            for i in rows:
                expected[i] = loss if expected[i] != expected[i] else 0.6 * expected[i] + 0.4 * loss
    assert method.mean.tolist() == pytest.approx(expected)
    assert method.inner.scores.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("of", ["infobatch", "seta", "orderdp", "ucb", "epsilon_greedy"])
def test_alpha_0_on_batches_of_one_is_the_method_itself(make, of):
    """The loss of a batch of one is the sample's."""
    plain, wrapped = make(of, n=30, keep=0.5), make(f"bls[of={of},alpha=0.0]", n=30, keep=0.5)
    rng = torch.Generator().manual_seed(0)
    for epoch in range(4):
        a, b = plain.select(epoch), wrapped.select(epoch)
        assert torch.equal(a.indices, b.indices)
        loss = torch.rand(30, generator=rng)[a.indices]
        plain.observe(Signals(a.indices, {"loss": loss}, epoch))
        wrapped.observe(Signals(a.indices, {"batch_loss": loss}, epoch))


def test_the_signal_is_the_mean_of_the_batch():
    losses = torch.tensor([1.0, 2.0, 6.0])
    found = compute({"batch_loss"}, torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), losses, None)
    assert found["batch_loss"].tolist() == [3.0, 3.0, 3.0]


def test_a_loop_that_knows_only_the_loss_of_a_batch():
    sampler = PruningSampler("bls", n=8, epochs=2, batch_size=4, keep=0.5)
    losses, loss = iter([1.0, 2.0]), None
    for batch in sampler:
        rows = torch.tensor(batch)
        loss = torch.tensor(next(losses), requires_grad=True)
        reduced = sampler.reduce(loss, rows)
        assert reduced.item() == pytest.approx(loss.item())  # no weights in the first epoch
        sampler.method.observe(Signals(rows, {"batch_loss": loss.detach().expand(4)}, 0))
        assert sampler.method.mean[rows].tolist() == [loss.item()] * 4
    with pytest.raises(Exception, match=r"losses of shape \(\) for 4 samples"):
        PruningSampler("infobatch", n=8, epochs=2, batch_size=4, keep=0.5).reduce(loss, torch.arange(4))
