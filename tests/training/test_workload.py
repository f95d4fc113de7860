"""What is trained: the criterion by its formula, what is right, and when nothing was learnt."""

import pytest
import torch
import torch.nn.functional as F

from dpbench.spec import Recipe
from dpbench.training.workload import Classification

RECIPE = Recipe(epochs=1, batch_size=1, lr=1, label_smoothing=0.2)
LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def test_the_criterion_is_smoothed_in_training_and_plain_in_a_test() -> None:
    work = Classification(3, RECIPE)
    plain = -LOGITS.log_softmax(1)[torch.arange(6), LABELS]
    even = -LOGITS.log_softmax(1).mean(1)
    torch.testing.assert_close(work.losses(LOGITS, LABELS), 0.8 * plain + 0.2 * even)
    torch.testing.assert_close(work.test_loss(LOGITS, LABELS), plain.sum())
    best = [int(row.argmax()) for row in LOGITS]
    assert work.right(LOGITS, LABELS).tolist() == [a == b for a, b in zip(best, LABELS.tolist(), strict=True)]


def test_its_signals_are_those_of_a_forward_pass() -> None:
    work = Classification(3, RECIPE)
    losses = work.losses(LOGITS, LABELS)
    found = work.signals(frozenset({"loss", "prob_y", "deepfool"}), LOGITS, LABELS, losses, None)
    assert found.keys() == {"loss", "prob_y"}, "deepfool differentiates the model"
    assert torch.equal(found["loss"], losses)
    torch.testing.assert_close(found["prob_y"], (-F.cross_entropy(LOGITS, LABELS, reduction="none")).exp())


@pytest.mark.parametrize(
    ("accuracy", "loss", "is_so"),
    [(3 / 7, 1.1, True), (3 / 7, float("nan"), True), (4 / 7, 1.1, False), (3 / 7, 0.68, False), (0.0, 0.7, True)],
)
def test_unlearnt_is_no_better_than_one_answer_for_all(accuracy: float, loss: float, is_so: bool) -> None:
    labels, trained = torch.tensor([0, 1, 1, 1, 2, 2, 2]), torch.tensor([0, 0, 1, 1])  # 3 of 7; an entropy of ln 2
    found = Classification(3, RECIPE).unlearnt(accuracy, labels, loss, trained)
    assert (found is not None) == is_so
    if is_so:
        assert found == f"test accuracy ended at {accuracy:.1%}; naming the most frequent class has 42.9%"
