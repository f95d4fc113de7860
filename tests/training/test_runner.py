"""A run: exact ledgers, each feature of the interface, determinism, resuming, probes, budgets, and failures."""

import json
import random
import re
import time
from collections.abc import Callable
from importlib.metadata import EntryPoint
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dpbench import catalog, store
from dpbench.data import Dataset
from dpbench.draws import sample
from dpbench.errors import RunFailed, UsageError
from dpbench.images import ImageLoader, Images
from dpbench.predictions import Predictions
from dpbench.rng import derive, generator, seeded
from dpbench.selections import Selections
from dpbench.spec import Recipe, RunSpec
from dpbench.training import account, loading, probes, runner
from dpbench.training.ledger import Ledger
from dpbench.training.rows import mask
from dpbench.training.train import Learner, evaluate
from dpbench.training.workload import workload

Spec = Callable[..., RunSpec]
Run = Callable[..., dict[str, Any]]
CPU = torch.device("cpu")
N, EPOCHS, BATCH = 90, 4, 16
EIGHT = [
    "full", "full_short", "uniform", "uniform_epoch", "orderdp", "infobatch", "el2n[at_epoch=2]", "selective_backprop"
]  # fmt: skip


def selections(result: dict[str, Any]) -> list[Tensor]:
    return Selections.read(store.run_folder(result["hash"]) / "selections.npz").epochs


def parameters(inner: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in inner.learner.network.parameters()])


def column(result: dict[str, Any], name: str) -> list[Any]:
    return [record[name] for record in result["epochs"]]


def untimed(result: dict[str, Any]) -> str:
    """All of a result that the seed decides, as text, NaN and all."""

    def keep(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: keep(v) for k, v in value.items() if "time" not in k and "memory" not in k}
        return [keep(v) for v in value] if isinstance(value, list) else value

    return json.dumps({name: keep(result[name]) for name in ("metrics", "epochs", "diagnostics")})


# the ledger


@pytest.mark.parametrize("method", EIGHT)
def test_ledger_counts_what_was_done(spec: Spec, run: Run, method: str) -> None:
    result = run(spec(method))
    metrics, chosen = result["metrics"], selections(result)
    assert result["status"] == "FINISHED"
    assert column(result, "samples_backward") == [len(rows) for rows in chosen]
    for name in ("samples_forward", "samples_backward", "optimizer_steps"):
        assert metrics[name] == sum(column(result, name))
    assert metrics["prune_ratio"] == 1 - metrics["samples_backward"] / (N * EPOCHS)
    assert metrics["forward_saving"] == 1 - metrics["samples_forward"] / (N * EPOCHS)
    assert metrics["accuracy"] == column(result, "accuracy")[-1]
    assert metrics["accuracy_best_epoch"] == max(column(result, "accuracy"))
    assert metrics["loss_test"] == column(result, "loss_test")[-1]
    if method != "selective_backprop":
        assert metrics["samples_forward"] == metrics["samples_backward"]
        assert column(result, "optimizer_steps") == [-(-len(rows) // BATCH) for rows in chosen]


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.77, 0.011])
@pytest.mark.parametrize(
    "method", ["orderdp", "orderdp[explore=0.4,score=margin]", "uniform", "uniform_epoch", "el2n[at_epoch=1]"]
)
def test_methods_of_exact_control_prune_exactly(spec: Spec, run: Run, method: str, keep: float) -> None:
    result = run(spec(method, keep=keep, probe={"every": 0}))
    assert result["metrics"]["prune_ratio"] == 1 - round(keep * N) / N
    assert column(result, "samples_backward") == [round(keep * N)] * EPOCHS


def test_full_and_full_short(spec: Spec, run: Run) -> None:
    full, short = run(spec("full", keep=1.0)), run(spec("full_short", keep=0.5))
    assert full["metrics"]["prune_ratio"] == 0
    assert column(full, "samples_backward") == [N] * EPOCHS
    assert column(short, "samples_backward") == [N] * 2
    assert short["metrics"]["prune_ratio"] == 0.5
    assert short["metrics"]["epochs"] == 2


def test_infobatch_reports_what_it_really_pruned(spec: Spec, run: Run) -> None:
    result = run(spec("infobatch", keep=0.3, epochs=8))
    kept = column(result, "samples_backward")
    assert kept[0] == N, "nothing was seen yet"
    assert kept[7] == N, "the last eighth uses all data"
    assert all(0.3 * N < k < N for k in kept[1:7])
    assert result["metrics"]["prune_ratio"] == 1 - sum(kept) / (8 * N)


def test_selective_backprop_forwards_all_and_the_picked_again(spec: Spec, run: Run) -> None:
    result = run(spec("selective_backprop", keep=0.5))
    for record in result["epochs"]:
        assert record["samples_forward"] == N + record["samples_backward"]
        assert 0 < record["samples_backward"] < N


def test_el2ns_proxy_is_booked(spec: Spec, run: Run) -> None:
    metrics = run(spec("el2n[at_epoch=2,runs=3]"))["metrics"]
    assert metrics["samples_proxy"] == 3 * 2 * N
    assert metrics["samples_proxy_forward"] == 3 * (2 * N + N), "a pass after the second epoch"
    assert metrics["time_proxy_s"] > 0
    assert metrics["time_total_s"] == pytest.approx(
        sum(metrics[f"time_{phase}_s"] for phase in ("select", "observe", "train", "proxy"))
    )
    assert 0 < metrics["time_on_cpu"] < 1.1


def test_a_run_that_waits_has_no_cpu_meanwhile() -> None:
    ledger = Ledger()
    with ledger.time("train"):
        time.sleep(0.05)
    assert ledger.on_cpu < 0.5 * ledger.seconds["train"]


