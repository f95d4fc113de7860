"""What is trained: the criterion of each sample, what counts as right, and which signals there are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpbench import signals
from dpbench.data import Data
from dpbench.spec import Recipe


class Classification:
    """One class a sample: cross-entropy or the recipe's criterion, smoothed in training as it says, and accuracy.

    `outputs` are logits (b, C), `labels` (b,) int64. Another workload has the same functions.

    A sample that mixup or cutmix has mixed, lam of it with 1 - lam of a partner, keeps its row: its loss, its weight
    and what a method observes are booked to it, none to the partner, which is mixed with a third. Its label is the
    shares (C,) lam of its own class and 1 - lam of the partner's, so that its loss is lam times the loss of its own
    class plus 1 - lam times that of the partner's, of the one mixed image.
    """

    def __init__(self, classes: int, recipe: Recipe) -> None:
        self.classes, self.smoothing = classes, recipe.label_smoothing
        self.loss, self.threshold = recipe.loss, recipe.bce_threshold

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The training criterion of each sample (b,); `labels` are classes, or shares of the classes (b, C).

        Binary cross-entropy is the mean over the classes, as timm's is. Its targets are smoothed as those of
        cross-entropy are; then a threshold makes those above it 1 and the others 0.
        """
        if self.loss == "cross_entropy":
            return F.cross_entropy(outputs, labels, reduction="none", label_smoothing=self.smoothing)
        targets = F.one_hot(labels, self.classes).float() if labels.dim() == 1 else labels
        targets = targets * (1 - self.smoothing) + self.smoothing / self.classes
        if self.threshold is not None:
            targets = (targets > self.threshold).float()
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(1)

    def test_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The sum over the samples of the criterion of a test: cross-entropy without smoothing."""
        return F.cross_entropy(outputs, labels, reduction="sum")

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Whether each sample counts as a success (b,) bool."""
        return outputs.argmax(1) == labels

    def predictions(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each sample (b,) the label, the class predicted, its probability and the loss of a test, in float16."""
        losses = F.cross_entropy(outputs, labels, reduction="none")
        classes = outputs.argmax(1)
        confidences = outputs.softmax(1).gather(1, classes[:, None])[:, 0]
        return labels, classes, confidences.nan_to_num(0.0).half(), losses.half()

    def signals(
        self, needs: frozenset[str], outputs: Tensor, labels: Tensor, losses: Tensor, embedding: Tensor | None
    ) -> dict[str, Tensor]:
        """Those of the signals `needs` that a forward pass gives, on the device."""
        return signals.compute(needs & signals.SIGNALS.keys(), outputs, labels, losses, embedding)

    def model_signals(
        self, needs: frozenset[str], network: nn.Module, inputs: Tensor, labels: Tensor
    ) -> tuple[dict[str, Tensor], int, int]:
        """Those that differentiate the model, and how many samples were sent forward and backward for them."""
        return signals.differentiate(needs, network, inputs, labels)

    def unlearnt(self, accuracy: float, tested: Tensor, loss: float, trained: Tensor) -> str | None:
        """Why a training that reached its end counts as diverged, None if it does not.

        It learnt nothing if naming the most frequent of the labels `tested` would do as well, and if one constant
        answer would have had no higher a `loss` on what the last epoch `trained` on (its labels): not below their
        entropy, for `bce` the mean entropy of being of a class or not. The other way to diverge, a loss that is not
        finite, ends the training: `train_epoch` raises Diverged.
        """
        constant = int(tested.bincount().max()) / len(tested)
        shares = trained.bincount().double() / max(1, len(trained))
        binary = (torch.special.entr(shares) + torch.special.entr(1 - shares)).sum() / self.classes
        least = torch.special.entr(shares).sum() if self.loss == "cross_entropy" else binary
        if accuracy > constant or loss < float(least):
            return None
        return f"test accuracy ended at {accuracy:.1%}; naming the most frequent class has {constant:.1%}"


def workload(data: Data, recipe: Recipe) -> Classification:
    """The workload of a dataset; all workloads so far are classification."""
    return Classification(data.classes, recipe)
