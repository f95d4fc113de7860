"""The training step and the epoch: forward, pick, backward, and the signals on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import isfinite
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpbench import catalog, optim, signals
from dpbench.data import Loader
from dpbench.errors import Diverged
from dpbench.models import head, inputs_of
from dpbench.rng import derive, seeded
from dpbench.spec import Recipe
from dpbench.training.rows import Passed, batches

EVALUATION_BATCH = 500

Pick: TypeAlias = Callable[
    [Tensor, dict[str, Tensor]], tuple[Tensor, Tensor | None]
]  # -> positions in the batch, weights


class Learner:
    """A model with its optimizer and criterion on a device."""

    def __init__(
        self, model: str, recipe: Recipe, shape: tuple[int, ...], classes: int, seed: int, device: torch.device
    ) -> None:
        self.recipe = recipe
        self.device = device
        with seeded(derive(seed, "weights"), torch.device("cpu")):
            network = catalog.load_model(model, shape, classes).to(device)
        self.network = network.to(memory_format=torch.channels_last) if recipe.channels_last else network
        self.head = head(self.network)
        self.model: nn.Module = torch.compile(self.network) if recipe.compile else self.network  # type: ignore[assignment]
        self.optimizer = optim.optimizer(self.network, recipe)
        self.differentiated = (0, 0)  # samples that signals which differentiate the model sent forward and backward

    def forward(self, images: Tensor, compiled: bool = True) -> Tensor:
        """Return the logits (b, C) in float32; the graph of a compiled model can be gone through only once."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
            return (self.model if compiled else self.network)(images).float()

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The training criterion per sample (b,)."""
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.recipe.label_smoothing)

    def measure(self, images: Tensor, labels: Tensor, needs: frozenset[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward; return the losses with their graph and the signals `needs`."""
        with inputs_of(self.head if needs & signals.FROM_EMBEDDING else None) as embeddings:
            logits = self.forward(images)
        losses = self.losses(logits, labels)
        if not needs:
            return losses, {}
        values = signals.compute(
            needs & signals.SIGNALS.keys(), logits, labels, losses, embeddings[0] if embeddings else None
        )
        more, forward, backward = signals.differentiate(needs, self.network, images, labels)
        self.differentiated = (self.differentiated[0] + forward, self.differentiated[1] + backward)
        return losses, values | more

    def step(self, loss: Tensor, at: optim.Step) -> None:
        """One optimizer step along the gradient of `loss`, at the schedule's learning rate and momentum."""
        for group in self.optimizer.param_groups:
            group["lr"], group["momentum"] = at
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


@dataclass
class Epoch:
    """What an epoch did: exact counts, the samples sent backward, and the losses of its batches."""

    forward: int = 0
    backward: int = 0
    steps: int = 0
    trained: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """Mean of the batches' training losses; NaN when no step was made."""
        return float(torch.stack(self.losses).mean()) if self.losses else float("nan")


def train_epoch(
    learner: Learner,
    loader: Loader,
    parts: Iterable[Tensor],
    schedule: Callable[[int, Epoch], optim.Step | None],
    needs: frozenset[str] = frozenset(),
    weights: Tensor | None = None,
    pick: Pick | None = None,
    observe: Callable[[Tensor, dict[str, Tensor]], None] | None = None,
) -> Epoch:
    """Train one epoch on the batches `parts`, each a tensor of rows on the device.

    `schedule` gives a step's learning rate and momentum, or None when the budget is spent. `weights` (n,) multiply the
    losses. `pick` chooses what goes backward after a scoring pass over the batch in evaluation mode; the chosen rows
    are forwarded again to be trained on. `observe` is given the rows and the signals `needs` of each step.
    """
    done = Epoch()
    needs &= signals.SIGNALS.keys()
    for number, rows in enumerate(parts):
        at = schedule(number, done)
        if at is None:
            break
        images, labels = loader.batch(rows)
        weight = None if weights is None else weights[rows]
        chosen = rows
        if pick is not None:
            learner.model.eval()
            with torch.no_grad():
                _, values = learner.measure(images, labels, needs)
            positions, picked_weight = pick(rows, values)
            chosen, images, labels = rows[positions], images[positions], labels[positions]
            if picked_weight is not None:
                weight = picked_weight if weight is None else weight[positions] * picked_weight
            elif weight is not None:
                weight = weight[positions]
            done.forward += len(rows)
        if len(chosen):
            learner.model.train(len(chosen) > 1)  # a single sample has no batch statistics
            losses, trained_values = learner.measure(images, labels, frozenset() if pick else needs)
            loss = losses.mean() if weight is None else (losses * weight).mean()
            learner.step(loss, at)
            if pick is None:
                values = trained_values
            done.forward += len(chosen)
            done.backward += len(chosen)
            done.steps += 1
            done.trained.append(chosen)
            done.losses.append(loss.detach())
        if needs and observe is not None:
            observe(rows, values)
    if done.losses and not isfinite(done.loss):
        raise Diverged(f"the training loss became {done.loss}; a smaller learning rate may help")
    return done


@torch.no_grad()
def measure_all(learner: Learner, loader: Loader, rows: Tensor, needs: frozenset[str]) -> Passed:
    """Forward `rows` in evaluation mode without augmentation; return them with their signals `needs`."""
    learner.model.eval()
    rows = rows.to(learner.device)
    measured = [
        learner.measure(*loader.batch(part, augment=False), needs)[1] for part in batches(rows, EVALUATION_BATCH)
    ]
    return rows, {name: torch.cat([values[name] for values in measured]) for name in measured[0]}


@torch.no_grad()
def evaluate(learner: Learner, loader: Loader) -> tuple[float, float, Tensor]:
    """Return accuracy in [0, 1], mean cross-entropy without smoothing, and per sample (n,) whether it was right."""
    learner.model.eval()
    total, right = torch.zeros((), device=learner.device), []
    for part in torch.arange(len(loader), device=learner.device).split(EVALUATION_BATCH):
        images, labels = loader.batch(part, augment=False)
        logits = learner.forward(images)
        total += F.cross_entropy(logits, labels, reduction="sum")
        right.append(logits.argmax(1) == labels)
    correct = torch.cat(right).cpu()
    return int(correct.count_nonzero()) / len(loader), float(total) / len(loader), correct
