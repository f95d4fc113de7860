"""ordered_sgd: its schedule at each edge, the top of each mini-batch."""

import pytest
import torch


@pytest.mark.parametrize(
    ("right", "q"),
    [(0, 64), (799, 64), (800, 32), (899, 32), (900, 16), (949, 16), (950, 8), (994, 8), (995, 4), (1000, 4)],
)
def test_schedule(make, show, right, q):
    method = make("ordered_sgd", n=1000, labels=None)
    signals = show(method, loss=torch.rand(1000), correct=torch.arange(1000) < right)
    assert len(method.select(1).indices) == 1000
    batch = type(signals)(signals.indices[:64], {"loss": signals["loss"][:64]}, 1)
    picked = method.pick(batch, torch.Generator()).positions
    assert set(picked.tolist()) == set(batch["loss"].argsort(descending=True)[:q].tolist())


def test_fixed_share_and_all_forwarded(make, drive):
    for trace in drive(make("ordered_sgd[share=0.5]")):
        assert [len(pick.positions) for pick in trace.picks] == [5] * 6
        assert trace.saw_all


def test_state_and_order(resumes, order_free):
    resumes("ordered_sgd")
    order_free("ordered_sgd")
