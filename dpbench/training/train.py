"""The training step and the epoch: forward, pick, backward, and the signals on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, isfinite
from statistics import fmean
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dpbench import catalog, optim, signals
from dpbench.data import Loader
from dpbench.draws import top
from dpbench.embedding import head, inputs_of
from dpbench.errors import Diverged, UsageError, one_line
from dpbench.predictions import Predictions
from dpbench.rng import derive, seeded
from dpbench.spec import Recipe
from dpbench.training.ledger import Epoch
from dpbench.training.mixing import mixer
from dpbench.training.pace import Pace
from dpbench.training.ranks import ALONE, Ranks
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


class Hardest(Recorder):
    """The guide of a training on the share `keep` of highest loss of each batch, in every `every`-th step.

    It keeps which rows these are, the signal `member`, of all steps.
    """

    picks = True

    def __init__(self, needs: frozenset[str], keep: float, every: int, rng: torch.Generator) -> None:
        super().__init__(needs | {"loss"})
        self.keep, self.every, self.rng, self.steps = keep, every, rng, 0

    def pick(self, rows: Tensor, values: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The rows of highest loss, or none in a step without training."""
        k = max(1, round(self.keep * len(rows)))
        self.chosen = top(values["loss"].cpu(), k, self.rng).to(rows.device)
        self.steps += 1
        return self.chosen if (self.steps - 1) % self.every == 0 else self.chosen[:0], None

    def observe(self, rows: Tensor, values: dict[str, Tensor]) -> None:
        """Keep them."""
        member = torch.zeros(len(rows), device=rows.device).index_fill_(0, self.chosen, 1.0)
        super().observe(rows, values | {signals.MEMBER: member})


