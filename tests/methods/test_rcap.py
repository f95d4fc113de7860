"""rcap: budgets by an independent water-filling, draws against the sequential draw they stand for."""

from itertools import permutations

import numpy as np
import pytest
import torch


def budgets(weights, sizes, k):
    """Fractional shares: raise the level until it meets k, each class capped at its size."""
    low, high = 0.0, 1e9
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(sizes, level * weights).sum() < k else (low, level)
    return np.minimum(sizes, high * weights)


@pytest.mark.parametrize("keep", [0.1, 0.4, 0.8, 1.0])
def test_budgets(make, show, keep):
    labels = torch.tensor([0] * 40 + [1] * 15 + [3] * 5)  # class 2 is empty
    method = make("rcap", keep=keep, labels=labels)
    loss = torch.rand(60, generator=torch.Generator().manual_seed(2)) * 2
    loss[55:] = 30.0  # clipped to log 3
    show(method, loss=loss)
    chosen = method.select(1).indices
    assert len(chosen.unique()) == round(60 * keep)
    clipped = loss.clamp(max=np.log(3)).double().numpy()
    sizes = np.array([40, 15, 5])
    level = np.array([clipped[:40].mean(), clipped[40:55].mean(), clipped[55:].mean()])
    expected = budgets(np.sqrt(level * sizes / 60), sizes, round(60 * keep))
    counts = labels[chosen].bincount(minlength=4).numpy()
    assert counts[2] == 0
    assert (np.abs(counts[[0, 1, 3]] - expected) < 1).all()


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_draw_is_sequential_without_replacement(make, show, frequency, beta):
    loss = torch.tensor([0.1, 0.3, 0.6, 0.2] + [0.0])
    method = make(f"rcap[beta={beta}]", n=5, keep=0.6, labels=torch.tensor([0, 0, 0, 0, 1]))
    show(method, loss=loss)
    drawn = len([i for i in method.select(1).indices.tolist() if i < 4])
    p = (loss[:4].double() / beta).exp()
    expected = torch.zeros(4, dtype=torch.float64)
    for order in permutations(range(4), drawn):
        chance, left = 1.0, float(p.sum())
        for i in order:
            chance, left = chance * float(p[i]) / left, left - float(p[i])
        expected[list(order)] += chance
    often = frequency(lambda: method.select(1).indices, 5, 6000)[:4]
    assert drawn in (2, 3)
    assert ((often - expected).abs() < 4 * (expected * (1 - expected) / 6000).sqrt()).all()


def test_mass_of_the_last_selection(make, show):
    labels = torch.tensor([0] * 10 + [1] * 10)
    method = make("rcap[aggregate=mass]", n=20, keep=0.5, labels=labels)
    assert labels[method.select(0).indices].bincount().tolist() == [5, 5]
    method.last = torch.arange(20) < 14  # all of class 0, four tenths of class 1
    share = 0.4**0.5 / (1 + 0.4**0.5)
    assert labels[method.select(1).indices].bincount().tolist()[1] == round(10 * share)


def test_needs_labels(make):
    with pytest.raises(ValueError, match="labels"):
        make("rcap", labels=None)


@pytest.mark.parametrize("text", ["rcap", "rcap[aggregate=mass]"])
def test_state_and_order(resumes, order_free, text):
    resumes(text)
    order_free(text)
