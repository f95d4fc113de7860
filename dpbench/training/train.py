"""The training step and the epoch: forward, pick, backward, and the signals on the way."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor, nn

from dpbench import catalog, optim, signals
from dpbench.data import Loader
from dpbench.embedding import head, inputs_of
from dpbench.errors import Diverged
from dpbench.rng import derive, seeded
from dpbench.spec import Recipe
from dpbench.training.ledger import Epoch
from dpbench.training.pace import Pace
from dpbench.training.rows import Passed, batches
from dpbench.training.workload import Classification

EVALUATION_BATCH = 500


class Guide(Protocol):
    """Who chooses and learns in an epoch: the driver of a method, or the recorder of a proxy."""

    needs: frozenset[str]  # signals to measure
    picks: bool  # whether `pick` chooses within each batch

    def pick(self, rows: Tensor, values: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The positions (k,) in the batch that go backward, and their weights (k,)."""

    def observe(self, rows: Tensor, values: dict[str, Tensor]) -> None:
        """Take the signals measured on `rows` (b,) in a step."""


class Recorder:
    """The guide of a plain training: picks nothing, and keeps the signals `needs` of each step."""

    picks = False

    def __init__(self, needs: frozenset[str] = frozenset()) -> None:
        self.needs = needs
        self.passed: list[Passed] = []

    def pick(self, rows: Tensor, values: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Never asked."""
        raise NotImplementedError

    def observe(self, rows: Tensor, values: dict[str, Tensor]) -> None:
        """Keep them."""
        if values:
            self.passed.append((rows, values))


class Learner:
    """A model with its optimizer, and what it is trained for, on a device."""

    def __init__(
        self,
        model: str,
        recipe: Recipe,
        workload: Classification,
        shape: tuple[int, ...],
        seed: int,
        device: torch.device,
    ) -> None:
        self.recipe, self.workload, self.device = recipe, workload, device
        with seeded(derive(seed, "weights"), torch.device("cpu")):
            network = catalog.load_model(model, shape, workload.classes).to(device)
        self.network = network.to(memory_format=torch.channels_last) if recipe.channels_last else network
        self.head = head(self.network)
        self.model: nn.Module = torch.compile(self.network) if recipe.compile else self.network  # type: ignore[assignment]
        self.optimizer = optim.optimizer(self.network, recipe)
        self.differentiated = (0, 0)  # samples that signals which differentiate the model sent forward and backward

    def forward(self, inputs: Tensor, compiled: bool = True) -> Tensor:
        """Return the outputs (b, C) in float32; the graph of a compiled model can be gone through only once."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
            return (self.model if compiled else self.network)(inputs).float()

    def measure(self, inputs: Tensor, labels: Tensor, needs: frozenset[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward; return the losses with their graph and the signals `needs`."""
        with inputs_of(self.head if needs & signals.FROM_EMBEDDING else None) as embeddings:
            outputs = self.forward(inputs)
        losses = self.workload.losses(outputs, labels)
        if not needs:
            return losses, {}
        values = self.workload.signals(needs, outputs, labels, losses, embeddings[0] if embeddings else None)
        more, forward, backward = self.workload.model_signals(needs, self.network, inputs, labels)
        self.differentiated = (self.differentiated[0] + forward, self.differentiated[1] + backward)
        return losses, values | more

    def step(self, loss: Tensor, at: optim.Step) -> None:
        """One optimizer step along the gradient of `loss`, at the schedule's learning rate and momentum."""
        optim.set_step(self.optimizer, at)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimizer.step()


def train_epoch(
    learner: Learner, loader: Loader, parts: Sequence[Tensor], pace: Pace, guide: Guide, weights: Tensor | None = None
) -> Epoch:
    """Train one epoch on the batches `parts`, each a tensor of rows on the device, until the pace says stop.

    `weights` (n,) multiply the losses. A guide that picks chooses what goes backward after a scoring pass over the
    batch in evaluation mode; the chosen rows are forwarded again to be trained on. It observes the rows and the signals
    of each step.
    """
    done = Epoch()
    needs = guide.needs & signals.SIGNALS.keys()  # those of a training pass
    for step, (rows, inputs, labels) in enumerate(loader.batches(parts)):
        at = pace.at(step / len(parts), done)
        if at is None:
            break
        chosen, weight = rows, None if weights is None else weights[rows]
        if guide.picks:
            learner.model.eval()
            with torch.no_grad():
                _, values = learner.measure(inputs, labels, needs)
            positions, picked = guide.pick(rows, values)
            chosen, inputs, labels = rows[positions], inputs[positions], labels[positions]
            weight = picked if weight is None else weight[positions] * (1 if picked is None else picked)
            done.forward += len(rows)
        if len(chosen):
            learner.model.train(len(chosen) > 1)  # a single sample has no batch statistics
            losses, measured = learner.measure(inputs, labels, frozenset() if guide.picks else needs)
            loss = losses.mean() if weight is None else (losses * weight).mean()
            learner.step(loss, at)
            done.add(chosen, loss)
            values = values if guide.picks else measured
        guide.observe(rows, values)
    if done.losses and not isfinite(done.loss):
        raise Diverged(f"the training loss became {done.loss}; a smaller learning rate may help")
    return done


@torch.no_grad()
def measure_all(learner: Learner, loader: Loader, rows: Tensor, needs: frozenset[str]) -> Passed:
    """Forward `rows` in evaluation mode without augmentation; return them with their signals `needs`."""
    learner.model.eval()
    rows = rows.to(learner.device)
    parts = batches(rows, EVALUATION_BATCH)
    measured = [learner.measure(inputs, labels, needs)[1] for _, inputs, labels in loader.batches(parts, augment=False)]
    return rows, {name: torch.cat([values[name] for values in measured]) for name in measured[0]}


@torch.no_grad()
def evaluate(learner: Learner, loader: Loader) -> tuple[float, float, Tensor]:
    """Return the share that was right, the mean loss of a test, and per sample (n,) whether it was right."""
    learner.model.eval()
    total, right = torch.zeros((), device=learner.device), []
    parts = torch.arange(len(loader), device=learner.device).split(EVALUATION_BATCH)
    for _, inputs, labels in loader.batches(parts, augment=False):
        outputs = learner.forward(inputs)
        total += learner.workload.test_loss(outputs, labels)
        right.append(learner.workload.right(outputs, labels))
    correct = torch.cat(right).cpu()
    return int(correct.count_nonzero()) / len(loader), float(total) / len(loader), correct
