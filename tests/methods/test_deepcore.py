"""The adapter for a checkout of DeepCore, on a stand-in with its layout and signatures."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dpbench import deepcore, load_method
from dpbench.errors import UsageError
from dpbench.method import Signals
from dpbench.spec import canonical
from dpbench.training import conformance

STAND_IN = Path(__file__).parent.parent / "data" / "deepcore_standin"


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
    monkeypatch.setenv("DPBENCH_DEEPCORE", str(STAND_IN))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def record():
    rng = torch.Generator().manual_seed(0)
    embedding = torch.randn(60, 5, generator=rng)
    logits = embedding @ torch.randn(5, 4, generator=rng) + torch.randn(4, generator=rng)
    return {"embedding": embedding, "logits": logits}


def answer(make, record, text, seed=3):
    method = make(text, seed)
    method.observe(Signals(torch.arange(60), record, 29, 0))
    return method.select(0)


def test_embeddings_and_logits_reach_it_unchanged(make, record, capsys):
    entropy = torch.distributions.Categorical(logits=record["logits"]).entropy()
    chosen = answer(make, record, "deepcore[name=Uncertainty,option=Entropy]").indices
    assert set(chosen.tolist()) == set(entropy.topk(24).indices.tolist())
    chosen = answer(make, record, "deepcore[name=Uncertainty,balanced=true]").indices
    confidence = record["logits"].softmax(1).amax(1)
    for c in range(4):
        members = torch.arange(c, 60, 4)
        kept = set(chosen.tolist()) & set(members.tolist())
        assert kept == set(members[confidence[members].argsort()[:6]].tolist())
    chosen = answer(make, record, "deepcore").indices
    nearest = torch.cdist(record["embedding"], record["embedding"][chosen]).amin(1)
    uniform = torch.cdist(record["embedding"], record["embedding"][:24]).amin(1)
    assert len(chosen.unique()) == 24
    assert nearest.max() < uniform.max()
    assert capsys.readouterr().out == ""


def test_weights(make, record):
    selection = answer(make, record, "deepcore[name=Craig]")
    np.testing.assert_allclose(selection.weights, (np.arange(24) + 1) / 12.5)


def test_seeds_reach_it_and_the_environment_stays(make, record):
    states = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), hasattr(np, "in1d")
    sets = {tuple(answer(make, record, "deepcore", seed).indices.tolist()) for seed in range(6)}
    assert len(sets) > 2
    assert states == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), hasattr(np, "in1d"))


def test_it_conforms():
    assert not any(conformance.check("deepcore").values())


def test_a_name_after_a_colon_is_a_method_of_its_own(make, record):
    named = answer(make, record, "deepcore:kCenterGreedy")
    for text in ("deepcore", "deepcore:KCenterGreedy", "deepcore[name=kcentergreedy]"):
        assert torch.equal(answer(make, record, text).indices, named.indices)
    assert canonical("deepcore:Uncertainty[option=Entropy]") == "deepcore:Uncertainty[option=Entropy]"
    entropy = answer(make, record, "deepcore:Uncertainty[option=Entropy]")
    assert torch.equal(entropy.indices, answer(make, record, "deepcore[name=Uncertainty,option=Entropy]").indices)
    method = type(load_method("deepcore:Craig"))
    assert pickle.loads(pickle.dumps(method)) is method


@pytest.mark.parametrize("name", ["Forgetting", "EarlyTrain", "_Method", "kCenterGreed"])
def test_unknown_names_are_told_before_any_training(name):
    known = "known: Craig, Uncertainty, kCenterGreedy"
    with pytest.raises(UsageError, match=f"no method '{name}' that selects from a record; {known}"):
        load_method(f"deepcore[name={name}]").ready()


def test_no_checkout_is_told_before_any_training(monkeypatch, tmp_path):
    for value in ("", str(tmp_path)):
        monkeypatch.setenv("DPBENCH_DEEPCORE", value)
        with pytest.raises(UsageError, match=f"DPBENCH_DEEPCORE = '{value}' is not a checkout .*; set it to the"):
            load_method("deepcore").ready()


def test_what_would_not_fit_or_take_too_long_is_refused(make, record, monkeypatch):
    for name in ("kCenterGreedy", "Craig", "Uncertainty"):
        answer(make, record, f"deepcore:{name}")
    monkeypatch.setenv("DPBENCH_SELECT_GB", "1e-6")  # 268 numbers; 60 x 24 or 60 x 60 are needed
    answer(make, record, "deepcore:Uncertainty")
    for name in ("kCenterGreedy", "Craig"):
        with pytest.raises(MemoryError, match=f"deepcore:{name} would take"):
            answer(make, record, f"deepcore:{name}")
    monkeypatch.setenv("DPBENCH_SELECT_HOURS", "1e-12")
    with pytest.raises(TimeoutError, match="deepcore:Craig would take"):
        answer(make, record, "deepcore:Craig")


def test_costs_grow_as_their_code_s():
    def grows(name, option="", **changes):
        sizes = {"n": 50_000, "k": 15_000, "classes": 10, "d": 512}
        before, after = (deepcore.cost(name, option, **sizes | more) for more in ({}, changes))
        return [b / a if a else 1.0 for a, b in zip(before, after, strict=True)]

    assert grows("craig", n=100_000) == pytest.approx([4, 4], rel=0.05)
    assert grows("cal", k=30_000) == [1, 1]
    assert grows("kcentergreedy", k=30_000) == [2, 2]
    assert grows("gradmatch", k=30_000) == [16, 1]
    assert grows("submodular", k=30_000) == pytest.approx([16, 1], rel=0.01)
    assert grows("submodular", "GraphCut", k=30_000) == [1, 1]
    assert grows("grand", classes=20) == [1, 2]
    assert grows("uncertainty", n=100_000) == [1, 1]


def test_a_class_costs_less_than_all(make, record, monkeypatch):
    monkeypatch.setenv("DPBENCH_SELECT_GB", str(8000 * 4 / 2**30))  # all 60 hold 36,000 numbers, 15 of a class 4,000
    answer(make, record, "deepcore:Craig[balanced=true]")
    with pytest.raises(MemoryError):
        answer(make, record, "deepcore:Craig")


def test_a_checkout_that_cannot_be_imported(monkeypatch):
    def fail(name):
        raise ImportError("no module named torchvision")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(UsageError, match="importing it raised ImportError: no module named torchvision"):
        deepcore.checkout()


def test_it_runs_where_the_gpu_is(monkeypatch):
    for available, devices in ((False, ["cpu", "cpu"]), (True, ["cuda", "cpu"])):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert [deepcore.device(name) for name in ("Craig", "GradMatch")] == devices
