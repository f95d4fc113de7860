"""orderdp: the closed form and brute force for every option, the released code's sets, unbiasedness."""

import pytest
import torch
from scipy.stats import hypergeom

from dpbench.draws import sample, top


def closed_form(n, s, q):
    return torch.tensor([s / n * hypergeom(n - 1, j - 1, s - 1).cdf(q - 1) for j in range(1, n + 1)])


def test_default_is_one_draw_and_one_partition(make, show, monkeypatch):
    method, rng = make("orderdp"), torch.Generator().manual_seed(3)
    monkeypatch.delattr(type(method), "_ranks")  # plain OrderDP ranks nothing
    scores = torch.rand(60)
    show(method, loss=scores)
    for epoch in range(1, 4):
        candidates = sample(60, 48, rng)
        assert torch.equal(method.select(epoch).indices, candidates[top(scores[candidates], 24, rng)])
        assert method.select(epoch).weights is None
        sample(60, 48, rng)


@pytest.mark.parametrize("key", ["0", "1", "2", "full"])
def test_released_codes_selection_given_its_candidates(make, show, peers, monkeypatch, key):
    candidates = torch.from_numpy(peers[f"orderdp_candidates_{key}"]).long()
    selected = set(peers[f"orderdp_selected_{key}"].tolist())
    method = make("orderdp", n=1000, keep=len(selected) / 1000, labels=None)
    show(method, loss=peers["orderdp_scores"])
    monkeypatch.setattr("dpbench.methods.orderdp.sample", lambda n, s, rng: candidates)
    assert set(method.select(0).indices.tolist()) == selected


@pytest.mark.parametrize("order", ["high", "low"])
@pytest.mark.parametrize(
    ("options", "p"),
    [
        ("", lambda: closed_form(20, 12, 8)),
        (",trim=0.25", lambda: closed_form(20, 12, 11) - closed_form(20, 12, 3)),
        (",floor=0.25", lambda: (p := closed_form(20, 12, 6)) + (1 - p) * 2 / 14),
        (",floor=0.25,trim=0.25", lambda: (p := closed_form(20, 12, 9) - closed_form(20, 12, 3)) + (1 - p) * 2 / 14),
    ],
)
@pytest.mark.parametrize("correct", ["surrogate", "full"])
def test_frequency_and_weight_of_each_rank(make, show, order, options, p, correct):
    method = make(f"orderdp[explore=0.6,order={order},correct={correct}{options}]", n=20, keep=0.4, labels=None)
    show(method, loss=torch.arange(20.0).flip(0) if order == "high" else torch.arange(20.0))
    expected, times = p(), torch.zeros(20, dtype=torch.float64)
    minimised = expected / 8 if correct == "surrogate" else (expected > 0) / 20
    assert torch.allclose(method.surrogate(), minimised.double())
    for _ in range(2000):
        chosen = method.select(1)
        times[chosen.indices] += 1
        assert len(chosen.indices.unique()) == 8
        if correct == "full":
            assert torch.allclose(chosen.weights.double(), 8 / (20 * expected[chosen.indices]), rtol=1e-6)
        else:
            assert chosen.weights is None
    assert float(expected.sum()) == pytest.approx(8)
    error = (expected * (1 - expected) / 2000).clamp(min=0).sqrt()
    assert ((times / 2000 - expected).abs() <= 4 * error + 1e-9).all()


def estimates(method, gradients, trials=20_000):
    found = torch.empty(trials, gradients.shape[1], dtype=torch.float64)
    for trial in range(trials):
        chosen = method.select(1)
        weights = 1.0 if chosen.weights is None else chosen.weights[:, None]
        found[trial] = (weights * gradients[chosen.indices]).mean(0)
    return found


def test_surrogate_is_unbiased_for_the_ordered_loss_only(make, show, small, deviation):
    method = make("orderdp[explore=0.75]", n=12, keep=0.5, labels=None)
    show(method, loss=small.loss)
    found = estimates(method, small.gradients)
    gamma = closed_form(12, 9, 6)[:, None]
    by_rank = small.gradients[small.loss.argsort(descending=True)]
    assert deviation(found, (gamma * by_rank).sum(0) / 6) < 4
    assert torch.allclose((gamma * by_rank).sum(0) / 6, method.surrogate() @ small.gradients)
    assert deviation(found, small.gradients.mean(0)) > 4