def test_diagnostics_count_the_uses(spec: Spec, run: Run) -> None:
    noisy = "synthetic[n=100,n_test=50,d=16,classes=4,label_noise=0.2]"
    result = run(spec("uniform_epoch", dataset=noisy, keep=0.3))
    found, chosen = result["diagnostics"], torch.cat(selections(result))
    uses = torch.bincount(chosen, minlength=N)
    assert found["uses_histogram"] == torch.bincount(uses).tolist()
    assert (found["never_used"], found["uses"]["max"]) == (int((uses == 0).sum()), int(uses.max()))
    data = loading.load_data(noisy, None)
    assert found["noisy_share"] == pytest.approx(float(data.noisy[chosen].float().mean()))
    assert found["coverage"][-1] == len(chosen.unique()) / N
    labels = data.train.labels
    for c, kept in enumerate(found["kept_per_class"]):
        assert kept == pytest.approx(int((labels[chosen] == c).sum()) / int((labels == c).sum()) / EPOCHS)
    assert found["accuracy_worst_class"] == min(found["accuracy_per_class"])


# each feature of the interface, by a method made for it


def test_weights_and_lr_scale_scale_the_step(spec: Spec, trained: Callable[[RunSpec], Any]) -> None:
    """Without momentum and decay twice the weight is twice the rate, to the bit since 2 is a power of 2."""
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    expected = parameters(trained(spec("full", lr=0.2, **plain)))
    assert torch.equal(parameters(trained(spec("made:Weighted[weight=2.0]", **plain))), expected)
    assert torch.equal(parameters(trained(spec("made:Scaled[scale=2.0]", **plain))), expected)
    for method in ("made:Weighted[weight=1.0]", "made:Scaled[scale=1.0]"):
        assert not torch.equal(parameters(trained(spec(method, **plain))), expected)


def test_the_first_step_is_the_closed_form(spec: Spec, trained: Callable[[RunSpec], Any]) -> None:
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "schedule": "cosine"}
    inner = trained(spec("made:Weighted[weight=0.7]", epochs=1, batch_size=1000, lr=0.3, **plain))
    fresh = Learner(inner.spec.model, inner.recipe, workload(inner.data, inner.recipe), inner.data.shape, 0, CPU)
    images, labels = inner.loader.batch(torch.arange(N))
    F.cross_entropy(fresh.model(images), labels).backward()
    for before, after in zip(fresh.network.parameters(), inner.learner.network.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.3 * 0.7 * before.grad)


def test_refresh_is_forwarded_observed_and_not_trained_on(
    spec: Spec, run: Run, trained: Callable[[RunSpec], Any]
) -> None:
    metrics = run(spec("made:Hiding", keep=0.3))["metrics"]
    assert metrics["samples_backward"] == EPOCHS * 27
    assert metrics["samples_forward"] == EPOCHS * N
    with_refresh, without = (
        trained(spec("made:Hiding", keep=0.3)),
        trained(spec("made:Hiding[refresh=false]", keep=0.3)),
    )
    assert with_refresh.method.seen.tolist() == [EPOCHS] * N
    assert without.method.seen.tolist() == [EPOCHS] * 27 + [0] * 63
    assert torch.equal(parameters(with_refresh), parameters(without))


def test_observe_comes_once_an_epoch_or_after_each_step(spec: Spec, trained: Callable[[RunSpec], Any]) -> None:
    assert trained(spec("made:All")).method.calls == [N] * EPOCHS
    assert trained(spec("made:Online")).method.calls == [16, 16, 16, 16, 16, 10] * EPOCHS


@pytest.mark.parametrize(
    ("epochs", "until", "pruned"),
    [(30, 0.875, 26), (8, 0.875, 7), (4, 1.0, 4), (4, 0.1, 0)],
)
def test_after_its_end_of_pruning_all_samples_are_used(
    spec: Spec, run: Run, epochs: int, until: float, pruned: int
) -> None:
    result = run(spec(f"made:Fresh[until={until}]", epochs=epochs, probe={"every": 0}))
    expected = [45 if epoch < pruned else N for epoch in range(epochs)]
    assert column(result, "samples_backward") == expected


def test_period(spec: Spec, run: Run) -> None:
    chosen = selections(run(spec("made:Fresh[every=3]", epochs=7)))
    same = [bool(torch.equal(a, b)) for a, b in pairwise(chosen)]
    assert same == [True, True, False, True, True, False]


def test_pick_and_pool(spec: Spec, run: Run, trained: Callable[[RunSpec], Any]) -> None:
    one, two = run(spec("made:PickHardest")), run(spec("made:PickHardest[batches=2]"))
    assert column(one, "samples_backward") == [5 * 8 + 5] * EPOCHS
    assert column(one, "optimizer_steps") == [6] * EPOCHS
    assert column(two, "samples_backward") == [2 * 16 + 13] * EPOCHS
    assert column(two, "optimizer_steps") == [3] * EPOCHS
    for result in (one, two):
        assert column(result, "samples_forward") == [N + 45] * EPOCHS
    assert trained(spec("made:PickHardest")).method.seen.tolist() == [EPOCHS] * N, "what is not picked is observed too"


def test_picked_weights_scale_the_step(spec: Spec, trained: Callable[[RunSpec], Any]) -> None:
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "epochs": 2}
    weighted = parameters(trained(spec("made:PickHardest[weight=2.0]", **plain)))
    assert torch.equal(weighted, parameters(trained(spec("made:PickHardest", lr=0.2, **plain))))
    assert not torch.equal(weighted, parameters(trained(spec("made:PickHardest", **plain))))


def test_pick_that_sends_nothing_backward_trains_nothing(
    spec: Spec, run: Run, trained: Callable[[RunSpec], Any]
) -> None:
    inner = trained(spec("made:PickNone", epochs=2))
    fresh = Learner(inner.spec.model, inner.recipe, workload(inner.data, inner.recipe), inner.data.shape, 0, CPU)
    before = torch.cat([p.detach().flatten() for p in fresh.network.parameters()])
    assert torch.equal(parameters(inner), before)
    metrics = run(spec("made:PickNone", epochs=2))["metrics"]
    assert (metrics["prune_ratio"], metrics["optimizer_steps"], metrics["samples_forward"]) == (1.0, 0, 2 * N)


# determinism