class Learner:
    """A model with its optimizer, and what it is trained for, on a device; one of `ranks` trains it with the others."""

    def __init__(
        self,
        model: str,
        recipe: Recipe,
        workload: Classification,
        shape: tuple[int, ...],
        seed: int,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.recipe, self.workload, self.device, self.ranks = recipe, workload, device, ranks
        with seeded(derive(seed, "weights"), torch.device("cpu")):
            network = catalog.load_model(model, recipe.shape(shape), workload.classes).to(device)
        if recipe.test_shape(shape) != recipe.shape(shape):
            _try(network, model, recipe.shape(shape), recipe.test_shape(shape), device)
        network = ranks.prepared(network)
        self.network = network.to(memory_format=torch.channels_last) if recipe.channels_last else network
        self.head = head(self.network)
        self.model: nn.Module = torch.compile(self.network) if recipe.compile else self.network  # type: ignore[assignment]
        self.optimizer = optim.optimizer(self.network, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.average: AveragedModel | None = None
        if recipe.ema is not None:
            self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        self.mix = ranks.mixing(mixer(recipe, workload.classes))
        self.differentiated = (0, 0)  # samples that signals which differentiate the model sent forward and backward

    @property
    def evaluated(self) -> nn.Module:
        """The model whose accuracy counts."""
        return self.model if self.average is None else self.average.module

    def forward(self, inputs: Tensor, through: nn.Module | None = None) -> Tensor:
        """Return the outputs (b, C) in float32, of the model that is trained or of one in its place.

        The graph of a compiled model can be gone through only once, that of `network` more often.
        """
        dtype = torch.float16 if self.recipe.precision == "fp16" else torch.bfloat16
        with torch.autocast(self.device.type, dtype, enabled=self.recipe.precision != "fp32"):
            return (self.model if through is None else through)(inputs).float()

    def measure(self, inputs: Tensor, labels: Tensor, needs: frozenset[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward; return the losses with their graph and the signals `needs`.

        The labels are classes (b,) or, of mixed samples, shares of the classes (b, C), for which there is but the loss.
        """
        with inputs_of(self.head if signals.from_embedding(needs) else None) as embeddings:
            outputs = self.forward(inputs)
        losses = self.workload.losses(outputs, labels)
        if not needs:
            return losses, {}
        values = self.workload.signals(needs, outputs, labels, losses, embeddings[0] if embeddings else None)
        more, forward, backward = self.workload.model_signals(needs, self.network, inputs, labels)
        self.differentiated = (self.differentiated[0] + forward, self.differentiated[1] + backward)
        return losses, values | more

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to that of the next step."""
        self.scaler.scale(loss).backward()

    def step(self, at: optim.Step) -> None:
        """One optimizer step along the gradient, at the schedule's learning rate and momentum."""
        self.ranks.sum_gradients(self.network)
        optim.set_step(self.optimizer, at)
        if self.recipe.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.network)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        average = {} if self.average is None else self.average.state_dict()
        states = {"model": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return states | {"scaler": self.scaler.state_dict(), "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def _try(
    network: nn.Module, model: str, trained: tuple[int, ...], tested: tuple[int, ...], device: torch.device
) -> None:
    """Refuse a model that does not take the images of a test, which are of another size than it was made for."""
    mode = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *tested, device=device))
    except Exception as error:  # models raise what they like
        sizes = f"made for {trained[-1]} pixels, does not take the {tested[-1]} of a test"
        raise UsageError(f"{model}, {sizes}; say test_size: {trained[-1]} ({one_line(error, 150)})") from None
    network.train(mode)


def train_epoch(
    learner: Learner, loader: Loader, parts: Sequence[Tensor], pace: Pace, guide: Guide, weights: Tensor | None = None
) -> Epoch:
    """Train one epoch on the batches `parts`, each a tensor of rows on the device, until the pace says stop.

    `weights` (n,) multiply the losses. A guide that picks chooses what goes backward after a scoring pass over the
    batch in evaluation mode, unless it needs no signals; the chosen rows are forwarded again to be trained on. It
    observes the rows and the signals of each step. A step follows the gradient of `accumulate` batches, each with the
    share of the samples that it has. Several ranks go through the loop alike; each has its share of the inputs.
    """
    done, together, ranks = Epoch(), learner.recipe.accumulate, learner.ranks
    steps = ceil(len(parts) / together)
    needs = guide.needs & signals.SIGNALS.keys()  # those of a training pass
    for step, (rows, inputs, labels) in enumerate(ranks.batches(loader, parts)):
        if step % together == 0:
            at, sent = pace.at(step // together / steps, done), 0
            size = sum(len(part) for part in parts[step : step + together])
        if at is None:
            break
        chosen, weight = rows, None if weights is None else weights[rows]
        if guide.picks:
            values: dict[str, Tensor] = {}
            if needs:
                learner.model.eval()
                with torch.no_grad():
                    _, values = ranks.whole(*learner.measure(inputs, labels, needs), len(rows))
                done.forward += len(rows)
            positions, picked = guide.pick(rows, values)
            chosen = rows[positions]
            inputs, labels = ranks.picked(loader, chosen, positions, inputs, labels)
            weight = picked if weight is None else weight[positions] * (1 if picked is None else picked)
        if len(chosen):
            learner.model.train(len(chosen) > 1)  # a single sample has no batch statistics
            inputs, labels = learner.mix(inputs, labels)
            measured = learner.measure(inputs, labels, frozenset() if guide.picks else needs)
            losses, found = ranks.whole(*measured, len(chosen))
            loss = losses.mean() if weight is None else (losses * weight).mean()
            learner.backward(loss * (len(rows) / size))
            done.add(chosen, loss)
            sent += 1
            values = values if guide.picks else found
        if sent and (step + 1 == len(parts) or (step + 1) % together == 0):
            learner.step(at)
            done.steps += 1
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
    measured = [
        learner.ranks.whole(*learner.measure(inputs, labels, needs), len(part))[1]
        for part, inputs, labels in learner.ranks.batches(loader, parts, augment=False)
    ]
    return rows, {name: torch.cat([values[name] for values in measured]) for name in measured[0]}


def evaluate(learner: Learner, loader: Loader, ranks: Ranks | None = None) -> tuple[float, float]:
    """Return the share that was right, and the mean loss of a test, which `ranks` share, else those of the training."""
    total, right = (torch.zeros((), device=learner.device, dtype=dtype) for dtype in (torch.float, torch.int64))
    for outputs, labels in _tested(learner, loader, ranks or learner.ranks):
        total += learner.workload.test_loss(outputs, labels)
        right += learner.workload.right(outputs, labels).count_nonzero()
    return int(right) / len(loader), float(total) / len(loader)


def evaluate_shifted(learner: Learner, shifted: dict[str, list[Loader]]) -> dict[str, float]:
    """The mean accuracy of each set of corrupted tests, and the mean over the kinds of our own.

    Every rank tests all images, since noise is drawn batch by batch: of a share of them it would be another.
    """
    found = {
        name: fmean(evaluate(learner, loader, ALONE)[0] for loader in loaders) for name, loaders in shifted.items()
    }
    own = [value for name, value in found.items() if name.startswith("accuracy_shifted")]
    return found | ({"accuracy_shifted": fmean(own)} if own else {})


def predict(learner: Learner, loader: Loader) -> Predictions:
    """What the model says of each sample."""
    parts = [
        learner.workload.predictions(outputs, labels) for outputs, labels in _tested(learner, loader, learner.ranks)
    ]
    return Predictions(*(torch.cat(values).cpu().numpy() for values in zip(*parts, strict=True)))


@torch.no_grad()
def _tested(learner: Learner, loader: Loader, ranks: Ranks) -> Iterator[tuple[Tensor, Tensor]]:
    """The outputs (b, C) and labels (b,) of all samples, in order, by the model whose accuracy counts."""
    model = learner.evaluated.eval()
    parts = torch.arange(len(loader), device=learner.device).split(EVALUATION_BATCH * ranks.size)
    for rows, inputs, _ in ranks.batches(loader, parts, augment=False):
        outputs, _ = ranks.whole(learner.forward(inputs, model), {}, len(rows))
        yield outputs, loader.labels[rows]
