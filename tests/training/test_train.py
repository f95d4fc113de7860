"""One epoch against its formula: the parameters after known steps, and exact counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dpbench.data import Loader, Split
from dpbench.errors import Diverged
from dpbench.optim import Step
from dpbench.spec import Recipe
from dpbench.training.rows import Passed
from dpbench.training.train import Epoch, Learner, evaluate, measure_all, train_epoch

CPU = torch.device("cpu")
RATE = 0.5
N, C = 12, 3
NEEDS = frozenset({"loss"})


def recipe(**changes: object) -> Recipe:
    """Plain SGD, so that a step is the learning rate times the gradient."""
    plain = {"epochs": 1, "batch_size": 4, "lr": 1.0, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    return Recipe(**(plain | changes))  # type: ignore[arg-type]


def learner(model: str = "mlp[width=5,depth=1]", seed: int = 0, **changes: object) -> Learner:
    return Learner(model, recipe(**changes), (1, 2, 3), C, seed, CPU)


@pytest.fixture(scope="module")
def loader() -> Loader:
    images = torch.randint(256, (N, 1, 2, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return Loader(Split(images, torch.arange(N) % C), images, CPU)


def parameters(of: Learner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in of.network.parameters()]).clone()


def gradients(of: Learner, loader: Loader, rows: Tensor) -> Tensor:
    """The gradient of each sample's loss (b, p), one backward pass each."""
    found = []
    for row in rows:
        images, labels = loader.batch(row[None])
        loss = F.cross_entropy(of.model(images), labels, label_smoothing=of.recipe.label_smoothing)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(of.network.parameters()))]))
    return torch.stack(found)


def always(step: int, done: Epoch) -> Step:
    return Step(RATE, 0.0)


# one step


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_step_follows_the_mean_gradient(loader: Loader, smoothing: float) -> None:
    found, rows = learner(label_smoothing=smoothing), torch.tensor([3, 8, 1, 5])
    expected = parameters(found) - RATE * gradients(found, loader, rows).mean(0)
    done = train_epoch(found, loader, [rows], always)
    torch.testing.assert_close(parameters(found), expected)
    assert (done.forward, done.backward, done.steps) == (4, 4, 1)
    assert done.trained[0].tolist() == [3, 8, 1, 5]


def test_weights_multiply_the_losses_and_the_batch_divides(loader: Loader) -> None:
    found, rows = learner(), torch.tensor([3, 8, 1, 5])
    weights = torch.full((N,), 100.0)
    weights[rows] = torch.tensor([0.0, 2.0, 0.5, 1.0])
    expected = parameters(found) - RATE * (weights[rows][:, None] * gradients(found, loader, rows)).sum(0) / 4
    done = train_epoch(found, loader, [rows], always, weights=weights)
    torch.testing.assert_close(parameters(found), expected)
    assert done.backward == 4, "a weight of zero is still a sample sent backward"


