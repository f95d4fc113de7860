"""divbs: the greedy choice with explicit gradient vectors, and its degenerate ends."""

import pytest
import torch

from dpbench.method import Signals


def batch(rows, classes=4, width=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    values = {
        "logits": 2 * torch.randn(rows, classes, generator=rng),
        "embedding": torch.randn(rows, width, generator=rng),
    }
    return Signals(torch.arange(rows), values, 0)


def explicit(signals, labels, k, choose):
    """The algorithm in the paper's words, with the gradients written out."""
    error = signals["logits"].double().softmax(1) - torch.eye(4, dtype=torch.float64)[labels]
    g = torch.einsum("ic,id->icd", error, signals["embedding"].double()).flatten(1)
    residual, basis, picked = g.mean(0), [], []
    for _ in range(k):
        score = (g @ residual).abs()
        score[picked] = 0
        row = choose(score)
        direction = g[row].clone()
        for e in basis:
            direction -= (direction @ e) * e
        basis.append(direction / direction.norm())
        residual = residual - (residual @ basis[-1]) * basis[-1]
        picked.append(row)
    return picked


@pytest.mark.parametrize("seed", range(5))
def test_argmax_order(make, seed):
    signals, labels = batch(24, seed=seed), torch.arange(24) % 4
    method = make("divbs", n=24, keep=1 / 3, labels=labels)
    assert method.pick(signals, torch.Generator()).positions.tolist() == explicit(
        signals, labels, 8, lambda score: int(score.argmax())
    )


def test_multinomial_frequencies(make):
    signals, labels = batch(6), torch.arange(6) % 4
    method = make("divbs[draw=multinomial]", n=6, keep=2 / 6, labels=labels)
    rank, times = torch.Generator().manual_seed(4), torch.zeros(6, 6, dtype=torch.float64)
    for _ in range(6000):
        first, second = method.pick(signals, rank).positions.tolist()
        times[first, second] += 1
    expected = torch.zeros(6, 6, dtype=torch.float64)
    for first in range(6):
        seen: list[torch.Tensor] = []

        def choose(score, seen=seen, first=first):
            seen.append(score / score.sum())
            return first if len(seen) == 1 else int(score.argmax())

        explicit(signals, labels, 2, choose)
        expected[first] = seen[0][first] * seen[1]
    assert ((times / 6000 - expected).abs() <= 4.5 * (expected * (1 - expected) / 6000).sqrt() + 1e-9).all()


def test_once_the_mean_is_spanned_the_rest_is_drawn(make):
    one = batch(1)
    signals = Signals(torch.arange(8), {name: value.expand(8, -1) for name, value in one.values.items()}, 0)
    method = make("divbs", n=8, keep=0.5, labels=torch.zeros(8, dtype=torch.int64))
    rank, times = torch.Generator().manual_seed(6), torch.zeros(8)
    for _ in range(2000):
        picked = method.pick(signals, rank).positions
        assert len(picked.unique()) == 4
        times[picked] += 1
    assert times[0] == 2000  # the first of equals
    assert ((times[1:] / 2000 - 3 / 7).abs() < 4 * (12 / 49 / 2000) ** 0.5).all()


def test_all_forwarded_and_labels_needed(make, drive):
    assert all(trace.saw_all for trace in drive(make("divbs")))
    with pytest.raises(ValueError, match="labels"):
        make("divbs", labels=None)


@pytest.mark.parametrize("draw", ["argmax", "multinomial"])
def test_state_and_order(resumes, order_free, draw):
    resumes(f"divbs[draw={draw}]")
    order_free(f"divbs[draw={draw}]")
