"""greats: the greedy choice with explicit gradients, and by brute force over the quadratic it maximises."""

import itertools

import pytest
import torch

from dpbench.method import Signals


def batch(rows, seed=0):
    rng = torch.Generator().manual_seed(seed)
    values = {"logits": 2 * torch.randn(rows, 4, generator=rng), "embedding": torch.randn(rows, 3, generator=rng)}
    return Signals(torch.arange(rows), values, 0)


def gradients(signals, labels):
    """The gradient of each row's cross-entropy in the last layer and its bias, by autograd: (b, 16)."""
    layer = torch.nn.Linear(3, 4).double()
    found = []
    for h, z, y in zip(signals["embedding"].double(), signals["logits"].double(), labels, strict=True):
        out = layer(h)
        loss = torch.nn.functional.cross_entropy((out + (z - out).detach())[None], y[None])
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(layer.parameters()))]))
    return torch.stack(found)


@pytest.mark.parametrize("rate", [0.01, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_greedy_order(make, rate, seed):
    signals, labels = batch(20, seed), torch.arange(20) % 4
    method = make(f"greats[rate={rate}]", n=20, keep=0.4, labels=labels)
    g = gradients(signals, labels)
    target, taken, picked = g.mean(0), torch.zeros(g.shape[1], dtype=torch.float64), []
    for _ in range(8):
        gain = rate * g @ target - rate**2 * g @ taken
        gain[picked] = float("-inf")
        picked.append(int(gain.argmax()))
        taken += g[picked[-1]]
    assert method.pick(signals, torch.Generator()).positions.tolist() == picked


def test_the_gain_of_a_pick_is_that_of_the_expansion(make):
    """With two of few rows the greedy pick lies within 1 - 1/e of the best pair, and here is the best."""
    signals, labels = batch(7, seed=5), torch.arange(7) % 4
    g = gradients(signals, labels)
    rate = 0.1

    def lowered(rows):  # of a loss with gradient -G and Hessian I, cross terms only, as the released code has it
        rows = list(rows)
        cross = sum(float(g[i] @ g[j]) for i, j in itertools.combinations(rows, 2))
        return rate * float(g[rows].sum(0) @ g.mean(0)) - rate**2 * cross

    method = make(f"greats[rate={rate}]", n=7, keep=2 / 7, labels=labels)
    picked = method.pick(signals, torch.Generator()).positions.tolist()
    best = max(lowered(pair) for pair in itertools.combinations(range(7), 2))
    assert lowered(picked) == pytest.approx(best)


def test_redundant_rows_are_left_out(make):
    """Of two copies one is taken where the step is long."""
    signals, labels = batch(6, seed=1), torch.zeros(6, dtype=torch.int64)
    for values in signals.values.values():
        values[3:] = values[:3]
    picked = make("greats[rate=1.0]", n=6, keep=0.5, labels=labels).pick(signals, torch.Generator()).positions
    assert len({int(i) % 3 for i in picked}) == 3
