"""The batch sampler: exact epochs with any DataLoader, weights, state, sharding, and clear errors."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dpbench import PruningSampler, load_method
from dpbench.errors import UsageError
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
    resumed.seed = 0  # the order's seed is configuration; the method's generator comes from the state
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
    with pytest.raises(UsageError, match="EL2N is static: give it its proxy's signals by replay"):
        next(iter(sampler))
    scores = losses_of(torch.arange(N), 0)
    sampler.replay({"error_norm": scores})
    chosen = {i for batch in sampler for i in batch}
    assert chosen == set(scores.topk(round(0.2 * N)).indices.tolist())


def test_all_passes_of_the_proxy_are_asked_for() -> None:
    sampler = PruningSampler("el2n[runs=2]", n=N, epochs=1, batch_size=8, keep=0.2)
    sampler.replay({"error_norm": torch.ones(N)}, run=0)
    with pytest.raises(UsageError, match="1 of 2 passes were given"):
        next(iter(sampler))
    with pytest.raises(UsageError, match=f"error_norm has 3 rows; one for each of the n = {N} samples"):
        sampler.replay({"error_norm": torch.ones(3)}, run=1)


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
        ({"n": 0}, "n = 0; at least 1"),
        ({"rank": 2, "replicas": 2}, "rank = 2 is outside 0..1"),
        ({"labels": torch.zeros(3)}, r"labels have shape \(3,\)"),
    ],
)
def test_bad_arguments_are_told(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PruningSampler("uniform", **({"n": N, "epochs": 1, "batch_size": 8} | changes))  # type: ignore[arg-type]


def _train_as_rank(rank: int, store: str, results: str) -> None:
    """Two epochs of OrderDP on one of two ranks, each observing its own shard; saves what it trained on."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    sampler = PruningSampler("orderdp", n=N, epochs=3, batch_size=8, keep=0.4, rank=rank, replicas=2)
    shards = []
    for epoch in range(3):
        rows = torch.tensor([i for batch in sampler for i in batch])
        sampler.observe(rows, losses_of(rows, epoch))
        shards.append(rows)
    sampler._flush()  # the last epoch's observations reach every rank too
    torch.save({"shards": shards, "scores": sampler.method.scores}, f"{results}/{rank}.pt")  # type: ignore[attr-defined]
    torch.distributed.destroy_process_group()


def test_torch_distributed_ranks_stay_in_step(tmp_path: Path) -> None:
    arguments = (str(tmp_path / "store"), str(tmp_path))
    torch.multiprocessing.spawn(_train_as_rank, arguments, nprocs=2)
    a, b = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(a["scores"], b["scores"])
    for epoch, (x, y) in enumerate(zip(a["shards"], b["shards"], strict=True)):
        union = torch.cat([x, y]).unique()
        assert len(x) == len(y) == -(-round(0.4 * N) // 2), epoch
        assert len(union) == round(0.4 * N)
    seen = a["scores"].isfinite()
    assert torch.equal(seen.nonzero().squeeze(1), torch.cat(a["shards"] + b["shards"]).unique())
