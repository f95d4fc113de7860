"""The batch sampler: exact epochs with any DataLoader, weights, state, resumes, sharding, and clear errors."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from forks import on_ranks
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dpbench import IndexedDataset, Picks, PruningMethod, PruningSampler, Requires, Selection, Signals, load_method
from dpbench.errors import RunFailed, UsageError
from dpbench.signals import compute

N, EPOCHS = 103, 4


def losses_of(indices: Tensor, epoch: int) -> Tensor:
    """Losses that differ by sample and epoch."""
    return torch.sin(indices.double() * (epoch + 1)).float() + 1


def drive(sampler: PruningSampler, epochs: range, **options: object) -> list[list[list[int]]]:
    """Iterate as a training does; return the batches of each epoch as the loader delivers them."""
    loader = DataLoader(TensorDataset(torch.arange(N)), batch_sampler=sampler, **options)  # type: ignore[arg-type]
    seen = []
    for epoch in epochs:
        batches = []
        for step, (indices,) in enumerate(loader):
            assert torch.equal(indices, sampler.batch(step))
            sampler.observe(indices, losses_of(indices, epoch))
            batches.append(indices.tolist())
        assert len(batches) == len(loader)
        seen.append(batches)
    return seen


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_two_methods_in_one_process_end_every_epoch(workers: int, drop_last: bool) -> None:
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    make = {"n": N, "epochs": EPOCHS, "batch_size": 8, "keep": 0.5, "drop_last": drop_last}
    order = drive(PruningSampler("orderdp", **make), range(EPOCHS), **options)
    batch = drive(PruningSampler("infobatch", **make), range(EPOCHS), **options)
    k = round(0.5 * N)
    for epoch in order:
        count = sum(map(len, epoch))
        assert count == (k // 8 * 8 if drop_last else k)
        assert len({i for part in epoch for i in part}) == count
        assert all(len(part) == 8 for part in epoch[: k // 8])
    assert sum(map(len, batch[0])) == (N // 8 * 8 if drop_last else N)  # nothing is known yet
    assert sum(map(len, batch[1])) < N
    assert sum(map(len, batch[3])) == (N // 8 * 8 if drop_last else N)  # 4 x 0.875 epochs prune, the last does not


def test_workers_do_not_change_the_samples() -> None:
    runs = [
        drive(PruningSampler("orderdp", n=N, epochs=EPOCHS, batch_size=8, keep=0.3), range(EPOCHS), num_workers=workers)
        for workers in (0, 2)
    ]
    assert runs[0] == runs[1]


def test_seed_decides() -> None:
    def first(seed: int) -> list[list[list[int]]]:
        return drive(PruningSampler("uniform_epoch", n=N, epochs=1, batch_size=8, seed=seed), range(1))

    assert first(0) == first(0) != first(1)


def test_unfinished_epoch_is_followed_by_the_next() -> None:
    sampler = PruningSampler("uniform_epoch", n=N, epochs=EPOCHS, batch_size=8)
    next(iter(sampler))
    iter(sampler)  # never advanced, as a DataLoader with workers does: no epoch
    next(iter(sampler))
    assert sampler.epoch == 1


def test_weights_reduce_to_the_weighted_mean() -> None:
    sampler = PruningSampler("infobatch", n=N, epochs=EPOCHS, batch_size=N, keep=0.5)
    everything = next(iter(sampler))
    losses = losses_of(torch.tensor(everything), 0)
    sampler.observe(torch.tensor(everything), losses)
    kept = torch.tensor(next(iter(sampler)))
    below = losses_of(kept, 0) < losses_of(torch.arange(N), 0).mean()
    m = int((losses < losses.mean()).sum())
    expected = torch.where(below, m / int(0.5 * m), 1.0)
    assert torch.allclose(sampler.weights(kept), expected)
    loss = torch.rand(len(kept), requires_grad=True)
    reduced = sampler.reduce(loss, kept)
    reduced.backward()
    assert torch.allclose(loss.grad, expected / len(kept))


@pytest.mark.parametrize("stop", range(1, EPOCHS))
def test_state_continues_bit_for_bit(stop: int) -> None:
    make = {"n": N, "epochs": EPOCHS, "batch_size": 8, "keep": 0.3}
    whole = drive(PruningSampler("orderdp", **make), range(EPOCHS))
    sampler = PruningSampler("orderdp", **make)
    drive(sampler, range(stop))
    resumed = PruningSampler("orderdp", seed=99, **make)
    resumed.load_state_dict(sampler.state_dict())
    assert drive(resumed, range(stop, EPOCHS)) == whole[stop:]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_shards_are_equal_and_cover_the_epoch(replicas: int, drop_last: bool) -> None:
    samplers = [
        PruningSampler(
            "uniform", n=N, epochs=1, batch_size=4, keep=0.5, rank=rank, replicas=replicas, drop_last=drop_last
        )
        for rank in range(replicas)
    ]
    shards = [[i for batch in sampler for i in batch] for sampler in samplers]
    assert len({len(shard) for shard in shards}) == 1
    union = {i for shard in shards for i in shard}
    whole = {i for batch in PruningSampler("uniform", n=N, epochs=1, batch_size=4, keep=0.5) for i in batch}
    assert union == whole if not drop_last else union <= whole and len(union) == sum(map(len, shards))


def test_more_ranks_than_samples_still_have_equal_shards() -> None:
    lengths = [
        [len(b) for b in PruningSampler("full", n=1, epochs=1, batch_size=4, rank=rank, replicas=4)]
        for rank in range(4)
    ]
    assert lengths == [[1]] * 4


def test_static_method_asks_for_its_proxy() -> None:
    sampler = PruningSampler("el2n", n=N, epochs=1, batch_size=8, keep=0.2)
    with pytest.raises(UsageError, match=r"EL2N chooses by a proxy's .* by replay\(\) .*, one after epoch 1 of"):
        next(iter(sampler))
    scores = losses_of(torch.arange(N), 0)
    sampler.replay(error_norm=scores)
    chosen = {i for batch in sampler for i in batch}
    assert chosen == set(scores.topk(round(0.2 * N)).indices.tolist())


def test_all_passes_of_the_proxy_are_asked_for() -> None:
    sampler = PruningSampler("el2n[runs=2]", n=N, epochs=1, batch_size=8, keep=0.2)
    sampler.replay(error_norm=torch.ones(N), run=0)
    with pytest.raises(UsageError, match="1 of 2 passes were given"):
        next(iter(sampler))
    with pytest.raises(UsageError, match=rf"'error_norm' of shape \(3,\) for {N} samples; \({N},\) is needed"):
        sampler.replay(error_norm=torch.ones(3), run=1)


def test_a_proxy_ends_with_the_run() -> None:
    sampler = PruningSampler("forgetting", n=N, epochs=2, batch_size=8, keep=0.2)
    sampler.replay(correct=torch.ones(N))
    told = "one for each of 2 epochs of .*; the method wants 30 epochs, but a proxy ends with the 2 of the run .1 of 2"
    with pytest.raises(UsageError, match=told):
        next(iter(sampler))
    sampler.replay(correct=torch.zeros(N), epoch=1)
    assert len(next(iter(sampler))) == 8


@pytest.mark.parametrize("method", ["el2n", "grand", "moderate", "moso", "memorization[runs=2]"])
def test_a_replay_computes_what_the_method_needs(method: str) -> None:
    labels = torch.arange(N) % 3
    logits, embedding = torch.randn(N, 3), torch.randn(N, 5)
    extra = {"learning_rate": 0.1, "member": (torch.arange(N) % 2).float()}
    extra = {name: extra[name] for name in load_method(method).requires().signals & extra.keys()}
    one, two = (PruningSampler(method, n=N, epochs=1, batch_size=8, keep=0.2, labels=labels) for _ in range(2))
    loss = F.cross_entropy(logits, labels, reduction="none")
    whole = compute(one.method.requires().signals - extra.keys(), logits, labels, loss, embedding)
    whole |= {name: torch.as_tensor(value).expand(N).clone() for name, value in extra.items()}
    proxy = one.method.requires().proxy
    assert proxy is not None
    for run in range(proxy.seeds):
        one.replay(logits=logits, embedding=embedding, run=run, **extra)
        two.replay(run=run, **whole)
    assert list(one) == list(two)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("infobatch", {}, "InfoBatch has no proxy to replay"),
        ("el2n", {"run": 1}, "EL2N wants 1 runs of its proxy, counted from 0; run = 1 is none"),
        ("el2n", {"epoch": 4}, "EL2N wants 1 passes of a run of its proxy; epoch 4 is one more"),
        ("el2n", {"epoch": -1}, "epoch = -1; a whole number of at least 0 is needed"),
        ("el2n", {"error_norm": None}, "'error_norm' of type NoneType; a floating-point tensor is needed"),
        ("grand[layers=all]", {}, "needs the signals full_grad_norm: .*; record_proxy measures a proxy's"),
    ],
)
def test_what_cannot_be_replayed_is_told(method: str, options: dict[str, Any], message: str) -> None:
    sampler = PruningSampler(method, n=N, epochs=1, batch_size=8, labels=torch.zeros(N, dtype=torch.int64))
    good = {"error_norm": torch.rand(N)}
    if method == "el2n":
        sampler.replay(**good)
    with pytest.raises(UsageError, match=message):
        sampler.replay(**good | options)


def test_reduce_lets_a_batch_level_method_pick() -> None:
    sampler = PruningSampler("big_loss", n=N, epochs=1, batch_size=10, keep=0.5)
    batch = torch.tensor(next(iter(sampler)))
    losses = losses_of(batch, 0).requires_grad_()
    loss = sampler.reduce(losses, batch)
    largest = losses.detach().topk(round(0.5 * len(batch))).values
    assert loss.item() == pytest.approx(largest.mean().item())
    loss.backward()
    assert losses.grad is not None
    assert int(losses.grad.count_nonzero()) == len(largest)


def test_a_method_of_fewer_epochs_is_refused() -> None:
    with pytest.raises(UsageError, match="FullShort trains 3 of 10 epochs; use 'full' with epochs=3"):
        PruningSampler("full_short", n=N, epochs=10, batch_size=8, keep=0.3)


def test_a_method_that_ends_by_its_samples_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^InfoBatch trains until its samples are spent; a sampler counts epochs$"):
        PruningSampler("infobatch[match=cost]", n=N, epochs=10, batch_size=8)


@pytest.mark.parametrize("stop", range(1, EPOCHS))
def test_length_after_a_resume_is_that_of_the_next_epoch(stop: int) -> None:
    make = {"n": N, "epochs": EPOCHS, "batch_size": 8, "keep": 0.5}
    sampler = PruningSampler("infobatch", **make)
    drive(sampler, range(stop))
    resumed = PruningSampler("infobatch", **make)
    resumed.load_state_dict(sampler.state_dict())
    length = len(resumed)
    assert length == len(list(resumed)) == len(list(sampler))


def test_signals_come_from_logits() -> None:
    labels = torch.arange(N) % 3
    logits = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    sampler = PruningSampler("orderdp[score=entropy]", n=N, epochs=2, batch_size=8, labels=labels)
    with pytest.raises(UsageError, match=r"OrderDP needs the signals entropy: give them by name, or give logits="):
        sampler.observe(torch.arange(N), losses)
    next(iter(sampler))
    sampler.observe(torch.arange(N), losses, logits=logits)
    next(iter(sampler))
    assert torch.allclose(sampler.method.scores, compute({"entropy"}, logits, labels, losses, None)["entropy"])  # type: ignore[attr-defined]


def test_pick_answers_with_positions_in_the_batch() -> None:
    sampler = PruningSampler("big_loss", n=N, epochs=1, batch_size=10, keep=0.5)
    batch = torch.tensor(next(iter(sampler)))
    losses = losses_of(batch, 0)
    positions, weights = sampler.pick(batch, losses)
    assert weights is None
    assert set(positions.tolist()) == set(losses.topk(len(positions)).indices.tolist())
    assert len(positions) == round(0.5 * len(batch))


def test_a_method_object_serves_too() -> None:
    by_name = drive(PruningSampler("orderdp[explore=0.9]", n=N, epochs=2, batch_size=8), range(2))
    by_object = drive(PruningSampler(load_method("orderdp[explore=0.9]"), n=N, epochs=2, batch_size=8), range(2))
    assert by_name == by_object


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": 0.0}, "keep = 0.0 is outside"),
        ({"n": 0}, "n = 0; a whole number of at least 1"),
        ({"rank": 2, "replicas": 2}, "rank = 2 is outside 0..1"),
        ({"labels": torch.zeros(3)}, r"labels have shape \(3,\)"),
        ({"n": 10.5}, "n = 10.5; a whole number"),
        ({"seed": -1}, "seed = -1; a whole number of at least 0"),
        ({"keep": float("nan")}, "keep = nan is outside"),
        ({"keep": "0.5"}, "keep = '0.5' is outside"),
    ],
)
def test_bad_arguments_are_told(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PruningSampler("uniform", **({"n": N, "epochs": 1, "batch_size": 8} | changes))  # type: ignore[arg-type]


# what a loop gives


@pytest.mark.parametrize("method", ["uniform_epoch", "infobatch", "orderdp", "ucb"])
def test_losses_of_one_column_are_taken_as_they_are(method: str) -> None:
    sampler = PruningSampler(method, n=64, epochs=4, batch_size=8)
    next(iter(sampler))
    losses = torch.rand(8)
    for given in (losses, losses[:, None]):
        assert sampler.reduce(given, sampler.batch(0)) == losses.mean()
    single = PruningSampler("full", n=1, epochs=1, batch_size=8)
    next(iter(single))
    assert single.reduce(torch.tensor([[2.0]]), single.batch(0)) == 2


@pytest.mark.parametrize("method", ["uniform_epoch", "infobatch", "big_loss"])
@pytest.mark.parametrize("shape", [(8, 8), (8, 5), (), (1,), (16,), (1, 8), (8, 1, 1), (0,)])
def test_losses_of_any_other_shape_are_refused(method: str, shape: tuple[int, ...]) -> None:
    sampler = PruningSampler(method, n=64, epochs=4, batch_size=4 if method == "big_loss" else 8)
    next(iter(sampler))
    rows = sampler.batch(0)[:8]
    for call in (sampler.reduce, lambda losses, rows: sampler.observe(rows, losses)):
        with pytest.raises(UsageError) as caught:
            call(torch.rand(shape), rows)
        assert f"losses of shape {shape} for 8 samples; (8,) is needed" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"losses of type torch\.int64; a floating-point tensor"):
        sampler.reduce(torch.ones(8, dtype=torch.int64), rows)


@pytest.mark.parametrize("method", ["uniform_epoch", "infobatch", "big_loss"])
def test_a_regression_learns_the_same_from_one_column(method: str) -> None:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]]) + 1

    def weight(squeeze: bool) -> Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        sampler = PruningSampler(method, n=64, epochs=3, batch_size=16)
        for _ in range(3):
            for step, (a, b) in enumerate(DataLoader(TensorDataset(x, y), batch_sampler=sampler)):
                losses = F.mse_loss(model(a), b, reduction="none")
                optimizer.zero_grad()
                sampler.reduce(losses.squeeze(1) if squeeze else losses, sampler.batch(step)).backward()
                optimizer.step()
        return model.weight.detach()

    assert torch.equal(weight(True), weight(False))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 1], "that are list; a tensor of int64"),
        (torch.tensor([0, 1], dtype=torch.int32), "that are torch.int32"),
        (torch.tensor([0.0, 1.0]), "that are torch.float32"),
        (torch.tensor([True, False]), "that are torch.bool"),
        (torch.tensor([[0, 1]]), "that are torch.int64 of shape (1, 2)"),
        (torch.tensor([0, N]), "with 103, which is outside 0..102"),
        (torch.tensor([-1, 0]), "with -1, which is outside"),
    ],
)
def test_what_are_no_samples_is_refused(indices: Tensor, message: str) -> None:
    sampler = PruningSampler("big_loss", n=N, epochs=2, batch_size=8)
    losses = torch.rand(2)
    for call in (
        lambda: sampler.reduce(losses, indices),
        lambda: sampler.observe(indices, losses),
        lambda: sampler.pick(indices, losses),
        lambda: sampler.weights(indices),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert message in str(caught.value)


def test_samples_of_another_epoch_are_refused() -> None:
    sampler = PruningSampler("uniform_epoch", n=N, epochs=2, batch_size=8)
    rows = {i for batch in sampler for i in batch}
    outside = torch.tensor([next(i for i in range(N) if i not in rows)])
    with pytest.raises(UsageError, match=rf"sample {int(outside)} is not trained on in epoch 0.*IndexedDataset"):
        sampler.reduce(torch.rand(1), outside)
    sampler.observe(outside, torch.rand(1))  # as refreshed samples are


def test_batch_tells_only_what_was_drawn() -> None:
    sampler = PruningSampler("full", n=32, epochs=2, batch_size=8)
    with pytest.raises(UsageError, match=r"step 0 of epoch -1, of which 0 batches were drawn"):
        sampler.batch(0)
    drawn = iter(sampler)
    first = next(drawn)
    assert sampler.batch(0).tolist() == first
    for step in (1, -1):
        with pytest.raises(UsageError, match=f"step {step} of epoch 0, of which 1 batches were drawn"):
            sampler.batch(step)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"entropy": torch.rand(8, 3)}, r"'entropy' of shape \(8, 3\) for 8 samples; \(8,\) is needed"),
        ({"entropy": torch.rand(7)}, r"'entropy' of shape \(7,\) for 8 samples"),
        ({"entrpy": torch.rand(8)}, "unknown signal 'entrpy'; known: loss"),
        ({"logits": torch.rand(8)}, r"'logits' of shape \(8,\) for 8 samples; \(8, d\) is needed"),
        ({"logits": torch.rand(8, 2)}, "logits of 2 classes; labels go to 2"),
    ],
)
def test_signals_of_a_wrong_shape_are_refused(values: dict[str, Tensor], message: str) -> None:
    sampler = PruningSampler("orderdp[score=entropy]", n=N, epochs=2, batch_size=8, labels=torch.arange(N) % 3)
    with pytest.raises(UsageError, match=message):
        sampler.observe(torch.arange(8), torch.rand(8), **values)
    sampler.observe(torch.arange(8), torch.rand(8), entropy=torch.rand(8, 1))


def test_a_static_method_needs_no_signals_once_it_has_selected() -> None:
    sampler = PruningSampler("el2n", n=N, epochs=1, batch_size=8, keep=0.2)
    sampler.replay(error_norm=torch.rand(N, 1))
    next(iter(sampler))
    losses = torch.rand(8)
    assert sampler.reduce(losses, sampler.batch(0)) == losses.mean()


IDS = torch.arange(40) % 4


@pytest.mark.parametrize(
    "labels",
    [
        IDS,
        IDS.int(),
        IDS.to(torch.uint8),
        IDS.tolist(),
        IDS.numpy(),
        np.arange(40, dtype=np.uint16) % 4,
        tuple(IDS.tolist()),
    ],
)
def test_class_ids_are_taken(labels: object) -> None:
    sampler = PruningSampler("uniform[balanced=true]", n=40, epochs=1, batch_size=8, labels=labels)  # type: ignore[arg-type]
    assert sampler.task.labels is not None
    assert sampler.task.labels.dtype == torch.int64
    assert torch.equal(sampler.task.labels, IDS)
    sampler.task.labels.zero_()
    assert IDS.sum() == 60, "the caller's labels are the caller's"


def test_bools_are_two_classes() -> None:
    sampler = PruningSampler("full", n=40, epochs=1, batch_size=8, labels=IDS > 1)
    assert torch.equal(sampler.task.labels, (IDS > 1).long())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.rand(40), "labels are torch.float32"),
        (torch.full((40,), float("nan")), "labels are torch.float32"),
        (torch.arange(40).double(), "labels are torch.float64"),
        (np.linspace(0, 1, 40), "labels are torch.float64"),
        ([0.5] * 40, "labels are torch.float64"),
        (torch.tensor([0, 1, -100, 2] * 10), "labels hold -100"),
        (torch.arange(40) * 10**9, "labels hold 39000000000"),
        (np.full(40, 2**64 - 1, dtype=np.uint64), "labels hold -1"),
        (torch.eye(4)[IDS], "labels have shape (40, 4)"),
        (IDS[:, None], "labels have shape (40, 1)"),
        (IDS[:39], "labels have shape (39,)"),
        (["a", "b"] * 20, "labels are str"),
        ([None] * 40, "labels are NoneType"),
        ([[0], [0, 1]] * 20, "labels are list"),
    ],
)
def test_what_are_no_class_ids_is_refused(labels: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        PruningSampler("rcap", n=40, epochs=1, batch_size=8, labels=labels)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# batches


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("method", ["uniform_epoch", "full", "big_loss"])
def test_no_batch_has_one_sample(method: str, replicas: int) -> None:
    for n in range(6, 40):
        for rank in range(replicas):
            sampler = PruningSampler(method, n=n, epochs=1, batch_size=4, rank=rank, replicas=replicas)
            sizes = [len(batch) for batch in sampler]
            assert min(sizes) > 1 or sizes == [1], (n, rank, sizes)


def test_batches_of_one_are_made_where_they_are_asked_for() -> None:
    assert [len(batch) for batch in PruningSampler("full", n=5, epochs=1, batch_size=1)] == [1] * 5


def test_batch_normalisation_trains_to_the_end() -> None:
    data = TensorDataset(torch.randn(130, 8), torch.randint(0, 3, (130,)))
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 3))
    sampler = PruningSampler("uniform_epoch", n=130, epochs=2, batch_size=64)
    for _ in range(2):
        for step, (x, y) in enumerate(DataLoader(data, batch_sampler=sampler)):
            sampler.reduce(F.cross_entropy(model(x), y, reduction="none"), sampler.batch(step)).backward()


class Chooses(PruningMethod):
    """Selects nothing, or all and picks nothing."""

    empty: bool = False

    def requires(self) -> Requires:
        return Requires({"loss"})

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(0 if self.empty else self.task.n))

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        # the second of several ranks picks nothing, and who is alone
        return Picks(torch.arange(len(signals) if os.environ.get("RANK") == "0" else 0))


def test_epochs_of_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^UniformEpoch keeps 5 samples in epoch 0.*drop_last.*batches of 8$"):
        list(PruningSampler("uniform_epoch", n=10, epochs=2, batch_size=8, drop_last=True))
    with pytest.raises(UsageError, match=r"keeps 1 samples in epoch 0, 0 of them on this rank"):
        list(
            PruningSampler("uniform_epoch", n=10, epochs=2, batch_size=2, keep=0.1, rank=0, replicas=4, drop_last=True)
        )
    with pytest.raises(RunFailed, match=r"^Chooses\.select\(epoch=0\) selected no samples \(test_sampler"):
        list(PruningSampler(Chooses(empty=True), n=10, epochs=2, batch_size=2))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_pick_of_nothing_moves_no_weight(optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    weight = torch.ones(1, requires_grad=True)
    more = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    steps = optimizer([weight], 0.1, weight_decay=0.1, **more)
    weight.square().sum().backward()
    steps.step()  # so that there is momentum
    steps.zero_grad()
    moved = weight.item()
    sampler = PruningSampler(Chooses(), n=8, epochs=2, batch_size=4)
    for batch in sampler:
        loss = sampler.reduce(weight * torch.rand(len(batch)), torch.tensor(batch))
        assert loss.item() == 0
        assert loss.is_leaf
        loss.backward()
        steps.step()
        steps.zero_grad()
    assert weight.item() == moved


def test_exceptions_of_a_method_name_it_and_the_call() -> None:
    with pytest.raises(
        RunFailed, match=r"^RCAP\.setup raised ValueError: rcap needs the labels of the s.*\(rcap\.py, line"
    ):
        PruningSampler("rcap", n=40, epochs=1, batch_size=8)
    sampler = PruningSampler("big_loss", n=N, epochs=1, batch_size=10)
    sampler.method.pick = lambda signals, rng: 1 / 0  # type: ignore[method-assign]
    batch = torch.tensor(next(iter(sampler)))
    with pytest.raises(RunFailed, match=r"^BigLoss\.pick\(epoch=0\) raised ZeroDivisionError"):
        sampler.reduce(torch.rand(len(batch)), batch)


# going back and resuming


def epoch_of(sampler: PruningSampler) -> frozenset[int]:
    """Train one epoch; return its samples."""
    rows = [i for batch in sampler for i in batch]
    sampler.observe(torch.tensor(rows), torch.rand(len(rows)))
    return frozenset(rows)


@pytest.mark.parametrize("method", ["uniform_epoch", "orderdp", "ucb", "infobatch"])
def test_epochs_that_are_set_back_are_chosen_anew(method: str) -> None:
    sampler = PruningSampler(method, n=200, epochs=20, batch_size=20, keep=0.3)
    for _ in range(8):
        epoch_of(sampler)
    sampler.set_epoch(0)
    assert len({epoch_of(sampler) for _ in range(8)}) == 8
    assert sampler.epoch == 7
    again = []
    for _ in range(3):
        sampler.set_epoch(7)
        again.append(epoch_of(sampler))
    assert len(set(again)) == 3


def test_a_static_selection_stays_when_epochs_are_set_back() -> None:
    sampler = PruningSampler("uniform", n=200, epochs=20, batch_size=20)
    first = [epoch_of(sampler) for _ in range(2)]
    sampler.set_epoch(0)
    assert {*first, epoch_of(sampler)} == {first[0]}


def test_an_epoch_that_was_only_begun_keeps_its_batches() -> None:
    sampler = PruningSampler("uniform_epoch", n=N, epochs=4, batch_size=8)
    begun = next(iter(sampler))
    sampler.set_epoch(0)
    assert next(iter(sampler)) == begun


@pytest.mark.parametrize("ask", [False, True])
def test_an_epoch_resumed_has_the_same_batches(ask: bool) -> None:
    def make() -> PruningSampler:
        return PruningSampler("uniform_epoch", n=320, epochs=6, batch_size=16, keep=0.5)

    sampler = make()
    for _ in range(3):
        list(sampler)
    rest = iter(sampler)
    begun = [next(rest) for _ in range(5)]
    state = sampler.state_dict()
    whole = begun + list(rest)
    resumed = make()
    resumed.load_state_dict(state)
    if ask:
        assert len(resumed) == len(whole)
    resumed.set_epoch(3)
    assert list(resumed) == whole
    assert list(resumed) == list(sampler)


def test_asking_for_the_length_changes_nothing() -> None:
    plain, asked = (PruningSampler("uniform_epoch", n=N, epochs=9, batch_size=8) for _ in range(2))
    len(asked)
    for sampler in (plain, asked):
        sampler.set_epoch(5)
    len(asked)
    assert list(asked) == list(plain)


def test_picks_go_on_in_the_middle_of_an_epoch() -> None:
    def make() -> PruningSampler:
        return PruningSampler("selective_backprop", n=N, epochs=3, batch_size=4)

    def pick(sampler: PruningSampler, batch: list[int]) -> list[int]:
        rows = torch.tensor(batch)
        losses = losses_of(rows, sampler.epoch)
        positions, _ = sampler.pick(rows, losses)
        sampler.observe(rows, losses)
        return rows[positions].tolist()

    sampler = make()
    for batch in sampler:
        pick(sampler, batch)
    second = iter(sampler)
    for _ in range(3):
        pick(sampler, next(second))
    state = sampler.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    again = iter(resumed)
    for _ in range(3):
        next(again)
    assert [pick(resumed, batch) for batch in again] == [pick(sampler, batch) for batch in second]


def test_a_state_is_plain_and_checked(tmp_path: Path) -> None:
    sampler = PruningSampler("orderdp", n=N, epochs=4, batch_size=8)
    epoch_of(sampler)
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = PruningSampler("orderdp", n=N, epochs=4, batch_size=8)
    resumed.load_state_dict(state)
    assert list(resumed) == list(sampler)
    with pytest.raises(UsageError, match=f"the state is of n = {N}, not 9"):
        PruningSampler("orderdp", n=9, epochs=4, batch_size=8).load_state_dict(state)
    del state["driver"]
    with pytest.raises(UsageError, match="the state has no 'driver'"):
        resumed.load_state_dict(state)


# loaders that count or order for themselves


def accelerated(method: str = "uniform_epoch") -> tuple[PruningSampler, DataLoader]:
    accelerate = pytest.importorskip("accelerate")
    sampler = PruningSampler(method, n=80, epochs=6, batch_size=8)
    loader = DataLoader(TensorDataset(torch.arange(80)), batch_sampler=sampler)
    return sampler, accelerate.Accelerator(cpu=True).prepare(loader)


def trained(sampler: PruningSampler, loader: DataLoader) -> tuple[int, list[list[int]]]:
    seen = []
    for step, (rows,) in enumerate(loader):
        assert torch.equal(rows, sampler.batch(step))
        sampler.reduce(torch.rand(len(rows)), rows)
        seen.append(rows.tolist())
    return sampler.epoch, seen


@pytest.mark.parametrize("stop", [1, 3])
def test_a_prepared_loader_goes_on_after_a_resume(stop: int) -> None:
    sampler, loader = accelerated()
    whole = [trained(sampler, loader) for _ in range(6)]
    assert [epoch for epoch, _ in whole] == list(range(6))
    sampler, loader = accelerated()
    first = [trained(sampler, loader) for _ in range(stop)]
    state = sampler.state_dict()
    sampler, loader = accelerated()
    sampler.load_state_dict(state)
    len(loader)
    assert first + [trained(sampler, loader) for _ in range(6 - stop)] == whole
    _, loader = accelerated()
    trained(sampler, DataLoader(loader.dataset, batch_sampler=sampler))  # a loader that does not count
    assert sampler.epoch == 6
    sampler.set_epoch(0)  # a second stage
    assert trained(sampler, DataLoader(loader.dataset, batch_sampler=sampler))[0] == 0


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("prepared", [False, True])
def test_a_prepared_loader_resumes_within_an_epoch(epoch: int, prepared: bool) -> None:
    """As the Hugging Face Trainer does: skip the batches that were trained on, and set the epoch of the sampler."""
    accelerate = pytest.importorskip("accelerate")
    sampler, loader = accelerated()
    for _ in range(epoch):
        trained(sampler, loader)
    iterator = iter(loader)
    begun = [next(iterator)[0] for _ in range(2)]
    for rows in begun:
        sampler.reduce(torch.rand(len(rows)), rows)
    state = sampler.state_dict()
    rest = [rows.tolist() for (rows,) in iterator]
    following = trained(sampler, loader)
    sampler, loader = accelerated()
    loader = loader if prepared else DataLoader(loader.dataset, batch_sampler=sampler)
    sampler.load_state_dict(state)
    len(loader)
    skipping = accelerate.skip_first_batches(loader, 2)
    if prepared:
        skipping.set_epoch(epoch)
    sampler.set_epoch(epoch)
    assert [rows.tolist() for (rows,) in skipping] == rest
    if epoch:  # the loader itself still counts from 0
        assert trained(sampler, loader) == following


def test_ranks_are_not_shared_out_twice() -> None:
    data_loader = pytest.importorskip("accelerate.data_loader")
    sampler = PruningSampler("full", n=8, epochs=1, batch_size=2, rank=0, replicas=2)
    with pytest.raises(UsageError, match=r"leave its loader out of accelerator\.prepare"):
        data_loader.BatchSamplerShard(sampler, 2, 0)
    assert PruningSampler("full", n=8, epochs=1, batch_size=2).batch_size == 2


class Records(Dataset[dict[str, int]]):
    """Samples that are mappings, fetched a batch at a time, of which the last come late."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"square": index * index}

    def __getitems__(self, indices: list[int]) -> list[dict[str, int]]:
        return [{"square": i * i} for i in indices]


