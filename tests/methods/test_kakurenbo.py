"""kakurenbo: the released code's hidden sets and schedule, and the rule in plain Python."""

import pytest
import torch

from dpbench.method import Signals


def peers_signals(peers):
    logits, labels = torch.from_numpy(peers["logits_epoch8"]), torch.from_numpy(peers["labels"]).long()
    p = logits.softmax(1)
    prob_y = p.gather(1, labels[:, None]).squeeze(1)
    values = {"loss": -prob_y.log(), "correct": (p.argmax(1) == labels).float(), "prob_y": prob_y, "logits": logits}
    return Signals(torch.arange(400), values, 4)


@pytest.mark.parametrize(("confidence", "key"), [("class", "kakurenbo_hidden"), ("batch", "kakurenbo_hidden_batch")])
def test_hidden_set_is_the_released_codes(make, peers, confidence, key):
    method = make(f"kakurenbo[confidence={confidence}]", n=400, keep=0.7, epochs=200, labels=None)
    method.observe(peers_signals(peers))
    assert set(method.select(5).refresh.tolist()) == set(peers[key].tolist())


def test_bound_on_the_hidden_share_is_the_released_codes(make, show, peers):
    method = make("kakurenbo[fraction=0.3]", n=400, epochs=200, labels=None)
    show(method, loss=torch.rand(400), correct=torch.ones(400), prob_y=torch.ones(400))
    hidden = [len(method.select(epoch).refresh) for epoch in range(200)]
    assert hidden == [round(400 * share) for share in peers["kakurenbo_fraction"]]


@pytest.mark.parametrize("tau", [0.3, 0.6])
def test_rule_in_plain_python(make, drive, world, tau):
    hid = 0
    losses: dict[int, float] = {}
    sure: dict[int, bool] = {}
    for epoch, trace in enumerate(drive(make(f"kakurenbo[tau={tau}]"))):
        bound = 0.6 * [1, 0.8, 0.6, 0.4][sum(epoch / 8 >= edge for edge in (0.3, 0.6, 0.8))]
        lowest = sorted(losses, key=losses.__getitem__)[: round(bound * 60)]
        hidden = {i for i in lowest if sure[i]}
        assert set(trace.selection.refresh.tolist()) == hidden
        assert set(trace.selection.indices.tolist()) == set(range(60)) - hidden
        assert trace.selection.lr_scale == 60 / (60 - len(hidden))
        assert trace.saw_all
        hid += len(hidden)
        seen = world.signals(frozenset({"loss", "logits", "correct"}), torch.arange(60), epoch)
        losses = dict(enumerate(seen["loss"].tolist()))
        largest = seen["logits"].softmax(1).amax(1)
        sure = dict(enumerate(((seen["correct"] == 1) & (largest >= tau)).tolist()))
    assert hid > 50


def test_released_learning_rate(make, show):
    method = make("kakurenbo[rate=bound]", keep=0.7)
    assert method.select(0).lr_scale == pytest.approx(1 / 0.7)


def test_state_and_order(resumes, order_free):
    resumes("kakurenbo")
    resumes("kakurenbo[confidence=batch,tau=0.1]")
    order_free("kakurenbo")
