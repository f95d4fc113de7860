"""What is trained: the criterion of each sample, what counts as right, and which signals there are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpbench import signals
from dpbench.data import Data
from dpbench.spec import Recipe


class Classification:
    """One class a sample: cross-entropy, smoothed in training as the recipe says, and accuracy.

    `outputs` are logits (b, C), `labels` (b,) int64. Another workload has the same functions.
    """

    def __init__(self, classes: int, recipe: Recipe) -> None:
        self.classes, self.smoothing = classes, recipe.label_smoothing

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The training criterion of each sample (b,)."""
        return F.cross_entropy(outputs, labels, reduction="none", label_smoothing=self.smoothing)

    def test_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The sum over the samples of the criterion of a test: cross-entropy without smoothing."""
        return F.cross_entropy(outputs, labels, reduction="sum")

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Whether each sample counts as a success (b,) bool."""
        return outputs.argmax(1) == labels

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
        entropy. The other way to diverge, a loss that is not finite, ends the training: `train_epoch` raises Diverged.
        """
        constant = int(tested.bincount().max()) / len(tested)
        shares = trained.bincount().double() / max(1, len(trained))
        if accuracy > constant or loss < float(torch.special.entr(shares).sum()):
            return None
        return f"test accuracy ended at {accuracy:.1%}; naming the most frequent class has {constant:.1%}"


def workload(data: Data, recipe: Recipe) -> Classification:
    """The workload of a dataset; all workloads so far are classification."""
    return Classification(data.classes, recipe)