@pytest.mark.parametrize("method", EIGHT)
def test_a_seed_decides_everything(
    spec: Spec, run: Run, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(spec(method))
    chosen = selections(first)
    other = run(spec(method, seed=1))
    if first["kind"] != "static" or method in ("uniform", "el2n[at_epoch=2]"):
        assert any(not torch.equal(a, b) for a, b in zip(chosen, selections(other), strict=False))
    assert column(first, "loss_test") != column(other, "loss_test")
    monkeypatch.setenv("DPBENCH_HOME", str(tmp_path / "again"))
    torch.rand(3), np.random.rand(3)  # the state of global generators has no say
    second = run(spec(method))
    assert untimed(first) == untimed(second)
    for a, b in zip(chosen, selections(second), strict=True):
        assert torch.equal(a, b)


def test_methods_of_one_seed_share_weights_and_order(spec: Spec, trained: Callable[[RunSpec], Any]) -> None:
    full, all_too = trained(spec("full")), trained(spec("made:All"))
    assert torch.equal(parameters(full), parameters(all_too))
    assert not torch.equal(parameters(full), parameters(trained(spec("full", seed=1))))


def test_the_order_is_new_each_epoch_and_shared_by_the_methods_of_a_seed(
    spec: Spec, trained: Callable[[RunSpec], Any]
) -> None:
    orders = [rows.tolist() for rows in trained(spec("made:All")).method.order]
    assert all(sorted(rows) == list(range(N)) for rows in orders)
    assert len(set(map(tuple, orders))) == EPOCHS
    hiding = [rows.tolist() for rows in trained(spec("made:Hiding[refresh=false]")).method.order]
    assert hiding == [[i for i in rows if i < 45] for rows in orders]
    assert orders[0] != trained(spec("made:All", seed=1)).method.order[0].tolist()


def test_augmentation_is_new_each_epoch_and_shared_by_the_methods_of_a_seed(
    spec: Spec, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifts: list[tuple[int, ...]] = []
    start = ImageLoader.start_epoch

    def watch(self: ImageLoader, rng: torch.Generator) -> None:
        start(self, rng)
        shifts.append(tuple(self.dx.tolist()))

    monkeypatch.setattr(ImageLoader, "start_epoch", watch)
    for method, seed in (("full", 0), ("uniform", 0), ("full", 1)):
        assert run(spec(method, seed=seed, augment="crop", pad=1))["status"] != "FAILED"
    assert shifts[:EPOCHS] == shifts[EPOCHS : 2 * EPOCHS]
    assert len(set(shifts)) == 2 * EPOCHS


@pytest.mark.parametrize("method", ["full", "el2n[at_epoch=1]", "selective_backprop"])
def test_global_generators_are_left_alone(spec: Spec, run: Run, method: str) -> None:
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    assert run(spec(method))["status"] == "FINISHED"
    assert torch.equal(torch_state, torch.get_rng_state())
    assert python_state == random.getstate()
    assert all(np.array_equal(a, b) for a, b in zip(numpy_state, np.random.get_state(), strict=True))


def installed(monkeypatch: pytest.MonkeyPatch, model: Callable[..., torch.nn.Module]) -> None:
    """Offer a model as an installed package does."""
    entry = EntryPoint(model.__name__, f"{__name__}:{model.__name__}", "dpbench.models")
    monkeypatch.setattr("dpbench.catalog._installed", lambda group: {entry.name: entry} if group == "models" else {})


def dropout(shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    """A model that draws from torch's global generator."""
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(shape[1] * shape[2], 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, classes)
    )


def test_a_model_with_dropout_is_seeded_in_training_and_in_the_proxy(
    spec: Spec, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, dropout)
    results = []
    for number in range(2):
        monkeypatch.setenv("DPBENCH_HOME", str(tmp_path / str(number)))
        torch.manual_seed(number)
        state = torch.get_rng_state()
        results.append(run(spec("el2n[at_epoch=2]", model="dropout")))
        assert torch.equal(state, torch.get_rng_state())
    assert untimed(results[0]) == untimed(results[1])


def test_seeded_restores_the_generator_after_an_error() -> None:
    def fail() -> None:
        with seeded(3, CPU):
            torch.rand(1)
            raise KeyError

    state = torch.get_rng_state()
    with pytest.raises(KeyError):
        fail()
    assert torch.equal(state, torch.get_rng_state())


def test_streams_share_nothing() -> None:
    seeds = [
        derive(seed, role, *more) for seed in range(3) for role in ("order", "pick") for more in ((0,), (1,), (2**40,))
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert torch.equal(torch.rand(3, generator=generator(1, "a", 2)), torch.rand(3, generator=generator(1, "a", 2)))


# resuming


@pytest.mark.parametrize("method", [*EIGHT, "made:Fresh[every=3]", "made:Restless", "orderdp[ema=0.5]"])
@pytest.mark.parametrize("stop", [0, 2])
def test_a_stopped_run_continues_bit_for_bit(
    spec: Spec, run: Run, method: str, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(spec(method, keep=0.8))
    expected = selections(whole)
    monkeypatch.setenv("DPBENCH_HOME", str(tmp_path / "stopped"))

    def crash(record: dict[str, Any]) -> None:
        if record["epoch"] == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec(method, keep=0.8), checkpoint_s=0.0, on_epoch=crash)
    folder = store.run_folder(whole["hash"])
    assert (folder / "checkpoint.pt").is_file() == (stop > 0)
    assert not (folder / "done").exists()
    epochs: list[int] = []
    again = run(spec(method, keep=0.8), on_epoch=lambda record: epochs.append(record["epoch"]))
    assert epochs == list(range(stop, len(whole["epochs"]))), "only what was not saved is trained again"
    assert untimed(again) == untimed(whole)
    for a, b in zip(selections(again), expected, strict=True):
        assert torch.equal(a, b)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("done", "lock", "predictions.npz", "result.json", "selections.npz")
    ]


def test_a_finished_run_is_read_not_run(spec: Spec, run: Run) -> None:
    first = run(spec())
    assert run(spec(), on_epoch=lambda record: pytest.fail("trained again")) == json.loads(json.dumps(first))


def test_a_failed_run_is_tried_again(spec: Spec, run: Run) -> None:
    def fail(record: dict[str, Any]) -> None:
        raise OSError("no space left")

    failed = run(spec(), on_epoch=fail)
    assert (failed["status"], failed["reason"]) == ("FAILED", "OSError: no space left")
    assert "no space left" in (store.run_folder(failed["hash"]) / "traceback.txt").read_text()
    assert run(spec())["status"] == "FINISHED"
    assert not (store.run_folder(failed["hash"]) / "traceback.txt").exists()


# probes


@pytest.mark.parametrize(
    ("method", "model"),
    [("orderdp", "mlp[width=8,depth=1]"), ("orderdp", "resnet18"), ("made:Restless", "mlp[width=8,depth=1]"),
     ("selective_backprop", "resnet18")],
)  # fmt: skip
def test_probes_do_not_disturb_the_training(spec: Spec, run: Run, method: str, model: str) -> None:
    options = {"model": model, "epochs": 2, "dataset": "synthetic[n=50,n_test=20,d=16,classes=3]"}
    probed, plain = (run(spec(method, probe={"every": every}, **options)) for every in (1, 0))
    assert "gradient_cosine" in probed["epochs"][0]
    assert "gradient_cosine" not in plain["epochs"][0]
    for name in ("accuracy", "loss_test", "loss_train", "samples_backward"):
        assert column(probed, name) == column(plain, name)
    for a, b in zip(selections(probed), selections(plain), strict=True):
        assert torch.equal(a, b)


def each_gradient(learner: Learner, loader: ImageLoader, rows: Tensor) -> Tensor:
    """(b, p) gradients in evaluation mode, one backward pass each."""
    learner.model.eval()
    found = []
    for row in rows:
        losses, _ = learner.measure(*loader.batch(row[None], augment=False), frozenset())
        found.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(losses[0], list(learner.network.parameters()))])
        )
    return torch.stack(found).double()


