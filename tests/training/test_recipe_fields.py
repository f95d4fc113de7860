"""The recipe's fields that change a step or an epoch, against their definition or the library's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dpbench import store
from dpbench.errors import UsageError
from dpbench.grid_file import read_grid
from dpbench.images import ImageLoader, Images
from dpbench.optim import Step, optimizer, set_step
from dpbench.setting import Budget
from dpbench.spec import Recipe, RunSpec
from dpbench.training import probes
from dpbench.training.ledger import Epoch
from dpbench.training.mixing import mixer
from dpbench.training.pace import Pace
from dpbench.training.train import Learner, Recorder, evaluate, train_epoch
from dpbench.training.workload import Classification

CPU = torch.device("cpu")
N, C = 12, 3
RNG = torch.Generator().manual_seed(1)
LOGITS, LABELS = torch.randn(6, C, generator=RNG), torch.tensor([0, 1, 2, 0, 1, 2])
Spec = Callable[..., RunSpec]
Run = Callable[..., dict[str, Any]]


def recipe(**changes: Any) -> Recipe:
    plain = {"epochs": 1, "batch_size": 4, "lr": 0.5, "schedule": "linear", "weight_decay": 0.0}
    return Recipe(**(plain | changes))


def learner(**changes: Any) -> Learner:
    made = recipe(**changes)
    return Learner("mlp[width=5,depth=1]", made, Classification(C, made), (1, 2, 3), 0, CPU)


@pytest.fixture(scope="module")
def loader() -> ImageLoader:
    images = torch.randint(256, (N, 1, 2, 3), generator=RNG).to(torch.uint8)
    return ImageLoader(Images(images, torch.arange(N) % C), images, CPU)


def parameters(of: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in of.parameters()]).clone()


def epoch(of: Learner, loader: ImageLoader, size: int, guide: Recorder | None = None) -> Epoch:
    pace = Pace(of.recipe, 2)
    pace.start(0)
    return train_epoch(of, loader, torch.arange(N).split(size), pace, guide or Recorder())


# criteria


@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_bce_of_each_sample_is_timms(smoothing: float, threshold: float | None) -> None:
    work = Classification(C, recipe(loss="bce", label_smoothing=smoothing, bce_threshold=threshold))
    losses = work.losses(LOGITS, LABELS)
    timms = BinaryCrossEntropy(smoothing, threshold)
    assert losses.shape == LABELS.shape
    for i in range(len(LABELS)):
        torch.testing.assert_close(losses[i], timms(LOGITS[i : i + 1], LABELS[i : i + 1]))
    torch.testing.assert_close(losses.mean(), timms(LOGITS, LABELS))


def test_no_constant_answer_has_a_smaller_bce_than_unlearnt_says() -> None:
    labels, work = torch.tensor([0, 0, 1]), Classification(2, recipe(loss="bce"))
    constant = work.losses(torch.tensor([2 / 3, 1 / 3]).logit().expand(3, 2), labels).mean()
    assert work.unlearnt(0.5, labels, float(constant) + 1e-4, labels) is not None
    assert work.unlearnt(0.5, labels, float(constant) - 1e-4, labels) is None


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_mixed_loss_is_lam_of_its_own_and_the_rest_of_its_partners(kind: str, smoothing: float, loss: str) -> None:
    made = recipe(loss=loss, label_smoothing=smoothing, **{kind: 0.7})
    torch.manual_seed(3)
    images = torch.rand(6, 1, 8, 8)
    mixed, shares = mixer(made, C)(images, LABELS)
    partner = LABELS.roll(1)
    lam = shares[0, 0]  # of the first sample, whose partner has another class
    assert 0 < lam < 1
    work = Classification(C, made)
    expected = lam * work.losses(LOGITS, LABELS) + (1 - lam) * work.losses(LOGITS, partner)
    torch.testing.assert_close(work.losses(LOGITS, shares), expected)
    if kind == "mixup":
        torch.testing.assert_close(mixed, lam * images + (1 - lam) * images.roll(1, 0))
    else:
        own, others = mixed == images, mixed == images.roll(1, 0)
        assert (own | others).all()
        assert float(own.float().mean()) == pytest.approx(float(lam)), "lam is the share of its own pixels"


def test_a_threshold_is_of_the_mixed_target() -> None:
    work = Classification(C, recipe(loss="bce", bce_threshold=0.2, mixup=1.0))
    both = F.binary_cross_entropy_with_logits(LOGITS[:1], torch.tensor([[1.0, 0.0, 1.0]]))
    torch.testing.assert_close(work.losses(LOGITS[:1], torch.tensor([[0.7, 0.0, 0.3]]))[0], both)
    only = F.binary_cross_entropy_with_logits(LOGITS[:1], torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(work.losses(LOGITS[:1], torch.tensor([[0.9, 0.0, 0.1]]))[0], only)


def test_some_batches_are_mixed_by_either_kind_and_a_single_sample_never() -> None:
    images, mix = torch.rand(6, 1, 8, 8), mixer(recipe(mixup=1.0, cutmix=1.0, mix_prob=0.5), C)
    torch.manual_seed(0)
    plain = blended = cut = 0
    for _ in range(60):
        mixed, labels = mix(images, LABELS)
        if labels.dim() == 1:
            assert torch.equal(mixed, images)
            plain += 1
        elif (mixed == images).any():
            cut += 1
        else:
            blended += 1
    assert 15 < plain < 45
    assert min(blended, cut) > 5
    assert mixer(recipe(mixup=1.0), C)(images[:1], LABELS[:1])[1].dim() == 1
    state = torch.get_rng_state()
    assert mixer(recipe(), C)(images, LABELS)[1] is LABELS
    assert torch.equal(state, torch.get_rng_state()), "without mixing nothing is drawn"


def test_what_a_method_observes_is_the_loss_that_is_trained_on(loader: ImageLoader) -> None:
    of, guide = learner(mixup=0.7, label_smoothing=0.1), Recorder(frozenset({"loss"}))
    torch.manual_seed(5)
    done = epoch(of, loader, 4, guide)
    again = learner(mixup=0.7, label_smoothing=0.1)
    torch.manual_seed(5)
    inputs, labels = loader.batch(torch.arange(4))
    mixed, shares = mixer(again.recipe, C)(inputs, labels)
    expected = F.cross_entropy(again.model(mixed), shares, reduction="none", label_smoothing=0.1)
    rows, values = guide.passed[0]
    assert rows.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(values["loss"], expected.detach())
    torch.testing.assert_close(done.losses[0], values["loss"].mean())


GRID = "datasets: [{0}]\nmodels: [{1}]\nmethods: [{2}]\nkeep: [0.5]\nseeds: 1\nrecipe: {3}\n"
MIXED = "{epochs: 2, batch_size: 8, lr: 0.1, cutmix: 1.0}"


@pytest.mark.parametrize(
    ("dataset", "model", "method", "message"),
    [
        ("digits", "cnn", '"orderdp[score=margin]"', "cutmix mixes samples, and margin in a training step is of one"),
        ("digits", "cnn", "forgetting", "cutmix mixes samples, and correct in a training step is of one"),
        ("diamonds", "mlp", "full", "diamonds with full: cutmix is for images, not for tables"),
    ],
)
def test_mixing_is_refused_where_it_means_nothing(dataset: str, model: str, method: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_grid(GRID.format(dataset, model, method, MIXED), "g.yaml", "g").runs()


@pytest.mark.parametrize("method", ["full", "orderdp", "selective_backprop", '"el2n[at_epoch=1]"'])
def test_mixing_is_for_all_that_read_the_loss_or_see_whole_samples(method: str) -> None:
    assert read_grid(GRID.format("digits", "cnn", method, MIXED), "g.yaml", "g").runs()


# precision


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_passes_are_in_half_precision_and_losses_and_signals_in_float32(
    loader: ImageLoader, precision: str, dtype: torch.dtype
) -> None:
    of = learner(precision=precision)
    images, labels = loader.batch(torch.arange(4))
    needs = frozenset({"loss", "margin", "embedding", "grad_norm"})
    losses, values = of.measure(images, labels, needs)
    with torch.autocast("cpu", dtype):
        logits = of.network(images)
    assert logits.dtype == dtype
    torch.testing.assert_close(losses, F.cross_entropy(logits.float(), labels, reduction="none"))
    assert {losses.dtype, *(value.dtype for value in values.values())} == {torch.float32}
    assert {p.dtype for p in of.network.parameters()} == {torch.float32}


def test_fp16_scales_the_loss_and_not_the_step(loader: ImageLoader) -> None:
    of, plain = learner(precision="fp16", clip=0.01), learner(clip=0.01)
    assert of.scaler.get_scale() > 1
    for one in (of, plain):
        epoch(one, loader, N)
    torch.testing.assert_close(parameters(of.network), parameters(plain.network), rtol=0, atol=1e-4)
    assert not torch.equal(parameters(of.network), parameters(learner().network))


def test_a_probe_of_fp16_loses_no_small_gradient(loader: ImageLoader) -> None:
    small = torch.full((N,), 1e-9)
    found, plain = (
        probes.probe_gradient(of, loader, [torch.arange(N)], lambda rows: (small[rows], N), N)
        for of in (learner(precision="fp16"), learner())
    )
    assert found == plain
    assert found.cosine == pytest.approx(1)


def test_a_step_that_overflows_in_fp16_is_left_out(loader: ImageLoader) -> None:
    of = learner(precision="fp16")
    before, scale = parameters(of.network), of.scaler.get_scale()
    of.backward(of.measure(*loader.batch(torch.arange(4)), frozenset())[0].mean() * 1e38)
    of.step(Step(0.1, 0.9))
    assert torch.equal(parameters(of.network), before)
    assert of.scaler.get_scale() == scale / 2


def test_the_flag_of_before_is_bf16() -> None:
    assert recipe(precision="bf16").model_dump()["amp"] is True
    assert recipe().model_dump()["amp"] is False
    assert "precision" not in recipe(precision="bf16").model_dump()
    for precision in ("fp32", "bf16", "fp16"):
        made = recipe(precision=precision)
        assert Recipe.model_validate(made.model_dump()) == made
        assert made.precision == precision
    with pytest.raises(ValidationError, match="amp"):
        recipe(amp=True, precision="fp16")


# accumulation, average, layers


@pytest.mark.parametrize("together", [2, 3, 4])
def test_accumulated_batches_are_one_large_batch(loader: ImageLoader, together: int) -> None:
    """12 samples in batches of 2: the last step of 4 at a time follows two."""
    small, large = learner(accumulate=together, clip=0.5), learner(clip=0.5)
    done, expected = epoch(small, loader, 2), epoch(large, loader, 2 * together)
    torch.testing.assert_close(parameters(small.network), parameters(large.network))
    assert (done.steps, done.forward, done.backward) == (expected.steps, N, N)
    assert len(done.trained) == 6
    assert small.optimizer.param_groups[0]["lr"] == large.optimizer.param_groups[0]["lr"]


def test_a_step_of_unequal_batches_weighs_samples_alike(loader: ImageLoader) -> None:
    small, large = learner(accumulate=3), learner()
    epoch(small, loader, 5)  # 5, 5 and 2
    epoch(large, loader, N)
    torch.testing.assert_close(parameters(small.network), parameters(large.network))


def test_a_ledger_counts_accumulated_batches_as_one_step(spec: Spec, run: Run) -> None:
    result = run(spec("full", keep=1.0, accumulate=4, probe={"every": 0}))  # 6 batches of 16 or less
    assert [record["optimizer_steps"] for record in result["epochs"]] == [2] * 4
    budgeted = run(spec("uniform", keep=0.5, accumulate=4, probe={"every": 0}, budget={"unit": "steps"}))
    assert budgeted["metrics"]["optimizer_steps"] == 8
    assert len(budgeted["epochs"]) == 8, "3 batches are one step"


def test_the_average_is_averaged_model_and_what_is_evaluated(loader: ImageLoader) -> None:
    of = learner(ema=0.6)
    expected = AveragedModel(learner().network, multi_avg_fn=get_ema_multi_avg_fn(0.6), use_buffers=True)
    reference = learner()
    for size in (5, 4, 3):
        reference.recipe, pace = of.recipe, Pace(of.recipe, 2)
        pace.start(0)
        epoch(of, loader, size)
        for step, part in enumerate(parts := torch.arange(N).split(size)):
            reference.backward(reference.measure(*loader.batch(part), frozenset())[0].mean())
            reference.step(pace.at(step / len(parts), Epoch()) or Step(0, 0))
            expected.update_parameters(reference.network)
    torch.testing.assert_close(parameters(of.evaluated), parameters(expected.module))
    assert not torch.equal(parameters(of.evaluated), parameters(of.network))
    images, labels = loader.batch(torch.arange(N))
    loss = F.cross_entropy(of.evaluated(images).detach(), labels)
    assert evaluate(of, loader)[1] == pytest.approx(float(loss))


def test_layers_below_have_a_smaller_rate_as_in_timm() -> None:
    import timm
    from timm.optim import param_groups_layer_decay

    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=12, depth=2, num_heads=2, num_classes=3)
    made = optimizer(vit, recipe(optimizer="adamw", layer_decay=0.5, decay_norms=False, weight_decay=0.1))
    set_step(made, Step(0.8, 0.9))
    expected = param_groups_layer_decay(vit, 0.1, vit.no_weight_decay(), layer_decay=0.5)
    assert [group["lr"] for group in made.param_groups] == [0.8 * group["lr_scale"] for group in expected]
    assert [len(group["params"]) for group in made.param_groups] == [len(group["params"]) for group in expected]
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in made.param_groups for p in group["params"]}
    assert rates[id(vit.head.weight)] == (0.8, 0.1)
    assert rates[id(vit.blocks[1].attn.qkv.weight)] == (0.4, 0.1)
    assert rates[id(vit.blocks[0].norm1.weight)] == (0.2, 0.0)
    assert rates[id(vit.pos_embed)] == (0.1, 0.0)


def test_layer_decay_needs_named_layers() -> None:
    with pytest.raises(UsageError, match="layer_decay is for models of timm, which name their layers, not for Linear"):
        optimizer(nn.Linear(2, 2), recipe(layer_decay=0.5, decay_norms=False))


# budgets and batch sizes


def test_iterations_are_the_steps_whatever_is_kept(spec: Spec, run: Run) -> None:
    for keep in (0.2, 1.0):
        result = run(spec("uniform", keep=keep, probe={"every": 0}, budget={"iterations": 13}))
        assert result["metrics"]["optimizer_steps"] == 13
    assert Budget(iterations=13) == Budget(unit="steps", iterations=13)
    assert Budget().model_dump() == {"unit": "epochs", "seconds": None}, "runs from before keep their names"
    with pytest.raises(ValidationError, match="iterations are steps, not samples"):
        Budget(unit="samples", iterations=3)


def test_the_batch_may_depend_on_the_keep(spec: Spec, run: Run) -> None:
    sizes = {0.2: 8, 0.1: 4}
    made = recipe(batch_size_at=sizes)
    assert [made.at(keep).batch_size for keep in (1.0, 0.21, 0.2, 0.15, 0.1, 0.05)] == [4, 4, 8, 8, 4, 4]
    assert Recipe.model_validate(made.model_dump(mode="json")) == made
    result = run(spec("uniform", keep=0.2, batch_size_at=sizes, probe={"every": 0}))
    assert [record["optimizer_steps"] for record in result["epochs"]] == [3] * 4, "18 samples in batches of 8"


# a whole run


ALL = {"precision": "fp16", "mixup": 0.5, "cutmix": 0.5, "mix_prob": 0.8, "accumulate": 2, "ema": 0.9, "loss": "bce"}


def test_a_stopped_run_with_all_of_them_continues_bit_for_bit(
    spec: Spec, run: Run, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = spec("orderdp", keep=0.8, **ALL)
    whole = run(wanted)
    monkeypatch.setenv("DPBENCH_HOME", str(tmp_path / "stopped"))

    def crash(record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(wanted, checkpoint_s=0.0, on_epoch=crash)
    assert (store.run_folder(wanted.hash) / "checkpoint.pt").is_file()
    again = run(wanted)
    for name in ("loss_train", "loss_test", "accuracy", "samples_backward"):
        assert [r[name] for r in again["epochs"]] == [r[name] for r in whole["epochs"]], name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bce_threshold": 0.2}, "bce_threshold is for the loss bce, not for cross_entropy"),
        ({"mix_prob": 0.5}, "mix_prob is for mixup and cutmix, of which there is none"),
        ({"layer_decay": 0.5}, "layer_decay leaves norms and biases undecayed, as timm does; write decay_norms: false"),
        ({"precision": "fp8"}, "'fp32', 'bf16' or 'fp16'"),
        ({"batch_size_at": {0.2: True}}, "valid integer"),
    ],
)
def test_an_impossible_mixture_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**changes)
