"""Each signal against autograd or brute force."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dpbench import signals
from dpbench.embedding import head
from dpbench.errors import UsageError
from dpbench.spec import Recipe
from dpbench.training.train import Learner
from dpbench.training.workload import Classification

B, C = 12, 5


@pytest.fixture
def logits() -> Tensor:
    return (3 * torch.randn(B, C, generator=torch.Generator().manual_seed(0))).requires_grad_()


@pytest.fixture
def labels(logits: Tensor) -> Tensor:
    found = torch.arange(B) % C
    found[:4] = logits[:4].argmax(1)  # some are right
    return found


def one(name: str, logits: Tensor, labels: Tensor, embedding: Tensor | None = None) -> Tensor:
    loss = F.cross_entropy(logits, labels, reduction="none")
    return signals.compute([name], logits, labels, loss, embedding)[name]


def rows(logits: Tensor, labels: Tensor) -> list[tuple[list[float], int]]:
    return list(zip(logits.tolist(), labels.tolist(), strict=True))


def softmax(z: list[float]) -> list[float]:
    return [math.exp(x) / sum(map(math.exp, z)) for x in z]


def check(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected))


def test_prob_y(logits: Tensor, labels: Tensor) -> None:
    check(one("prob_y", logits, labels), [softmax(z)[y] for z, y in rows(logits, labels)])


def test_correct(logits: Tensor, labels: Tensor) -> None:
    expected = [float(max(z) == z[y]) for z, y in rows(logits, labels)]
    assert 4 <= sum(expected) < B
    check(one("correct", logits, labels), expected)


def test_margin(logits: Tensor, labels: Tensor) -> None:
    check(one("margin", logits, labels), [z[y] - max(z[:y] + z[y + 1 :]) for z, y in rows(logits, labels)])


def test_entropy(logits: Tensor, labels: Tensor) -> None:
    check(one("entropy", logits, labels), [-sum(p * math.log(p) for p in softmax(z)) for z, _ in rows(logits, labels)])


def test_error_norm_is_the_norm_of_the_gradient_in_the_logits(logits: Tensor, labels: Tensor) -> None:
    gradient = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), logits)[0]
    torch.testing.assert_close(one("error_norm", logits, labels), gradient.norm(dim=1))


def test_extreme_logits_give_no_nan(labels: Tensor) -> None:
    extreme = 1e4 * torch.eye(C)[labels.roll(1)]
    for name in ("prob_y", "correct", "margin", "error_norm"):
        assert one(name, extreme, labels).isfinite().all()
    check(one("entropy", extreme, labels), [0.0] * B)


def test_loss_is_the_training_criterion(labels: Tensor, logits: Tensor) -> None:
    smooth = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    assert torch.equal(signals.compute(["loss"], logits, labels, smooth, None)["loss"], smooth)


@pytest.mark.parametrize("model", ["mlp[width=6]", "cnn[width=2]", "resnet18"])
def test_grad_norm_and_embedding_of_a_network(model: str, labels: Tensor) -> None:
    recipe = Recipe(epochs=1, batch_size=4, lr=0.1)
    learner = Learner(model, recipe, Classification(C, recipe), (1, 4, 4), 0, torch.device("cpu"))
    images = torch.randn(B, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    learner.model.eval()
    names = frozenset(signals.SIGNALS)
    losses, found = learner.measure(images, labels, names)
    assert found.keys() == names
    layer = head(learner.model)
    for loss, norm in zip(losses, found["grad_norm"], strict=True):
        gradient = torch.autograd.grad(loss, [layer.weight, layer.bias], retain_graph=True)
        assert float(norm) == pytest.approx(float(torch.cat([g.flatten() for g in gradient]).norm()), rel=1e-4)
    assert found["embedding"].shape == (B, layer.in_features)
    torch.testing.assert_close(F.linear(found["embedding"], layer.weight, layer.bias), found["logits"])
    assert torch.equal(found["loss"], losses)
    assert not any(value.requires_grad for value in found.values())
    assert all(value.dtype == torch.float32 for value in found.values())
    assert losses.requires_grad
    assert not layer._forward_pre_hooks, "the hook is gone"


def test_only_what_is_needed_is_computed(logits: Tensor, labels: Tensor) -> None:
    assert signals.compute(["margin"], logits, labels, logits[:, 0], None).keys() == {"margin"}
    with pytest.raises(UsageError, match="unknown signal 'los'; known: loss, prob_y"):
        signals.check_names({"los"})
