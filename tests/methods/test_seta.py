"""seta: the released code's counts and groups, exact windows on clear clusters."""

from itertools import combinations

import numpy as np
import pytest
import torch
from dpbench.methods.seta import kmeans_edges


def spread(values, edges):
    return sum(float((part - part.mean()).square().sum()) for part in values.tensor_split(edges[1:-1]))


@pytest.mark.parametrize("iteration", range(4))
def test_groups_are_as_tight_as_the_released_codes(peers, iteration):
    group = torch.from_numpy(peers[f"seta_groups_{iteration}"])
    scores = torch.from_numpy(peers["seta_scores"]).double()
    theirs = sum(float((s - s.mean()).square().sum()) for g in range(10) if len(s := scores[group == g]))
    values = scores[group >= 0].sort().values
    assert spread(values, kmeans_edges(values, 10)) <= theirs


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_groups_are_the_best_of_all(groups):
    values = torch.rand(12, generator=torch.Generator().manual_seed(groups)).double().square().sort().values
    every = [[0, *inner, 12] for inner in combinations(range(1, 12), groups - 1)]
    assert kmeans_edges(values, groups) == min(every, key=lambda edges: spread(values, edges))


def test_equal_losses_are_split_evenly():
    assert kmeans_edges(torch.full((9,), 3.0), 3) == [0, 3, 6, 9]


def test_counts_and_window_are_the_released_codes(make, show, peers):
    scores = torch.from_numpy(peers["seta_scores"])
    method = make("seta[groups=10,window_scale=0.5,r=0.2,delta=1.0]", n=400, epochs=12, labels=None)
    show(method, loss=scores)
    assert len(method.select(0).indices) == (peers["seta_groups_0"] >= 0).sum() == 320
    method = make("seta[groups=10,window_scale=0.5,r=0.0,delta=1.0]", n=400, epochs=12, labels=None)
    show(method, loss=scores)
    values, order = scores.sort(stable=True)
    edges = kmeans_edges(values, 10)
    for epoch, (start, end) in enumerate(peers["seta_window_starts"].tolist()):
        chosen = np.sort(method.select(epoch).indices.numpy())
        if end > start:  # they count groups start..end inclusive
            assert np.array_equal(chosen, np.sort(order[edges[start] : edges[end + 1]].numpy()))


def test_window_slides_over_clear_clusters(make, show):
    method = make("seta[r=0.0]", keep=1.0, epochs=16)
    cluster = torch.randperm(60, generator=torch.Generator().manual_seed(0)) % 5
    show(method, loss=cluster + torch.rand(60) / 10)
    for epoch in range(1, 14):
        kept = set(cluster[method.select(epoch).indices].tolist())
        assert kept == (set(range(4)) if epoch % 2 == 0 else set(range(1, 5)))  # G = 5, W = 4
        assert len(method.select(epoch).indices) == 48
    assert len(method.select(0).indices) == len(method.select(14).indices) == 60  # first epoch; after delta


def test_equal_losses_are_chosen_equally_often(make, frequency):
    method = make("seta[r=0.0]", n=20, labels=None)
    often = frequency(lambda: method.select(1).indices, 20, 2000)  # the window leaves out one group of five
    assert ((often - 0.8).abs() < 4 * (0.16 / 2000) ** 0.5).all()


def test_uniform_part(make, show, frequency):
    method = make("seta[delta=0]", n=20, keep=0.3, labels=None)
    show(method, loss=range(20))
    often = frequency(lambda: method.select(5).indices, 20, 4000)
    assert ((often - 0.3).abs() < 4 * (0.3 * 0.7 / 4000) ** 0.5).all()


def test_state_and_order(resumes, order_free):
    resumes("seta")
    order_free("seta")