@pytest.mark.parametrize("picked_weights", [None, torch.tensor([3.0, 0.5])])
@pytest.mark.parametrize("selected_weights", [None, torch.linspace(0.1, 2, N)])
def test_pick_sends_only_its_rows_backward(
    loader: Loader, picked_weights: Tensor | None, selected_weights: Tensor | None
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
    passed: list[Passed] = []
    done = train_epoch(found, loader, [rows], always, NEEDS, selected_weights, pick, lambda *seen: passed.append(seen))
    torch.testing.assert_close(parameters(found), expected)
    assert shown[0][0].tolist() == rows.tolist()
    torch.testing.assert_close(shown[0][1], losses)
    assert (done.forward, done.backward, done.steps) == (6, 2, 1), "the offered rows and the picked ones again"
    assert done.trained[0].tolist() == [1, 3]
    assert passed[0][0].tolist() == rows.tolist(), "all offered rows are observed"


@pytest.mark.parametrize("model", ["mlp[width=5,depth=1]", "resnet18"])
def test_a_batch_of_which_nothing_is_picked_leaves_no_trace(loader: Loader, model: str) -> None:
    found = learner(model)
    before = {key: value.clone() for key, value in found.network.state_dict().items()}
    passed: list[Passed] = []
    done = train_epoch(
        found,
        loader,
        [torch.arange(4), torch.arange(4, 8)],
        always,
        needs=NEEDS,
        pick=lambda rows, values: (torch.arange(0), None),
        observe=lambda *seen: passed.append(seen),
    )
    assert all(torch.equal(value, before[key]) for key, value in found.network.state_dict().items())
    assert (done.forward, done.backward, done.steps, len(passed)) == (8, 0, 0, 2)
    assert done.loss != done.loss, "there is no mean loss of no steps"


def test_a_single_sample_is_trained_on_with_the_running_statistics(loader: Loader) -> None:
    """Batch normalisation cannot normalise one value by itself, and `pick` may leave one row."""
    found = learner("resnet18")
    statistics = {key: value.clone() for key, value in found.network.state_dict().items() if "running" in key}
    done = train_epoch(
        found,
        loader,
        [torch.arange(4), torch.tensor([5])],
        always,
        needs=frozenset({"loss"}),
        pick=lambda rows, values: (torch.tensor([0]), None),
    )
    assert (done.backward, done.steps) == (2, 2)
    assert all(torch.equal(found.network.state_dict()[key], value) for key, value in statistics.items())
    assert parameters(found).isfinite().all()
    train_epoch(found, loader, [torch.tensor([5]), torch.arange(4)], always)
    assert not torch.equal(found.network.state_dict()["bn1.running_mean"], statistics["bn1.running_mean"])


# an epoch


def test_an_epoch_is_its_steps_and_signals_are_of_the_training_pass(loader: Loader) -> None:
    found, reference = learner(), learner()
    parts = torch.randperm(N, generator=torch.Generator().manual_seed(2)).split(5)
    expected = []
    weights = parameters(reference)
    for part in parts:
        images, labels = loader.batch(part)
        expected.append(F.cross_entropy(reference.model(images), labels, reduction="none").detach())
        weights = weights - RATE * gradients(reference, loader, part).mean(0)
        torch.nn.utils.vector_to_parameters(weights, reference.network.parameters())
    passed: list[Passed] = []
    done = train_epoch(found, loader, parts, always, needs=NEEDS, observe=lambda *seen: passed.append(seen))
    torch.testing.assert_close(parameters(found), weights)
    assert [rows.tolist() for rows, _ in passed] == [part.tolist() for part in parts]
    for (_, values), losses in zip(passed, expected, strict=True):
        torch.testing.assert_close(values["loss"], losses)
    assert (done.forward, done.backward, done.steps) == (N, N, 3)
    assert done.loss == pytest.approx(float(torch.stack([losses.mean() for losses in expected]).mean()))


def test_without_needs_nothing_is_observed(loader: Loader) -> None:
    def observe(*_: object) -> None:
        pytest.fail("nothing was measured")

    assert train_epoch(learner(), loader, [torch.arange(4)], always, observe=observe).steps == 1


def test_each_step_is_observed_as_it_was_made(loader: Loader) -> None:
    steps: list[Passed] = []
    found = learner()
    before = parameters(found)

    def observe(*passed: Any) -> None:
        assert not torch.equal(parameters(found), before), "after the step"
        steps.append(passed)

    train_epoch(found, loader, torch.arange(N).split(4), always, needs=frozenset({"loss", "margin"}), observe=observe)
    assert [rows.tolist() for rows, _ in steps] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert all(values.keys() == {"loss", "margin"} for _, values in steps)


def test_the_schedule_is_asked_at_each_step_and_ends_the_epoch(loader: Loader) -> None:
    asked: list[tuple[int, int]] = []

    def schedule(step: int, done: Epoch) -> Step | None:
        asked.append((step, done.backward))
        return None if step == 2 else Step(0.1 * (step + 1), 0.3 * (step + 1))

    found = learner()
    done = train_epoch(found, loader, torch.arange(N).split(4), schedule)
    assert asked == [(0, 0), (1, 4), (2, 8)]
    assert (done.forward, done.backward, done.steps) == (8, 8, 2)
    assert found.optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    assert found.optimizer.param_groups[0]["momentum"] == pytest.approx(0.6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(loader: Loader, bad: float) -> None:
    weights = torch.ones(N)
    weights[2] = bad
    with pytest.raises(Diverged, match=r"^the training loss became (nan|inf); a smaller learning rate may help$"):
        train_epoch(learner(), loader, [torch.arange(4)], always, weights=weights)


# evaluation


@pytest.mark.parametrize("model", ["mlp[width=5,depth=1]", "resnet18"])
@pytest.mark.parametrize("measure", [evaluate, lambda *args: measure_all(*args, torch.arange(N), frozenset({"loss"}))])
def test_measuring_changes_nothing(loader: Loader, model: str, measure: Callable[..., object]) -> None:
    found = learner(model)
    before = {key: value.clone() for key, value in found.network.state_dict().items()}
    measure(found, loader)
    for key, value in found.network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in found.network.parameters())


def test_evaluation_is_accuracy_and_mean_cross_entropy(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpbench.training.train.EVALUATION_BATCH", 5)
    found = learner(label_smoothing=0.3)
    images, labels = loader.batch(torch.arange(N))
    logits = found.model(images).detach()
    accuracy, loss, correct = evaluate(found, loader)
    assert correct.tolist() == (logits.argmax(1) == labels).tolist()
    assert accuracy == sum(correct.tolist()) / N
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