def test_indices_come_with_the_batch_in_any_order() -> None:
    sampler = PruningSampler("uniform_epoch", n=48, epochs=2, batch_size=4)
    loader = DataLoader(IndexedDataset(Records()), batch_sampler=sampler, num_workers=2, in_order=False)
    for _ in range(2):
        rows = []
        for batch in loader:
            assert torch.equal(batch["square"], batch["index"] ** 2)
            sampler.reduce(torch.rand(len(batch["index"])), batch["index"])
            rows += batch["index"].tolist()
        assert len(set(rows)) == 24


def test_samples_that_are_no_mappings_become_pairs() -> None:
    data = IndexedDataset(TensorDataset(torch.arange(10) * 3))
    assert len(data) == 10
    assert data[4] == (4, (torch.tensor(12),))
    indices, (values,) = next(iter(DataLoader(data, batch_size=4)))
    assert torch.equal(values, indices * 3)
    assert IndexedDataset([{"a": 1}])[0] == {"a": 1, "index": 0}
    with pytest.raises(UsageError, match="sample 0 has a key 'index' of its own"):
        IndexedDataset([{"index": 7}])[0]


# ranks


def _train_under_torchrun(rank: int) -> dict[str, Any]:
    """What a rank started by torchrun does: nothing tells the sampler of the ranks but the environment."""
    sampler = PruningSampler("orderdp", n=N, epochs=3, batch_size=8, keep=0.4)  # before the group
    rows = torch.tensor([i for batch in sampler for i in batch])
    sampler.observe(rows, losses_of(rows, 0))
    try:
        next(iter(sampler))
    except UsageError as error:
        alone = str(error)
    torch.distributed.init_process_group("gloo")
    ranks = {}
    for name, options in (("right", {"rank": rank, "replicas": 2}), ("wrong", {"rank": 0, "replicas": 1})):
        try:
            PruningSampler("orderdp", n=N, epochs=3, batch_size=8, **options)
        except UsageError as error:
            ranks[name] = str(error)
    sampler = PruningSampler("orderdp", n=N, epochs=3, batch_size=8, keep=0.4)  # with the group
    shards = []
    for epoch in range(3):
        if rank == 0:
            len(sampler)  # only one rank shows its progress
        rows = torch.tensor([i for batch in sampler for i in batch])
        sampler.observe(rows, losses_of(rows, epoch))
        shards.append(rows)
    picks = PruningSampler(Chooses(), n=16, epochs=1, batch_size=4)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
    for batch in picks:  # the second rank picks nothing and must not leave the first waiting
        model.zero_grad()
        picks.reduce(model(torch.ones(len(batch), 1)), torch.tensor(batch)).backward()
    gradient = model.module.bias.grad
    return {"alone": alone, "ranks": ranks, "shards": shards, "gradient": gradient}


