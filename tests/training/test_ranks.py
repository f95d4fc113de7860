"""A run on 1, 2 and 4 processes: the same selections, picks and ledger, parameters equal up to rounding, no hang."""

from pathlib import Path
from typing import Any

import pytest
import torch
from forks import on_ranks
from torch import Tensor

from dpbench import store
from dpbench.recipe import Recipe
from dpbench.spec import RunSpec, canonical
from dpbench.training import loading, ranks, runner

CPU = torch.device("cpu")
DATA = (
    "synthetic[n=160,n_test=70,d=16,classes=4]"  # 144 samples to train on: 9 batches of 16, and fewer of what is kept
)
COUNTS = ("samples_forward", "samples_backward", "optimizer_steps", "prune_ratio")
MIXED = {"augment": "crop_flip", "pad": 1, "mixup": 0.4, "cutmix": 1.0, "mix_prob": 0.7, "ema": 0.8, "clip": 1.0}
CASES: dict[str, dict[str, Any]] = {
    "static": {"method": "el2n[at_epoch=1]"},
    "static with weights": {"method": "craig[proxy_epochs=1]"},
    "epoch": {"method": "infobatch", "epochs": 8},
    "twenty epochs, short batches": {
        "method": "orderdp",
        "epochs": 20,
        "keep": 0.36,
    },  # 52 samples: the last batch of 4
    "a last batch of fewer than ranks": {"method": "uniform_epoch", "epochs": 2, "keep": 0.35},  # 50: the last of 2
    "pick": {"method": "big_loss", "keep": 0.3},
    "pick and learn at once": {"method": "importance_sampling", "keep": 0.3},
    "pick, mix and accumulate": {"method": "big_loss", "model": "cnn", "accumulate": 3, "sync": True} | MIXED,
    "weights and refresh": {"method": "kakurenbo", "epochs": 5},
    "losses of whole batches": {"method": "bls"},
    "batch normalisation": {"method": "infobatch", "model": "cnn", "sync": True} | MIXED,
    "a budget of time": {"method": "uniform_epoch", "budget": {"unit": "time", "seconds": 0.2}},
}


def spec_of(case: str, devices: int) -> RunSpec:
    given = {"epochs": 3, "batch_size": 16, "lr": 0.1, "keep": 0.5, "model": "mlp[width=8,depth=1]"} | CASES[case]
    recipe = {name: given.pop(name) for name in list(given) if name in Recipe.model_fields}
    sync = given.pop("sync", False) and devices > 1
    data = {"dataset": DATA, "data": loading.load_data(DATA, None).fingerprint, "seed": 0, "probe": {"every": 0}}
    given |= {"method": canonical(given["method"]), "devices": devices, "sync_batchnorm": sync}
    return RunSpec(**data, **given, recipe=Recipe(**recipe))


def trained(case: str, devices: int) -> dict[str, Any]:
    """What a run has come to, seen from this rank."""
    spec = spec_of(case, devices)
    folder, group = store.run_folder(spec.hash), ranks.of(spec)
    with group.joined(spec):
        inner = runner._Run(spec, CPU, None, folder, group)
        result = inner.train(1e9, None)
    found = {"selections": inner.selections, "records": result["epochs"], "parameters": parameters(inner)}
    return found | {"method": inner.method.state_dict()["state"], "metrics": result["metrics"]}


def parameters(inner: Any) -> Tensor:
    return torch.cat([value.flatten().double() for value in inner.learner.evaluated.state_dict().values()])


def all_cases(rank: int, size: int, home: str) -> dict[str, dict[str, Any]]:
    with store.moved_home(Path(home)):
        return {case: trained(case, size) for case in CASES}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """By the number of ranks, what each rank saw of each case."""
    home = tmp_path_factory.mktemp("home")
    return {size: on_ranks(size, all_cases, home / f"of-{size}", size, str(home)) for size in (1, 2, 4)}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list | tuple) else a == b


@pytest.mark.parametrize("case", [case for case in CASES if case != "a budget of time"])
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_do_what_one_process_does(outcomes: dict[int, list[dict[str, Any]]], case: str, size: int) -> None:
    [alone], first = outcomes[1], outcomes[size][0]
    one, many = alone[case], first[case]
    assert same(one["selections"], many["selections"])
    for name in COUNTS:
        assert [record[name] for record in one["records"]] == [record[name] for record in many["records"]], name
        assert one["metrics"][name] == many["metrics"][name], name
    assert torch.allclose(one["parameters"], many["parameters"], rtol=1e-4, atol=1e-5)
    for before, now in zip(one["records"], many["records"], strict=True):
        assert now["loss_train"] == pytest.approx(before["loss_train"], rel=1e-4)
        assert now["loss_test"] == pytest.approx(before["loss_test"], rel=1e-4)
        assert now["accuracy"] == before["accuracy"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [2, 4])
def test_all_ranks_hold_the_same_run(outcomes: dict[int, list[dict[str, Any]]], case: str, size: int) -> None:
    first, *others = [of_rank[case] for of_rank in outcomes[size]]
    for other in others:
        for what in ("selections", "parameters", "method"):
            assert same(first[what], other[what]), what


def test_the_cases_are_what_they_are_called(outcomes: dict[int, list[dict[str, Any]]]) -> None:
    [alone] = outcomes[1]
    for case in ("twenty epochs, short batches", "a last batch of fewer than ranks"):
        sizes = {len(rows) % 16 for rows in alone[case]["selections"]}
        assert sizes == ({4} if case.startswith("twenty") else {2})
    assert len(alone["twenty epochs, short batches"]["records"]) == 20
    assert alone["weights and refresh"]["metrics"]["samples_forward"] > alone["weights and refresh"]["metrics"][
        "samples_backward"
    ]  # fmt: skip
    assert alone["pick"]["metrics"]["prune_ratio"] > 0.6
