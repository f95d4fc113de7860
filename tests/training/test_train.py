"""One epoch against its formula: the parameters after known steps, and exact counts."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dpbench.errors import Diverged
from dpbench.images import ImageLoader, Images
from dpbench.optim import Step
from dpbench.spec import Recipe
from dpbench.training.ledger import Epoch
from dpbench.training.pace import Pace
from dpbench.training.train import Learner, Recorder, evaluate, measure_all, predict, train_epoch
from dpbench.training.workload import Classification

CPU = torch.device("cpu")
RATE = 0.5
N, C = 12, 3
NEEDS = frozenset({"loss"})


def recipe(**changes: object) -> Recipe:
    """Plain SGD, so that a step is the learning rate times the gradient."""
    plain = {"epochs": 1, "batch_size": 4, "lr": 1.0, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    return Recipe(**(plain | changes))  # type: ignore[arg-type]


def learner(model: str = "mlp[width=5,depth=1]", seed: int = 0, **changes: object) -> Learner:
    made = recipe(**changes)
    return Learner(model, made, Classification(C, made), (1, 2, 3), seed, CPU)


@pytest.fixture(scope="module")
def loader() -> ImageLoader:
    images = torch.randint(256, (N, 1, 2, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return ImageLoader(Images(images, torch.arange(N) % C), images, CPU)


def parameters(of: Learner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in of.network.parameters()]).clone()


def gradients(of: Learner, loader: ImageLoader, rows: Tensor) -> Tensor:
    """The gradient of each sample's loss (b, p), one backward pass each."""
    found = []
    for row in rows:
        images, labels = loader.batch(row[None])
        loss = F.cross_entropy(of.model(images), labels, label_smoothing=of.recipe.label_smoothing)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(of.network.parameters()))]))
    return torch.stack(found)


class Always(Pace):
    """The same rate at each step, without an end."""

    def __init__(self) -> None:
        pass

    def at(self, share: float, done: Epoch) -> Step | None:
        return Step(RATE, 0.0)


class Picking(Recorder):
    """Picks as it is told, and records."""

    picks = True

    def __init__(self, needs: frozenset[str], pick: Callable[..., tuple[Tensor, Tensor | None]]) -> None:
        super().__init__(needs)
        self.pick = pick  # type: ignore[method-assign]


always, plain = Always(), Recorder()


# one step


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_step_follows_the_mean_gradient(loader: ImageLoader, smoothing: float) -> None:
    found, rows = learner(label_smoothing=smoothing), torch.tensor([3, 8, 1, 5])
    expected = parameters(found) - RATE * gradients(found, loader, rows).mean(0)
    done = train_epoch(found, loader, [rows], always, plain)
    torch.testing.assert_close(parameters(found), expected)
    assert (done.forward, done.backward, done.steps) == (4, 4, 1)
    assert done.trained[0].tolist() == [3, 8, 1, 5]


def test_weights_multiply_the_losses_and_the_batch_divides(loader: ImageLoader) -> None:
    found, rows = learner(), torch.tensor([3, 8, 1, 5])
    weights = torch.full((N,), 100.0)
    weights[rows] = torch.tensor([0.0, 2.0, 0.5, 1.0])
    expected = parameters(found) - RATE * (weights[rows][:, None] * gradients(found, loader, rows)).sum(0) / 4
    done = train_epoch(found, loader, [rows], always, plain, weights)
    torch.testing.assert_close(parameters(found), expected)
    assert done.backward == 4, "a weight of zero is still a sample sent backward"