def test_ranks_are_those_of_the_launcher(tmp_path: Path) -> None:
    a, b = on_ranks(2, _train_under_torchrun, tmp_path)
    for x, y in zip(a["shards"], b["shards"], strict=True):
        assert len(x) == len(y)
        assert len(torch.cat([x, y]).unique()) == round(0.4 * N)
    assert "call torch.distributed.init_process_group before" in a["alone"]
    assert a["ranks"] == {"wrong": "PruningSampler: replicas = 1, but torch.distributed has 2; leave both out"}
    assert b["ranks"] == {"wrong": "PruningSampler: rank = 0, but torch.distributed has 1; leave both out"}
    assert a["gradient"].item() == b["gradient"].item() == 0.5  # the mean of 1 and of nothing


@pytest.mark.parametrize(
    ("environment", "given", "found"),
    [
        ({}, {}, (0, 1)),
        ({}, {"rank": 2, "replicas": 3}, (2, 3)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, {}, (1, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, {"rank": 1, "replicas": 2}, (1, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, {"replicas": 1}, "replicas = 1, but the environment .* has 2"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, {"rank": 0}, "rank = 0, but the environment .* has 1"),
        (
            {"RANK": "x", "WORLD_SIZE": "2"},
            {},
            "PruningSampler: RANK='x', WORLD_SIZE='2' in the environment are no rank and number",
        ),
        (
            {"RANK": "2", "WORLD_SIZE": "2"},
            {},
            "PruningSampler: RANK='2', WORLD_SIZE='2' in the environment are no rank and number",
        ),
        ({"WORLD_SIZE": "2"}, {}, (0, 1)),
        ({}, {"replicas": 0}, "replicas = 0; a whole number of at least 1"),
        ({}, {"rank": 1}, r"rank = 1 is outside 0\.\.0"),
    ],
)
def test_ranks(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], given: dict[str, int], found: tuple[int, int] | str
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if isinstance(found, str):
        with pytest.raises(UsageError, match=found):
            PruningSampler("full", n=8, epochs=1, batch_size=2, **given)  # type: ignore[arg-type]
    else:
        sampler = PruningSampler("full", n=8, epochs=1, batch_size=2, **given)  # type: ignore[arg-type]
        assert (sampler.rank, sampler.replicas) == found


def _train_as_rank(rank: int) -> dict[str, Any]:
    """Three epochs of OrderDP on one of two ranks, each observing its own shard: what it trained on."""
    torch.distributed.init_process_group("gloo")
    sampler = PruningSampler("orderdp", n=N, epochs=3, batch_size=8, keep=0.4, rank=rank, replicas=2)
    shards = []
    for epoch in range(3):
        rows = torch.tensor([i for batch in sampler for i in batch])
        sampler.observe(rows, losses_of(rows, epoch))
        shards.append(rows)
    sampler._driver.tell()  # the last epoch's observations reach every rank too
    return {"shards": shards, "scores": sampler.method.scores}  # type: ignore[attr-defined]


def test_torch_distributed_ranks_stay_in_step(tmp_path: Path) -> None:
    a, b = on_ranks(2, _train_as_rank, tmp_path)
    assert torch.equal(a["scores"], b["scores"])
    for epoch, (x, y) in enumerate(zip(a["shards"], b["shards"], strict=True)):
        union = torch.cat([x, y]).unique()
        assert len(x) == len(y) == -(-round(0.4 * N) // 2), epoch
        assert len(union) == round(0.4 * N)
    seen = a["scores"].isfinite()
    assert torch.equal(seen.nonzero().squeeze(1), torch.cat(a["shards"] + b["shards"]).unique())


def _train_unevenly(rank: int, folder: str) -> dict[str, Any]:
    """Three epochs of OrderDP with workers that persist and steps of two batches, without and with a stop within."""
    torch.distributed.init_process_group("gloo")
    data = IndexedDataset(TensorDataset(torch.randn(N, 3, generator=torch.Generator().manual_seed(0))))

    def train(stop: int | None) -> tuple[Tensor, list[int]]:
        model = torch.nn.Linear(3, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        ddp = torch.nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
        sizes, done, epoch, skip = [], 0, 0, 0
        sampler, loader = start()
        while epoch < 3:
            for step, (rows, (x,)) in enumerate(loader):
                if step < skip:
                    continue
                two = (step + 1) % 2 == 0 or step + 1 == len(sampler)
                with nullcontext() if two else ddp.no_sync():
                    losses = (ddp(x).squeeze(1) - rows % 5).square()
                    (sampler.reduce(losses, rows) / 2).backward()
                if two:
                    optimizer.step()
                    optimizer.zero_grad()
                sizes.append(len(rows))
                done += 1
                if done == stop:
                    torch.save(sampler.state_dict(), f"{folder}/state-{rank}.pt")
                    sampler, loader = start()
                    sampler.load_state_dict(torch.load(f"{folder}/state-{rank}.pt"))
                    sampler.set_epoch(epoch)
                    skip = step + 1
                    break
            else:
                epoch, skip = epoch + 1, 0
        return torch.cat([model.weight.detach().flatten(), sampler.method.scores]), sizes  # type: ignore[attr-defined]

    def start() -> tuple[PruningSampler, DataLoader[Any]]:
        sampler = PruningSampler("orderdp", n=N, epochs=3, batch_size=4, keep=0.4)
        return sampler, DataLoader(data, batch_sampler=sampler, num_workers=1, persistent_workers=True)

    (plain, sizes), (resumed, _) = train(None), train(7)  # an epoch has 5 batches
    torch.distributed.barrier()
    try:
        start()[0].load_state_dict(torch.load(f"{folder}/state-{1 - rank}.pt"))
    except UsageError as error:
        return {"plain": plain, "resumed": resumed, "sizes": sizes, "other": str(error)}
    raise AssertionError("a state of the other rank was taken")


def test_ranks_accumulate_and_resume_within_an_epoch(tmp_path: Path) -> None:
    a, b = on_ranks(2, _train_unevenly, tmp_path, str(tmp_path))
    assert a["sizes"] == b["sizes"]
    assert a["sizes"] == [4, 4, 4, 4, 5] * 3, "21 samples each: the last one joins the batch before"
    assert torch.equal(a["plain"], a["resumed"])
    assert torch.equal(b["plain"], b["resumed"])
    assert torch.equal(a["plain"][:3], b["plain"][:3])
    assert "the state is of rank 1 of 2, not of rank 0 of 2; each rank saves and loads its own" in a["other"]


class Heard(PruningMethod):
    """Remember the last samples that it was told of."""

    def requires(self) -> Requires:
        return Requires({"loss"})

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(2))

    def observe(self, signals: Signals) -> None:
        self.told = signals.indices


def _tell_large_rows(rank: int) -> Tensor:
    torch.distributed.init_process_group("gloo")
    sampler = PruningSampler(Heard(), n=2**24 + 8, epochs=1, batch_size=4)
    rows = 2**24 + torch.tensor([2 * rank + 1, 2 * rank + 3])
    sampler.observe(rows, torch.rand(2))
    sampler._driver.start(0, 1.0)
    sampler._driver.tell()
    return sampler.method.told  # type: ignore[attr-defined]


def test_ranks_tell_each_other_rows_that_a_float_cannot_hold(tmp_path: Path) -> None:
    for told in on_ranks(2, _tell_large_rows, tmp_path):
        assert told.dtype == torch.int64
        assert told.tolist() == [2**24 + row for row in (1, 3, 3, 5)]
