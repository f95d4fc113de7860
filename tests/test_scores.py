"""The building blocks of scores: passes put together, budgets, rules, windows."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from dpbench import scores as blocks
from dpbench.method import Proxy, Requires, Selection, Signals, Task


class Witness(blocks.Static):
    """Keeps the passes that it is given."""

    def requires(self):
        return Requires({"loss", "logits"}, Proxy(2, seeds=2, at="epochs"), period=0)

    def setup(self, task, rng):
        super().setup(task, rng)
        self.passes = []

    def take(self, seen):
        self.passes.append(seen)

    def choose(self):
        return Selection(torch.arange(self.task.k))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("parts", [[[4, 1, 0], [5, 3, 2], [1, 5]], [[0, 1, 2, 3, 4, 5]], [[5, 4, 3, 2, 1, 0]]])
def test_passes_are_whole_and_in_order(parts):
    method = Witness()
    method.setup(Task(6, 5, 2, 0.5), rng())
    values = torch.rand(2, 2, 6, generator=rng(1))
    for run in range(2):
        for epoch in range(2):
            for part in map(torch.tensor, parts):
                loss = values[run, epoch, part]
                logits = torch.stack([loss, loss / 0], 1)  # the second is infinite
                method.observe(Signals(part, {"loss": loss, "logits": logits, "other": loss}, epoch, run))
    method.observe(Signals(torch.arange(6), {"loss": torch.zeros(6), "logits": torch.zeros(6, 2)}, 3))  # not the proxy
    assert method.select(0).indices.tolist() == [0, 1, 2]
    assert [(seen.proxy_run, seen.epoch) for seen in method.passes] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for seen in method.passes:
        assert torch.equal(seen["loss"], values[seen.proxy_run, seen.epoch])
        assert torch.equal(seen["logits"][:, 1], torch.zeros(6))
        assert seen.values.keys() == {"loss", "logits"}


def test_a_missing_record_is_said():
    method = Witness()
    method.setup(Task(6, 5, 2, 0.5), rng())
    with pytest.raises(ValueError, match="no proxy"):
        method.select(0)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.floats(0, 10)), min_size=1, max_size=8),
    st.floats(0, 1),
)
def test_budgets(classes, share):
    size, weights = (torch.tensor(column) for column in zip(*classes, strict=True))
    k = round(share * int(size.sum()))
    budget = blocks.budgets(weights, size, k)
    assert int(budget.sum()) == k
    assert ((budget >= 0) & (budget <= size)).all()
    level, exact = 0.0, np.maximum(weights.double().numpy(), 1e-12)
    low, high = 0.0, 1e15
    for _ in range(200):  # fractional shares, by raising the level until they meet k
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(size.numpy(), level * exact).sum() < k else (low, level)
    assert (np.abs(budget.numpy() - np.minimum(size.numpy(), high * exact)) < 1 + 1e-6).all()


def test_balanced_groups():
    labels = torch.tensor([0] * 30 + [2] * 10)
    among = blocks.groups(Task(40, 5, 2, 0.5, labels), True)
    assert [(set(labels[members].tolist()), share) for members, share in among] == [({0}, 15), ({2}, 5)]
    with pytest.raises(ValueError, match="labels"):
        blocks.groups(Task(40, 5, 2, 0.5), True)


def test_simple_rules():
    scores = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 0.0])
    assert sorted(blocks.hardest(scores, 2, rng()).tolist()) == [0, 2]
    assert sorted(blocks.easiest(scores, 2, rng()).tolist()) == [1, 5]
    assert sorted(blocks.moderate(scores, 2, rng()).tolist()) == [3, 4]
    assert sorted(blocks.moderate(scores, 3, rng()).tolist()) == [1, 3, 4]
    assert blocks.easiest(torch.tensor([1.0, float("inf"), float("nan")]), 1, rng()).tolist() == [0]
    tied = [blocks.moderate(torch.zeros(10), 4, rng(seed)).tolist() for seed in range(200)]
    assert set(np.bincount(np.ravel(tied), minlength=10) > 40) == {True}, "each is kept 80 times on average"


def test_stratified_draws_uniformly_within_its_strata():
    scores = torch.tensor([0.0, 0.1, 0.2, 0.3, 2.0, 2.1, 4.0, 9.0])
    counts = torch.zeros(8)
    for seed in range(2000):
        chosen = blocks.stratified(scores, 4, rng(seed), cut=0.125, strata=2)  # [0, 2) and [2, 4] once 9 is cut off
        assert len(chosen.unique()) == 4
        counts[chosen] += 1
    assert counts[7] == 0
    p = torch.tensor([0.5] * 4 + [1 / 3 * 1] * 3)
    p[4:] = 1 / 3  # stratum of 3: (4 - 0) // 2 = 2 of 3; the rest of 4: 2 of 4
    p[4:] *= 2
    assert ((counts[:7] / 2000 - p).abs() < 4 * (p * (1 - p) / 2000).sqrt()).all()


def test_stratified_never_cuts_too_much():
    assert len(blocks.stratified(torch.arange(10.0), 9, rng(), cut=0.5)) == 9
    assert len(blocks.stratified(torch.full((10,), float("nan")), 5, rng())) == 5


def test_draw_is_sequential_in_proportion():
    weights = torch.tensor([1.0, 2.0, 5.0])
    pairs = torch.zeros(3)
    for seed in range(6000):
        pairs[3 - int(blocks.draw(weights, 2, rng(seed)).sum())] += 1  # by the index left out
    p = weights / 8
    out = [sum(p[i] * p[j] / (1 - p[i]) for i, j in ((a, b), (b, a))) for a, b in ((1, 2), (0, 2), (0, 1))]
    expected = torch.tensor(out)
    assert ((pairs / 6000 - expected).abs() < 4 * (expected * (1 - expected) / 6000).sqrt()).all()


def test_beta_weights():
    scores, ease = torch.rand(30, generator=rng(1)), torch.rand(30, generator=rng(2))
    anchor = float(ease[scores.argsort(descending=True)[:10]].mean())
    b = 15 * (1 - anchor) * (1 - 0.7**4)
    expected = scores.double().numpy() * beta.pdf(ease.double().numpy(), 16 - b, b)
    got = blocks.beta_weights(scores, ease, 0.3, 4.0).numpy()
    np.testing.assert_allclose(got / got.sum(), expected / expected.sum(), rtol=1e-5)


@pytest.mark.parametrize("n", [3, 2**14 + 5])
def test_rivals(n):
    logits = 5 * torch.randn(n, 7, generator=rng())
    got = torch.cat([blocks.rivals(z).T for z in blocks.classes_first(logits)])
    p = logits.double().softmax(1)
    ascending = (p / p.amax(1, keepdim=True)).sort(1).values
    torch.testing.assert_close(got.sort(1).values.double(), ascending[:, :-1], rtol=1e-5, atol=0)


def test_rivals_of_confident_and_of_tied_samples():
    rivals = blocks.rivals(torch.tensor([[40.0, 0.0], [41.0, 0.0], [7.0, 7.0]]).T).sum(0)
    torch.testing.assert_close(rivals, torch.tensor([np.exp(-40), np.exp(-41), 1.0]).float(), rtol=1e-6, atol=0)
    assert rivals[0] / (1 + rivals[0]) > rivals[1] / (1 + rivals[1])  # 1 - max p is 0 for both


def test_windows():
    series = [torch.full((2,), float(t)) for t in range(5)]
    assert [w[:, 0].tolist() for w in blocks.windows(series, 3)] == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert [len(w) for w in blocks.windows(series[:2], 3)] == [2]
    assert torch.equal(blocks.deviation(torch.stack(series[:1])), torch.zeros(2))


def test_mean_one():
    torch.testing.assert_close(blocks.mean_one(torch.tensor([1.0, 3.0])), torch.tensor([0.5, 1.5]))
    assert blocks.mean_one(torch.zeros(2)).tolist() == [1.0, 1.0]
