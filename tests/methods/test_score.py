"""score[part=...]: a part of the samples is scored, as if there were no others, the rest by its neighbours there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dpbench import load_method
from dpbench.errors import UsageError
from dpbench.method import Proxy, Signals
from dpbench.spec import Recipe, RunSpec, canonical
from dpbench.training import conformance
from dpbench.training.ledger import Ledger
from dpbench.training.loading import load_data
from dpbench.training.runner import prepare

N, DIM = 50, 4
LABELS = torch.arange(N) % 5
CPU = torch.device("cpu")
TINY = "synthetic[n=100,n_test=50,d=16,classes=4]"  # 90 training samples


def passes(count, members, seed=0):
    """What a proxy that trained on `members` would show in `count` passes."""
    rng = torch.Generator().manual_seed(seed)
    for epoch in range(count):
        values = {name: torch.rand(N, generator=rng) for name in ("margin", "prob_y", "entropy", "correct")}
        values |= {"embedding": torch.randn(N, DIM, generator=rng), "logits": torch.randn(N, 5, generator=rng)}
        values["member"] = torch.zeros(N).index_fill_(0, members, 1.0)
        yield Signals(torch.arange(N), values, epoch, 0)


def shown(make, text, seen, keep=0.3):
    method = make(text, n=N, keep=keep, labels=LABELS)
    for signals in seen:
        wanted = {name: signals[name] for name in method.requires().signals}
        method.observe(replace(signals, values=wanted))
    return method


def by_hand(values, members, h, near):
    """The values of the members for all, one sample and one neighbour at a time."""
    found = np.zeros(N)
    h = h.double().numpy()
    known = dict(zip(members.tolist(), values.tolist(), strict=True))
    for i in range(N):
        nearest = sorted(known, key=lambda j: ((h[i] - h[j]) ** 2).sum())[:near]
        found[i] = known.get(i, np.mean([known[j] for j in nearest]))
    return found


def test_all_of_the_samples_is_the_method_as_it_is(make):
    members = torch.arange(N)
    assert canonical("score[part=1]") == canonical("score") == "score"
    assert load_method("score[by=entropy,part=1.0]").requires() == load_method("entropy").requires()
    for by in ("aum", "entropy", "ssp"):
        seen = list(passes(3, members))
        one, two = shown(make, f"score[by={by},part=1.0]", seen), shown(make, by, seen)
        assert torch.equal(one.select(0).indices, two.select(0).indices)


@pytest.mark.parametrize("near", [1, 3, 100])
@pytest.mark.parametrize("rule", ["hardest", "easiest"])
def test_the_rest_has_the_mean_of_its_nearest_neighbours_in_the_part(make, rule, near, monkeypatch):
    monkeypatch.setattr("dpbench.greedy.BLOCK", 1)
    monkeypatch.setattr("dpbench.greedy.AHEAD", 2)  # blocks of 8 of the 34 rows
    members = torch.arange(0, N, 3)[1:]
    seen = list(passes(4, members))
    method = shown(make, f"score[by=aum,rule={rule},part=0.32,near={near}]", seen, keep=0.5)
    own = -torch.stack([signals["margin"] for signals in seen]).mean(0)[members]
    expected = by_hand(own, members, seen[-1]["embedding"], near)
    got = method.select(0).indices
    found = method._extrapolated(method.source.scores()).double().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    ranked = np.argsort(expected if rule == "easiest" else -expected, kind="stable")
    if near < 100:  # where all have one mean, ties are broken at random
        assert set(got.tolist()) == set(ranked[:25].tolist())


def test_beta_extrapolates_the_ease_too(make):
    members = torch.arange(10, 30)
    seen = list(passes(3, members))
    method = shown(make, "score[by=entropy,rule=beta,part=0.4,near=2]", seen[-1:])
    assert len(method.select(0).indices) == 15
    ease = by_hand(seen[-1]["prob_y"][members], members, seen[-1]["embedding"], 2)
    np.testing.assert_allclose(method._extrapolated(method.ease).numpy(), ease, rtol=1e-5)


def test_the_part_is_scored_as_if_there_were_no_others(make):
    """SSP clusters the samples and MoSo sums over them: those outside of the part have no say in it."""
    members = torch.arange(0, N, 2)
    one, two = list(passes(3, members)), list(passes(3, members, seed=1))
    for a, b in zip(one, two, strict=True):
        for name, values in b.values.items():
            values[members] = a[name][members]
    for by in ("ssp", "moso"):
        found = []
        for seen in (one, two):
            signals = [replace(s, values=s.values | {"learning_rate": torch.ones(N)}) for s in seen]
            method = shown(make, f"score[by={by},part=0.5]", signals)
            method.select(0)
            found.append(method.source.scores())
        assert len(found[0]) == 25
        assert torch.equal(*found)


def test_a_score_without_a_number_counts_as_the_largest_among_neighbours(make):
    members = torch.arange(5)
    seen = list(passes(2, members))
    seen[0].values["correct"][:], seen[1].values["correct"][:] = 1.0, 1.0
    seen[0].values["correct"][0], seen[1].values["correct"][0] = 0.0, 0.0  # never learnt
    seen[1].values["correct"][1] = 0.0  # forgotten once
    method = shown(make, "score[by=forgetting,part=0.1,near=5]", seen)
    assert 0 in method.select(0).indices
    scores = method._extrapolated(method.source.scores())
    assert scores[:5].tolist() == [float("inf"), 1.0, 0.0, 0.0, 0.0]
    torch.testing.assert_close(scores[5:], torch.full((45,), 0.4))


def test_what_it_requires(make):
    stated = load_method("score[by=aum,part=0.2]").requires()
    assert stated.signals == {"margin", "member", "embedding"}
    assert stated.proxy == Proxy(30, at="epochs", share=0.2)
    assert load_method("score[by=el2n,part=0.2]").requires().proxy == Proxy(10, share=0.2)
    with pytest.raises(UsageError, match="by one proxy that trains on all samples"):
        load_method("score[by=memorization,part=0.2]").requires()


def test_it_is_a_method_as_any_other():
    assert conformance.edge_cases("score[by=forgetting,part=0.5]") == []
    assert conformance.any_order("score[by=forgetting,part=0.5]") == []


@pytest.mark.parametrize("by", ["aum", "ssp", "moso"])
def test_stopped_after_any_pass_it_goes_on_as_it_was(make, by):
    seen = [replace(s, values=s.values | {"learning_rate": torch.ones(N)}) for s in passes(3, torch.arange(0, N, 2))]
    text = f"score[by={by},rule=stratified,part=0.5]"
    whole = shown(make, text, seen).select(0).indices
    for stop in range(4):
        first, second = shown(make, text, seen[:stop]), make(text, seed=9, n=N, keep=0.3, labels=LABELS)
        second.load_state_dict(first.state_dict())
        for signals in seen[stop:]:
            second.observe(signals)
        assert torch.equal(second.select(0).indices, whole)


@pytest.mark.parametrize(("by", "measured"), [("el2n[at_epoch=3]", 1), ("aum[proxy_epochs=3]", 3)])
def test_the_proxy_trains_on_the_exact_share_and_all_is_counted(home, by, measured):
    spec = RunSpec(
        dataset=TINY,
        model="mlp[width=8,depth=1]",
        method=canonical(f"score[by={by},part=0.25]"),
        keep=0.5,
        seed=0,
        recipe=Recipe(epochs=4, batch_size=16, lr=0.1),
    )
    ledger = Ledger()
    method = prepare(spec, load_data(TINY, None), CPU, ledger).method
    assert len(method.select(0).indices) == 45
    assert len(method.members) == 22  # of 90, a quarter
    assert ledger.proxy_backward == 3 * 22
    assert ledger.proxy_forward == 3 * 22 + measured * 90