def compare(full: Tensor, selected: Tensor) -> dict[str, float]:
    return {
        "gradient_cosine": float(F.cosine_similarity(full, selected, dim=0)),
        "gradient_norm_ratio": float(selected.norm() / full.norm()),
        "gradient_norm": float(full.norm()),
    }


def estimated(full: Tensor, selected: Tensor, parts: list[int], probed: float) -> Tensor:
    """The unbiased inner products (2, 2) from each sample's gradients, rows in parts: the formula in means."""
    both = torch.stack([torch.stack([part.mean(0) for part in rows.split(parts)]) for rows in (full, selected)])
    mean = both.mean(1)
    if len(parts) == 1:
        return mean @ mean.T
    off = both - mean[:, None]
    covariance = torch.einsum("akp,ckp->ac", off, off) / (len(parts) - 1)
    return mean @ mean.T - (1 - probed) * covariance / len(parts)


@pytest.mark.parametrize("samples", [1000, 40])
@pytest.mark.parametrize("method", ["full", "uniform", "made:Weighted[weight=0.5]", "made:PickHardest"])
def test_gradient_probe_against_one_backward_pass_a_sample(
    spec: Spec, run: Run, trained: Callable[[RunSpec], Any], method: str, samples: int
) -> None:
    """At the first epoch's initial weights, on the probed samples."""
    found = spec(method, epochs=1, probe={"every": 1, "samples": samples}, batch_size=N)
    inner, record = trained(found), run(found)["epochs"][0]
    parts = [len(part) for part in inner.probed]
    assert parts == ([N] if samples == 1000 else [20] * 2 if "Pick" in method else [2] * 16)
    rows = torch.cat(inner.probed)
    assert len(rows.unique()) == len(rows)
    learner = Learner(found.model, found.recipe, workload(inner.data, found.recipe), inner.data.shape, 0, CPU)
    gradient = each_gradient(learner, inner.loader, rows)
    chosen = torch.ones(len(rows), dtype=torch.bool)
    if method == "uniform":
        chosen = mask(selections(run(found))[0], N)[rows]
    if method == "made:PickHardest":
        with torch.no_grad():
            losses, _ = learner.measure(*inner.loader.batch(rows), frozenset())
        chosen = torch.cat([mask(part.topk(len(part) // 2).indices, len(part)) for part in losses.split(parts)])
    weight = 0.5 if "Weighted" in method else 1.0
    gram = estimated(gradient, weight * chosen[:, None] * gradient, parts, len(rows) / N)
    share = float(chosen.double().mean())
    expected = {
        "gradient_cosine": gram[0, 1] / (gram[0, 0] * gram[1, 1]).sqrt(),
        "gradient_norm_ratio": (gram[1, 1] / gram[0, 0]).sqrt() / share,
        "gradient_norm": gram[0, 0].sqrt(),
    }
    assert {name: record[name] for name in expected} == pytest.approx(
        {k: float(v) for k, v in expected.items()}, rel=1e-3
    )
    exact = samples == 1000 or method not in ("uniform", "made:PickHardest")
    assert record["gradient_cosine_ci95"] == pytest.approx(0, abs=1e-6) if exact else record["gradient_cosine_ci95"] > 0


def test_a_probe_divides_by_all_that_are_trained_on(spec: Spec, trained: Callable[[RunSpec], Any]) -> None:
    inner = trained(spec(epochs=1))
    rows, weight = torch.arange(6), torch.tensor([0.0, 2.0, 1.0, 0.0, 0.0, 0.0])
    few = ImageLoader(inner.data.train.at(rows), inner.data.train.images, CPU)
    found = probes.probe_gradient(inner.learner, few, [rows], lambda part: (weight[part], 3), chunk=6)
    gradient = each_gradient(inner.learner, few, rows)
    expected = compare(gradient.mean(0), (weight[:, None] * gradient).sum(0) / 3)
    assert [found.cosine, found.norm_ratio, found.norm] == pytest.approx(list(expected.values()), rel=1e-4)
    nothing = probes.probe_gradient(inner.learner, few, [rows], lambda part: (0 * weight[part], 0), chunk=6)
    assert np.isnan([nothing.cosine, nothing.norm_ratio]).all()
    assert nothing.norm == pytest.approx(found.norm)


@pytest.mark.parametrize("parts", [2, 4])
def test_products_are_unbiased_over_every_probe_there_is(parts: int) -> None:
    """Over all ordered draws of 4 of 6 samples in parts of equal size."""
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, 6, 3, generator=rng, dtype=torch.float64)
    found = []
    for rows in permutations(range(6), 4):
        means = vectors[:, list(rows)].view(2, parts, 4 // parts, 3).mean(2)
        found.append(probes.products(torch.einsum("akp,cjp->akcj", means, means), 4 / 6))
    mean = vectors.mean(1)
    torch.testing.assert_close(torch.stack(found).mean(0), mean @ mean.T)


@pytest.fixture(scope="module")
def digits() -> Any:
    """A run on digits in the midst of its training, at keep 0.3."""
    recipe = Recipe(epochs=6, batch_size=32, lr=0.05, label_smoothing=0.1)
    found = RunSpec(
        dataset="digits", model="cnn", method="uniform", keep=0.3, seed=0, recipe=recipe, probe={"every": 0}
    )
    found = found.model_copy(update={"data": loading.load_data("digits", None).fingerprint})
    inner = runner._Run(found, CPU, None, store.home())
    with pytest.raises(KeyboardInterrupt):
        inner.train(1e9, stop_after_two)
    return inner


def stop_after_two(record: dict[str, Any]) -> None:
    if record["epoch"] == 1:
        raise KeyboardInterrupt


def test_a_probe_of_512_estimates_what_all_samples_give(digits: Any) -> None:
    def probe(samples: int, seed: int, plain: bool = False) -> dict[str, float]:
        parts = probes.draw(digits.n, samples, 1, torch.Generator().manual_seed(seed))
        digits.probed = [torch.cat(parts)] if plain else parts
        return digits._probe(9)

    exact = probe(10**9, 0)
    assert exact["gradient_cosine_ci95"] == 0
    found = [probe(512, seed) for seed in range(20)]
    off = np.array([record["gradient_cosine"] - exact["gradient_cosine"] for record in found])
    inside = np.abs(off) <= [record["gradient_cosine_ci95"] for record in found]
    assert inside.mean() >= 0.9
    assert abs(off.mean()) < 3 * off.std() / 20**0.5
    norms = np.array([record["gradient_norm"] / exact["gradient_norm"] for record in found])
    assert norms.mean() == pytest.approx(1, abs=3 * norms.std() / 20**0.5)
    plain = [probe(512, seed, plain=True)["gradient_cosine"] for seed in range(20)]
    assert np.mean(plain) < exact["gradient_cosine"] - 3 * np.std(plain) / 20**0.5, "without the correction"


@pytest.mark.parametrize(
    ("n", "samples", "least", "sizes"),
    [(10, 10, 1, [10]), (10, 99, 4, [10]), (100, 50, 1, [3] * 16), (100, 50, 20, [25] * 2), (100, 50, 99, [25] * 2),
     (9, 3, 1, [1] * 3), (9, 2, 1, [1] * 2)],
)  # fmt: skip
def test_a_probe_is_drawn_in_parts_of_equal_size(n: int, samples: int, least: int, sizes: list[int]) -> None:
    parts = probes.draw(n, samples, least, torch.Generator().manual_seed(0))
    assert [len(part) for part in parts] == sizes
    rows = torch.cat(parts)
    assert len(rows.unique()) == len(rows)
    assert int(rows.max()) < n


@pytest.mark.parametrize("samples", [1000, 40])
def test_the_surrogates_gradient_is_what_the_selections_gradient_is_on_average(
    spec: Spec, run: Run, trained: Callable[[RunSpec], Any], samples: int
) -> None:
    found = spec("orderdp[explore=0.7]", keep=0.3, epochs=2, probe={"every": 1, "samples": samples})
    inner, before = trained(found), run(found.model_copy(update={"method": "uniform_epoch"}))
    gradient = each_gradient(inner.learner, inner.loader, torch.arange(N))
    selection = inner.driver.start(2, 1.0)
    probe, weights = inner._probe(2), inner.method.surrogate()
    rows, parts = torch.cat(inner.probed), [len(part) for part in inner.probed]
    chosen = mask(selection.indices, N)[rows]
    of_surrogate, of_selected = weights[rows, None] * gradient[rows], chosen[:, None] * gradient[rows]
    gram = estimated(of_surrogate, of_selected, parts, len(rows) / N)
    cosine = float(gram[0, 1] / (gram[0, 0] * gram[1, 1]).sqrt())
    ratio = float((gram[1, 1] / gram[0, 0]).sqrt() * weights[rows].mean() / chosen.double().mean())
    shown = [probe["gradient_cosine_surrogate"], probe["gradient_norm_ratio_surrogate"]]
    assert shown == pytest.approx([cosine, ratio], rel=1e-3, nan_ok=True)
    drawn = torch.stack([gradient[inner.method.select(2).indices].mean(0) for _ in range(2000)])
    mean = compare(weights @ gradient, drawn.mean(0))
    assert mean["gradient_cosine"] > 0.999 > compare(gradient.mean(0), drawn.mean(0))["gradient_cosine"]
    assert mean["gradient_norm_ratio"] == pytest.approx(1, abs=0.02)
    assert "gradient_cosine_surrogate" not in before["metrics"]


class Once(torch.autograd.Function):
    """Passes its input on; as in a compiled graph, what backward needs is given away by the first pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.passes = 0
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        ctx.passes += 1
        assert ctx.passes == 1, "non-empty donated buffers require retain_graph=False"
        return gradients[0]


@pytest.mark.parametrize("method", ["full", "made:PickHardest", "orderdp", "grand[at_epoch=1]"])
def test_a_compiled_model_is_differentiated_once(
    spec: Spec, run: Run, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Compiled(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            return Once.apply(self.network(images))

    plain = run(spec(method, epochs=2))
    monkeypatch.setattr(torch, "compile", Compiled)
    compiled = run(spec(method, epochs=2, compile=True))
    assert compiled["status"] == plain["status"] != "FAILED", compiled.get("reason")
    for name in ("accuracy", "gradient_cosine"):
        assert column(compiled, name) == column(plain, name)


def test_a_surrogate_of_a_wrong_shape_is_told(spec: Spec, run: Run, plugin: Callable[[str], str]) -> None:
    source = """
    class Wrong(PruningMethod):
        def select(self, epoch):
            return Selection(torch.arange(self.task.k))

        def surrogate(self):
            return torch.ones(3)
    """
    result = run(spec(plugin(source)))
    assert result["reason"].startswith("Wrong.surrogate(epoch=0) must return weights (90,)"), result["reason"]
    assert "got shape (3,) (plugin_" in result["reason"]


def test_probes_come_at_their_epochs(spec: Spec, run: Run) -> None:
    result = run(spec("uniform", epochs=5, probe={"every": 2, "samples": 30}))
    assert ["gradient_norm" in record for record in result["epochs"]] == [True, False, True, False, True]
    norms = [record["gradient_norm"] for record in result["epochs"] if "gradient_norm" in record]
    assert result["metrics"]["gradient_norm"] == norms[-1]


def test_jaccard_of_epochs(spec: Spec, run: Run) -> None:
    result = run(spec("uniform_epoch", keep=0.4))
    chosen = [set(rows.tolist()) for rows in selections(result)]
    expected = [len(a & b) / len(a | b) for a, b in pairwise(chosen)]
    assert [record["jaccard_epochs"] for record in result["epochs"][1:]] == pytest.approx(expected)
    assert result["metrics"]["jaccard_epochs"] == pytest.approx(np.mean(expected))
    assert result["metrics"]["jaccard_epochs_chance"] == pytest.approx(0.4 / (2 - 0.4))
    assert "jaccard_epochs" not in result["epochs"][0]
    assert run(spec("uniform", keep=0.4))["metrics"]["jaccard_epochs"] == 1


@pytest.mark.parametrize(
    ("a", "b", "expected"), [([0, 1], [1, 2], 1 / 3), ([0], [0], 1.0), ([0], [1], 0.0), ([], [], 1.0), ([], [3], 0.0)]
)
def test_jaccard(a: list[int], b: list[int], expected: float) -> None:
    masks = [mask(torch.tensor(rows, dtype=torch.int64), 4) for rows in (a, b)]
    assert probes.jaccard(*masks) == pytest.approx(expected)


def test_jaccard_chance_is_what_independent_draws_give() -> None:
    rng = generator(0, "test")
    found = [probes.jaccard(mask(sample(500, 200, rng), 500), mask(sample(500, 100, rng), 500)) for _ in range(300)]
    assert probes.jaccard_chance(200, 100, 500) == pytest.approx(np.mean(found), abs=0.003)
    assert probes.jaccard_chance(0, 0, 5) == 1


# budgets


@pytest.mark.parametrize("method", ["full", "uniform_epoch", "orderdp", "infobatch", "selective_backprop"])
def test_a_budget_of_steps_is_spent_exactly(spec: Spec, run: Run, method: str) -> None:
    result = run(spec(method, budget={"unit": "steps"}))
    assert result["metrics"]["optimizer_steps"] == -(-N // BATCH) * EPOCHS
    assert result["metrics"]["epochs"] >= EPOCHS


def test_full_training_spends_its_steps_in_its_epochs(spec: Spec, run: Run) -> None:
    """A last batch of one joins the one before it, in the budget too."""
    result = run(spec("full", dataset="synthetic[n=54,n_test=20,d=16,classes=4]", budget={"unit": "steps"}))
    assert column(result, "samples_backward") == [49] * EPOCHS
    assert column(result, "optimizer_steps") == [3] * EPOCHS


@pytest.mark.parametrize("method", ["full", "uniform", "infobatch", "full_short"])
def test_a_budget_of_samples_is_spent_to_one_batch(spec: Spec, run: Run, method: str) -> None:
    used = run(spec(method, budget={"unit": "samples"}))["metrics"]["samples_backward"]
    assert N * EPOCHS <= used < N * EPOCHS + BATCH


@pytest.mark.parametrize("keep", [0.3, 0.5, 1.0])
def test_infobatch_that_matches_the_cost_spends_keep_to_one_batch(spec: Spec, run: Run, keep: float) -> None:
    result = run(spec("infobatch[match=cost,r=0.5]", keep=keep, epochs=12))
    used, wanted = result["metrics"]["samples_backward"], keep * N * 12
    assert wanted <= used < wanted + BATCH
    kept = column(result, "samples_backward")
    assert kept[0] == N, "nothing was seen yet"
    pruned = [sum(kept[:epoch]) <= 0.875 * wanted for epoch in range(len(kept))]
    assert [rows < N for rows in kept[1:-1]] == pruned[1:-1], "the last eighth of the samples is of all data"
    assert run(spec("infobatch[match=cost]", budget={"unit": "samples"}))["metrics"]["samples_backward"] >= N * EPOCHS


def test_the_schedule_follows_the_samples_spent(spec: Spec, trained: Callable[[RunSpec], Any]) -> None:
    inner = trained(spec("infobatch[match=cost]", keep=0.5, schedule="cosine", lr=1.0, epochs=8))
    spent = sum(record["samples_backward"] for record in inner.records)
    before = (spent - len(inner.selections[-1]) % BATCH) / (
        0.5 * N * 8
    )  # at the start of the last step, if it is short
    rate = inner.learner.optimizer.param_groups[0]["lr"]
    assert rate <= (1 + np.cos(np.pi * (before - BATCH / (0.5 * N * 8)))) / 2
    assert rate < 0.05


def test_a_budget_of_time_ends(spec: Spec, run: Run) -> None:
    result = run(spec("uniform", budget={"unit": "time", "seconds": 0.05}, epochs=1000))
    assert result["status"] == "FINISHED"
    assert 1 <= result["metrics"]["epochs"] < 1000


def test_the_schedule_runs_over_what_is_really_trained(spec: Spec, trained: Callable[[RunSpec], Any]) -> None:
    for method in ("full", "uniform", "full_short", "infobatch"):
        inner = trained(spec(method, schedule="cosine", lr=1.0, epochs=4))
        last = inner.records[-1]["optimizer_steps"]
        progress = 1 - 1 / (last * len(inner.records))
        rate = inner.learner.optimizer.param_groups[0]["lr"]
        assert rate == pytest.approx((1 + np.cos(np.pi * progress)) / 2)


# failures


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("made:Raising[call=setup]", "Raising.setup raised ValueError: on purpose, in two lines"),
        ("made:Raising[call=epochs]", "Raising.epochs raised ValueError: on purpose, in two lines"),
        ("made:Raising[call=select]", "Raising.select(epoch=1) raised ValueError: on purpose, in two lines"),
        ("made:Raising[call=pick]", "Raising.pick(epoch=0) raised ValueError: on purpose, in two lines"),
        ("made:Raising[call=observe]", "Raising.observe(epoch=0) raised ValueError: on purpose, in two lines"),
        ("made:Bad[answer=nothing]", "Bad.select(epoch=0) returned None, not a Selection"),
        ("made:Bad[answer=list]", "Bad.select(epoch=0) returned indices that are list"),
        ("made:Bad[answer=dtype]", "Bad.select(epoch=0) returned indices that are torch.int32 of shape (3,)"),
        ("made:Bad[answer=bool]", "Bad.select(epoch=0) returned indices that are torch.bool of shape (90,)"),
        ("made:Bad[answer=matrix]", "Bad.select(epoch=0) returned indices that are torch.int64 of shape (1, 3)"),
        ("made:Bad[answer=high]", "Bad.select(epoch=0) returned indices with 90, which is outside 0..89"),
        ("made:Bad[answer=low]", "Bad.select(epoch=0) returned indices with -1, which is outside 0..89"),
        ("made:Bad[answer=repeated]", "Bad.select(epoch=0) returned indices with 2 repeated"),
        ("made:Bad[answer=empty]", "Bad.select(epoch=0) selected no samples"),
        ("made:Bad[answer=length]", "Bad.select(epoch=0) returned weights of shape (4,) for indices of shape (3,)"),
        ("made:Bad[answer=negative]", "Bad.select(epoch=0) returned a weight that is negative or not finite"),
        ("made:Bad[answer=nan]", "Bad.select(epoch=0) returned a weight that is negative or not finite"),
        ("made:Bad[answer=whole]", "Bad.select(epoch=0) returned weights that are not a floating-point tensor"),
        ("made:Bad[answer=refresh]", "Bad.select(epoch=0) returned refresh with 90, which is outside 0..89"),
        ("made:Bad[answer=rate]", "Bad.select(epoch=0) returned lr_scale = nan; it must be positive and finite"),
        ("made:BadPick[answer=list]", "BadPick.pick(epoch=0) returned positions that are list"),
        ("made:BadPick[answer=high]", "BadPick.pick(epoch=0) returned positions with 90, which is outside 0..89"),
        ("made:BadPick[answer=negative]", "BadPick.pick(epoch=0) returned a weight that is negative or not finite"),
        ("made:Epochs[number=0]", "Epochs.epochs returned 0; a whole number, at least 1, is needed"),
    ],
)
def test_a_fault_fails_the_run_in_one_line(spec: Spec, run: Run, method: str, reason: str) -> None:
    result = run(spec(method, batch_size=N, probe={"every": 0}))
    assert result["status"] == "FAILED"
    assert result["reason"].startswith(reason)
    assert "\n" not in result["reason"]
    folder = store.run_folder(result["hash"])
    assert store.read_json(folder / "result.json") == json.loads(json.dumps(result))
    assert not (folder / "done").exists()


@pytest.mark.parametrize("method", ["made:Replayed[at=steps,signal=member]", "made:All[signal=member]"])
def test_a_signal_of_the_record_is_refused_where_there_is_none(spec: Spec, method: str) -> None:
    with pytest.raises(UsageError, match=r"the signal 'member' is of a proxy with at='end' or"):
        _ = spec(method).hash


def test_a_loss_that_explodes_has_diverged_for_good(spec: Spec, run: Run) -> None:
    exploding = spec("full", lr=1e30, epochs=2)
    result = run(exploding)
    assert result["status"] == "DIVERGED"
    assert re.fullmatch("the training loss became (nan|inf); a smaller learning rate may help", result["reason"])
    assert result["epochs"] == []
    assert "metrics" not in result
    assert sorted(p.name for p in store.run_folder(result["hash"]).iterdir()) == ["done", "lock", "result.json"]
    assert run(exploding)["ended"] == result["ended"], "it is not run again"


def test_the_epochs_before_a_divergence_are_kept(spec: Spec, run: Run, plugin: Callable[[str], str]) -> None:
    source = """
    class Exploding(PruningMethod):
        def select(self, epoch):
            rate = 1e30 if epoch == 2 else 1.0
            return Selection(torch.arange(self.task.n), lr_scale=rate)
    """
    result = run(spec(plugin(source)))
    assert (result["status"], column(result, "epoch")) == ("DIVERGED", [0, 1])


def test_a_proxy_that_diverges_is_named(spec: Spec, run: Run) -> None:
    result = run(spec("el2n[at_epoch=2]", lr=1e30))
    assert result["status"] == "DIVERGED"
    assert result["reason"].startswith("in the proxy the training loss became")


def blind(shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    """A model that sees nothing, so that it names one class for all."""
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Threshold(1e9, 0.0), torch.nn.Linear(shape[1] * shape[2], classes)
    )


def test_a_training_that_learnt_nothing_has_diverged(spec: Spec, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, blind)
    result = run(spec("full", model="blind", epochs=1))
    labels = loading.load_data(result["spec"]["dataset"], None).test.labels
    constant = int(labels.bincount().max()) / len(labels)
    assert result["metrics"]["accuracy"] <= constant
    assert result["status"] == "DIVERGED"
    assert re.fullmatch(r"test accuracy ended at .*%; naming the most frequent class has .*%", result["reason"])
    assert len(result["epochs"]) == 1
    assert (store.run_folder(result["hash"]) / "done").exists()


@pytest.mark.parametrize("unit", ["steps", "samples"])
def test_a_budget_that_cannot_be_spent_fails(spec: Spec, run: Run, unit: str) -> None:
    reason = run(spec("made:PickNone", budget={"unit": unit}))["reason"]
    assert reason == "PickNone trained on nothing in epoch 0: its budget is never spent"


def test_a_model_that_does_not_fit_fails_the_run(spec: Spec, run: Run) -> None:
    result = run(spec("full", model="cnn", dataset="synthetic[n=50,d=9,classes=3]"))
    assert result["reason"] == "cnn: images of 3 x 3 are too small for two poolings; use mlp"


# files


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    def break_off(file: Path) -> None:
        file.write_text("half")
        raise OSError("disk full")

    told = r"file.json could not be written: it was cut off \(disk full\); [\d,.]+ MB are free in .*deep"
    with pytest.raises(RunFailed, match=told):
        store.write(tmp_path / "deep" / "file.json", break_off)
    assert list((tmp_path / "deep").iterdir()) == []
    store.write_json(tmp_path / "file.json", {"a": float("nan"), "b": [float("inf"), (1.5, 2)], "c": "x"})
    assert store.read_json(tmp_path / "file.json") == {"a": None, "b": [None, [1.5, 2]], "c": "x"}
    assert store.read_json(tmp_path / "nowhere.json") is None


def test_selections_round_trip(tmp_path: Path) -> None:
    chosen = [torch.tensor([1, 5, 8]), torch.arange(0), torch.tensor([0])]
    path = tmp_path / "s.npz"
    Selections(chosen, 9, {"method": "x"}, torch.arange(9) + 2).write(path)
    found = Selections.read(path)
    assert found.n == 9
    assert [rows.tolist() for rows in found.epochs] == [rows.tolist() for rows in chosen]
    assert found.config == {"method": "x"}
    assert found.positions is not None
    assert found.positions.tolist() == list(range(2, 11))
    assert (found.weights, found.scores) == (None, None)


def test_the_digest_is_of_what_is_trained_on(tmp_path: Path) -> None:
    def made(rows: list[list[int]], n: int = 9, **others: Any) -> str:
        return Selections([torch.tensor(part) for part in rows], n, **({"config": {}} | others)).digest

    base = made([[1, 2], [3]])
    assert base == made([[1, 2], [3]], config={"seed": 1}, scores=torch.rand(9))
    weights = torch.tensor([1.0, 2.0, 1.0])
    changed = [made([[1, 2, 3]]), made([[1], [2, 3]]), made([[1, 2], [3]], 10), made([[1, 2], [3]], weights=weights)]
    assert len({base, *changed}) == 5


def test_a_changed_or_foreign_file_of_selections_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    Selections([torch.tensor([1, 5])], 9, {}).write(path)
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"indices": np.array([1, 6])})
    with pytest.raises(ValueError, match="does not have the hash"):
        Selections.read(path)
    np.savez(path, indices=np.arange(3))
    with pytest.raises(ValueError, match="not a file of selections: KeyError"):
        Selections.read(path)
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="not a file of selections"):
        Selections.read(path)


def test_the_artifact_names_its_configuration(spec: Spec, run: Run) -> None:
    result = run(spec("uniform"))
    with np.load(store.run_folder(result["hash"]) / "selections.npz") as file:
        config = json.loads(str(file["config"]))
    assert config["hash"] == result["hash"]
    assert RunSpec.model_validate({key: value for key, value in config.items() if key != "hash"}) == spec("uniform")
    assert {"dpbench", "torch", "commit", "python"} <= result["environment"].keys()
    assert result["hyperparameters"] == catalog.load_method("uniform").hyperparameters()


def test_a_class_without_samples_has_no_accuracy_and_no_share_kept() -> None:
    values = account._by_class(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 3]), 4)
    assert values == [0.5, None, None, 1.0]


class OneMissing(Dataset):
    """Three classes, of which the test samples have two."""

    def read(self, root: Path | None) -> tuple[Images, Images]:
        images, labels = torch.arange(60).to(torch.uint8).view(60, 1, 1, 1) * 4, torch.arange(60) % 3
        seen = labels < 2
        return Images(images, labels), Images(images[seen], labels[seen])


def test_the_worst_class_is_one_that_the_test_samples_have(
    spec: Spec, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = OneMissing().load()
    wanted = spec("full", data=data.fingerprint)
    monkeypatch.setattr(loading, "load_data", lambda dataset, root: data)
    half = data.test.labels.numpy() / np.float16(2)

    def always_right(learner: Any, loader: Any) -> Predictions:
        return Predictions(loader.labels.numpy(), loader.labels.numpy(), half, half)

    monkeypatch.setattr(runner, "predict", always_right)
    found = run(wanted)["diagnostics"]
    assert found["accuracy_per_class"] == [1.0, 1.0, None]
    assert found["accuracy_worst_class"] == 1.0


def test_accuracy_is_that_of_the_trained_model_on_the_test_set(
    spec: Spec, run: Run, trained: Callable[[RunSpec], Any]
) -> None:
    inner, result = trained(spec("orderdp")), run(spec("orderdp"))
    accuracy, loss = evaluate(inner.learner, inner.test)
    assert (result["metrics"]["accuracy"], result["metrics"]["loss_test"]) == (accuracy, loss)
    assert len(inner.test) == 50
    assert torch.equal(inner.test.labels, inner.data.test.labels)
