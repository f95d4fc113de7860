"""selective_backprop: the released code's probabilities, the history, the expected share."""

import pytest
import torch

from dpbench.method import Signals


@pytest.mark.parametrize("beta", [1, 2, 3])
def test_probabilities_are_the_released_codes(make, peers, beta):
    logits, labels = torch.from_numpy(peers["logits_epoch8"]), torch.from_numpy(peers["labels"]).long()
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double()
    width = (loss.max() - loss.min()) / 1000
    binned = ((loss - loss.min()) / width).floor().clamp(max=999)  # their CDF is a histogram of 1,000 bins
    method = make(f"selective_backprop[beta={beta}]", n=400, labels=None)
    rank, times = torch.Generator().manual_seed(1), torch.zeros(400)
    for _ in range(5000):
        times[method.pick(Signals(torch.arange(400), {"loss": binned}, 0), rank).positions] += 1
    p = torch.from_numpy(peers[f"selbackprop_prob_{beta}"])
    assert ((times / 5000 - p).abs() <= 4.5 * (p * (1 - p) / 5000).sqrt() + 1e-3).all()


def test_percentile_is_among_the_history(make, show):
    method = make("selective_backprop[beta=1,history=64,floor=0.25]", n=1, labels=None)
    for step in range(3):
        show(method, loss=torch.full((50,), float(step)))
    rank = torch.Generator().manual_seed(2)  # the last 64 are 50 twos, 13 ones and the row itself
    for loss, p in [(0.5, 0.25), (1.5, 0.25), (3.0, 1.0)]:
        signals = Signals(torch.zeros(1, dtype=torch.int64), {"loss": torch.tensor([loss])}, 0)
        share = sum(len(method.pick(signals, rank).positions) for _ in range(4000)) / 4000
        assert abs(share - p) <= 4 * (p * (1 - p) / 4000) ** 0.5


@pytest.mark.parametrize("keep", [0.3, 0.5])
def test_expected_share_is_keep(make, keep):
    method = make("selective_backprop", n=1000, keep=keep, labels=None)
    rank = torch.Generator().manual_seed(3)
    loss = torch.rand(1000, generator=rank)
    signals = Signals(torch.arange(1000), {"loss": loss}, 0)
    share = sum(len(method.pick(signals, rank).positions) for _ in range(200)) / 200_000
    assert share == pytest.approx(keep, abs=0.005)
    assert method.pool(method.task) == round(1 / keep)


def test_state_and_order(resumes, order_free):
    resumes("selective_backprop")
    order_free("selective_backprop", steps=True)