def test_full_with_a_floor_is_unbiased_for_the_mean(make, show, small, deviation):
    method = make("orderdp[explore=0.75,correct=full,floor=0.34]", n=12, keep=0.5, labels=None)
    loss = small.loss.clone()
    loss[1:5] = loss[1]  # equals are ranked at random
    show(method, loss=loss)
    assert deviation(estimates(method, small.gradients), small.gradients.mean(0)) < 4


@pytest.mark.parametrize("correct", ["surrogate", "full"])
def test_equal_scores_are_chosen_equally_often(make, show, frequency, correct):
    method = make(f"orderdp[explore=0.6,correct={correct}]", n=20, keep=0.4, labels=None)
    show(method, loss=[1.0] * 20)
    share = 8 / 20 / 8 if correct == "surrogate" else (20 - 12 + 8) / 20 / 20
    assert torch.allclose(method.surrogate(), torch.full((20,), share, dtype=torch.float64))
    often = frequency(lambda: method.select(1).indices, 20, 2000)
    assert ((often - 0.4).abs() < 4 * (0.24 / 2000) ** 0.5).all()


def test_full_without_a_floor_misses_the_last_ranks(make, show, small, deviation):
    method = make("orderdp[explore=0.75,correct=full]", n=12, keep=0.5, labels=None)
    show(method, loss=small.loss)
    found = estimates(method, small.gradients, 8000)
    reached = small.gradients[small.loss.argsort(descending=True)[: 12 - 9 + 6]]
    assert deviation(found, reached.sum(0) / 12) < 4
    assert deviation(found, small.gradients.mean(0)) > 4


def test_the_surrogate_of_the_first_epoch_is_the_plain_loss_and_equals_share_their_weight(make, show, frequency):
    method = make("orderdp[explore=0.6]", n=20, keep=0.4, labels=None)
    assert torch.allclose(method.surrogate(), torch.full((20,), 1 / 20, dtype=torch.float64))
    show(method, loss=[3.0] * 7 + [2.0] * 6 + list(range(7)))  # some of the last are larger
    rng = method.rng.get_state()
    weights = method.surrogate()
    assert torch.equal(method.rng.get_state(), rng)
    assert float(weights.sum()) == pytest.approx(1)
    often = frequency(lambda: method.select(1).indices, 20, 4000)
    assert (
        (often - 8 * weights).abs() <= 4 * (8 * weights * (1 - 8 * weights) / 4000).clamp(min=0).sqrt() + 1e-9
    ).all()


@pytest.mark.parametrize(
    ("options", "first"),
    [("", True), (",order=low", True), (",unseen=3.0", True), (",unseen=1.0", False), (",unseen=1.0,order=low", True)],
)
def test_unseen_samples(make, show, options, first):
    method = make(f"orderdp[explore=1.0{options}]", n=10, keep=0.5, labels=None)
    show(method, loss=[2.0] * 5)
    assert method.select(1).indices.tolist() == (list(range(5, 10)) if first else list(range(5)))


def test_trim_waits_until_all_were_seen(make, show):
    method = make("orderdp[explore=1.0,trim=0.2]", n=10, keep=0.5, labels=None)
    show(method, loss=range(9))
    assert 9 in method.select(1).indices
    show(method, loss=range(10))
    assert method.select(2).indices.tolist() == [3, 4, 5, 6, 7]


def test_running_score(make, show):
    method = make("orderdp[explore=1.0,ema=0.75]", n=4, keep=0.5, labels=None)
    show(method, 0, loss=[1.0, 2.0, 3.0, 4.0])
    show(method, 1, loss=[5.0, 2.0, 7.0, 0.0])
    assert method.scores.tolist() == [2.0, 2.0, 4.0, 3.0]
    assert method.select(2).indices.tolist() == [2, 3]


@pytest.mark.parametrize("score", ["error_norm", "entropy", "grad_norm", "margin", "prob_y", "correct"])
def test_any_scalar_signal_scores(make, drive, world, score):
    trace = drive(make(f"orderdp[explore=1.0,score={score},order=low]"), 6)[-1]
    assert make(f"orderdp[score={score}]").requires().signals == {score}
    assert len(trace.selection.indices) == 24


@pytest.mark.parametrize(
    "text", ["orderdp", "orderdp[ema=0.5,trim=0.1,floor=0.2]", "orderdp[correct=full,floor=0.2,order=low,unseen=3.0]"]
)
def test_state_and_order(resumes, order_free, text):
    resumes(text)
    order_free(text)