@pytest.mark.parametrize("picked_weights", [None, torch.tensor([3.0, 0.5])])
@pytest.mark.parametrize("selected_weights", [None, torch.linspace(0.1, 2, N)])
def test_pick_sends_only_its_rows_backward(
    loader: ImageLoader, picked_weights: Tensor | None, selected_weights: Tensor | None
) -> None:
    found, rows = learner(), torch.tensor([3, 8, 1, 5])
    shown: list[tuple[Tensor, Tensor]] = []

    def pick(offered: Tensor, values: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        shown.append((offered, values["loss"]))
        return torch.tensor([2, 0]), picked_weights

    gradient = gradients(found, loader, torch.tensor([1, 3]))
    losses = measure_all(found, loader, rows, frozenset({"loss"}))[1]["loss"]
    weight = torch.ones(2)
    if picked_weights is not None:
        weight = weight * picked_weights
    if selected_weights is not None:
        weight = weight * selected_weights[torch.tensor([1, 3])]
    expected = parameters(found) - RATE * (weight[:, None] * gradient).sum(0) / 2
    guide = Picking(NEEDS, pick)
    done = train_epoch(found, loader, [rows], always, guide, selected_weights)
    torch.testing.assert_close(parameters(found), expected)
    assert shown[0][0].tolist() == rows.tolist()
    torch.testing.assert_close(shown[0][1], losses)
    assert (done.forward, done.backward, done.steps) == (6, 2, 1), "the offered rows and the picked ones again"
    assert done.trained[0].tolist() == [1, 3]
    assert guide.passed[0][0].tolist() == rows.tolist(), "all offered rows are observed"


@pytest.mark.parametrize("model", ["mlp[width=5,depth=1]", "resnet18"])
def test_a_batch_of_which_nothing_is_picked_leaves_no_trace(loader: ImageLoader, model: str) -> None:
    found = learner(model)
    before = {key: value.clone() for key, value in found.network.state_dict().items()}
    guide = Picking(NEEDS, lambda rows, values: (torch.arange(0), None))
    done = train_epoch(found, loader, [torch.arange(4), torch.arange(4, 8)], always, guide)
    assert all(torch.equal(value, before[key]) for key, value in found.network.state_dict().items())
    assert (done.forward, done.backward, done.steps, len(guide.passed)) == (8, 0, 0, 2)
    assert done.loss != done.loss, "there is no mean loss of no steps"


def test_a_single_sample_is_trained_on_with_the_running_statistics(loader: ImageLoader) -> None:
    """Batch normalisation cannot normalise one value by itself, and `pick` may leave one row."""
    found = learner("resnet18")
    statistics = {key: value.clone() for key, value in found.network.state_dict().items() if "running" in key}
    guide = Picking(NEEDS, lambda rows, values: (torch.tensor([0]), None))
    done = train_epoch(found, loader, [torch.arange(4), torch.tensor([5])], always, guide)
    assert (done.backward, done.steps) == (2, 2)
    assert all(torch.equal(found.network.state_dict()[key], value) for key, value in statistics.items())
    assert parameters(found).isfinite().all()
    train_epoch(found, loader, [torch.tensor([5]), torch.arange(4)], always, plain)
    assert not torch.equal(found.network.state_dict()["bn1.running_mean"], statistics["bn1.running_mean"])


# an epoch


def test_an_epoch_is_its_steps_and_signals_are_of_the_training_pass(loader: ImageLoader) -> None:
    found, reference = learner(), learner()
    parts = torch.randperm(N, generator=torch.Generator().manual_seed(2)).split(5)
    expected = []
    weights = parameters(reference)
    for part in parts:
        images, labels = loader.batch(part)
        expected.append(F.cross_entropy(reference.model(images), labels, reduction="none").detach())
        weights = weights - RATE * gradients(reference, loader, part).mean(0)
        torch.nn.utils.vector_to_parameters(weights, reference.network.parameters())
    guide = Recorder(NEEDS)
    done = train_epoch(found, loader, parts, always, guide)
    torch.testing.assert_close(parameters(found), weights)
    assert [rows.tolist() for rows, _ in guide.passed] == [part.tolist() for part in parts]
    for (_, values), losses in zip(guide.passed, expected, strict=True):
        torch.testing.assert_close(values["loss"], losses)
    assert (done.forward, done.backward, done.steps) == (N, N, 3)
    assert done.loss == pytest.approx(float(torch.stack([losses.mean() for losses in expected]).mean()))


def test_without_needs_nothing_is_observed(loader: ImageLoader) -> None:
    guide = Recorder()
    assert train_epoch(learner(), loader, [torch.arange(4)], always, guide).steps == 1
    assert guide.passed == []


def test_each_step_is_observed_as_it_was_made(loader: ImageLoader) -> None:
    found = learner()
    before = parameters(found)

    class Watching(Recorder):
        def observe(self, rows: Tensor, values: dict[str, Tensor]) -> None:
            assert not torch.equal(parameters(found), before), "after the step"
            super().observe(rows, values)

    guide = Watching(frozenset({"loss", "margin"}))
    train_epoch(found, loader, torch.arange(N).split(4), always, guide)
    assert [rows.tolist() for rows, _ in guide.passed] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert all(values.keys() == {"loss", "margin"} for _, values in guide.passed)


def test_the_schedule_is_asked_at_each_step_and_ends_the_epoch(loader: ImageLoader) -> None:
    asked: list[tuple[float, int]] = []

    class Short(Always):
        def at(self, share: float, done: Epoch) -> Step | None:
            asked.append((share, done.backward))
            return None if len(asked) == 3 else Step(0.1 * len(asked), 0.3 * len(asked))

    found = learner()
    done = train_epoch(found, loader, torch.arange(N).split(4), Short(), plain)
    assert asked == [(0, 0), (1 / 3, 4), (2 / 3, 8)]
    assert (done.forward, done.backward, done.steps) == (8, 8, 2)
    assert found.optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    assert found.optimizer.param_groups[0]["momentum"] == pytest.approx(0.6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(loader: ImageLoader, bad: float) -> None:
    weights = torch.ones(N)
    weights[2] = bad
    with pytest.raises(Diverged, match=r"^the training loss became (nan|inf); a smaller learning rate may help$"):
        train_epoch(learner(), loader, [torch.arange(4)], always, plain, weights)


# evaluation


@pytest.mark.parametrize("model", ["mlp[width=5,depth=1]", "resnet18"])
@pytest.mark.parametrize(
    "measure", [evaluate, predict, lambda *args: measure_all(*args, torch.arange(N), frozenset({"loss"}))]
)
def test_measuring_changes_nothing(loader: ImageLoader, model: str, measure: Callable[..., object]) -> None:
    found = learner(model)
    before = {key: value.clone() for key, value in found.network.state_dict().items()}
    measure(found, loader)
    for key, value in found.network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in found.network.parameters())


def test_evaluation_is_accuracy_and_mean_cross_entropy(loader: ImageLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpbench.training.train.EVALUATION_BATCH", 5)
    found = learner(label_smoothing=0.3)
    images, labels = loader.batch(torch.arange(N))
    logits = found.model(images).detach()
    accuracy, loss = evaluate(found, loader)
    said = predict(found, loader)
    correct = logits.argmax(1) == labels
    assert said.correct.tolist() == correct.tolist()
    assert said.labels.tolist() == labels.tolist()
    assert accuracy == sum(correct.tolist()) / N
    assert np.allclose(said.confidences, logits.softmax(1).max(1).values, atol=1e-3)
    assert np.allclose(np.exp(-said.losses.astype(float)), logits.softmax(1)[range(N), labels], atol=1e-3)
    assert loss == pytest.approx(float(F.cross_entropy(logits, labels)))
    rows, values = measure_all(found, loader, torch.tensor([4, 2, 9, 1, 0, 3]), frozenset({"correct"}))
    assert rows.tolist() == [4, 2, 9, 1, 0, 3]
    assert values["correct"].bool().tolist() == correct[[4, 2, 9, 1, 0, 3]].tolist()


def test_weights_of_one_seed_are_equal_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    one, two, other = learner(seed=4), learner(seed=4), learner(seed=5)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(parameters(one), parameters(two))
    assert not torch.equal(parameters(one), parameters(other))
