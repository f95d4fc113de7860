"""The signals: per-sample quantities computed from one forward pass, each with its definition.

p = softmax(logits), y the label as one-hot vector, h the input of the last linear layer (the embedding).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dpbench.errors import UsageError


def _loss(logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None) -> Tensor:
    """The training criterion of each sample (with label smoothing where the recipe has it)."""
    return loss


def _batch_loss(logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None) -> Tensor:
    """The mean training criterion of the batch that a sample was forwarded in, the same for all its samples."""
    return loss.mean().expand_as(loss)


def _prob_y(logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None) -> Tensor:
    """p_y, the probability of the label."""
    return logits.softmax(1).gather(1, labels[:, None]).squeeze(1)


def _correct(logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None) -> Tensor:
    """1 where the label has the largest logit, else 0."""
    return (logits.argmax(1) == labels).float()


def _error_norm(logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None) -> Tensor:
    """||p - y||_2, EL2N's error."""
    return (logits.softmax(1) - F.one_hot(labels, logits.shape[1])).norm(dim=1)


def _margin(logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None) -> Tensor:
    """z_y - max_{c != y} z_c in logits, AUM's margin; low is hard."""
    own = logits.gather(1, labels[:, None])
    return (own - logits.scatter(1, labels[:, None], float("-inf")).amax(1, keepdim=True)).squeeze(1)


def _entropy(logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None) -> Tensor:
    """-sum_c p_c log p_c in nats."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def _grad_norm(logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None) -> Tensor:
    """||p - y||_2 sqrt(||h||_2^2 + 1): the exact norm of cross-entropy's gradient in the last layer and its bias."""
    assert embedding is not None
    return _error_norm(logits, labels, loss, None) * (embedding.square().sum(1) + 1).sqrt()


def _logits(logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None) -> Tensor:
    """The model's output (b, C)."""
    return logits


def _embedding(logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None) -> Tensor:
    """h, the input of the last linear layer (b, d)."""
    assert embedding is not None
    return embedding


@dataclass(frozen=True)
class Signal:
    """How a signal is computed from the logits (b, C), labels (b,), losses (b,) and the embedding (b, d) of a batch.

    `embedding` says that the function reads the embedding, which may be None for the others. It returns (b,), or (b, d)
    if it is `wide`.
    """

    function: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    embedding: bool = False
    wide: bool = False


SIGNALS = {
    "loss": Signal(_loss),
    "prob_y": Signal(_prob_y),
    "correct": Signal(_correct),
    "error_norm": Signal(_error_norm),
    "margin": Signal(_margin),
    "entropy": Signal(_entropy),
    "grad_norm": Signal(_grad_norm, embedding=True),
    "logits": Signal(_logits, wide=True),
    "embedding": Signal(_embedding, embedding=True, wide=True),
    "batch_loss": Signal(_batch_loss),
}
SETTLED = 1e-5


def from_embedding(names: Iterable[str]) -> frozenset[str]:
    """Those of the signals `names` that are computed from the embedding."""
    return frozenset(name for name in names if name in SIGNALS and SIGNALS[name].embedding)


def _full_grad_norm(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, int, int]:
    """The norm of the gradient of each sample's cross-entropy in all trainable parameters."""
    parameters = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, values, (image[None],)).float(), label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=32)(parameters, images, labels)
    norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
    return norms, len(images), len(images)


def _deepfool(network: nn.Module, images: Tensor, labels: Tensor, rounds: int = 50) -> tuple[Tensor, int, int]:
    """||r||_2^2, r the sum of DeepFool's steps until the predicted class changes, at most 50.

    A step goes to the nearest of the linearised boundaries between the class predicted at first, a, and the others:
    r += |f| w / ||w||^2 with f = z_c - z_a, w = grad_x f, and c the class of smallest |f| / ||w||. Many samples end on
    the boundary without crossing it: they are done when a step is SETTLED times as long as r.
    """
    result, forward, backward = torch.zeros(len(images), device=images.device), 0, 0
    x, rows, predicted = images.clone(), torch.arange(len(images), device=images.device), None
    for _ in range(rounds):
        with torch.enable_grad():
            x.requires_grad_()
            logits = network(x).float()
            classes = logits.shape[1]
            forward, backward = forward + len(x), backward + len(x) * classes
            if predicted is None:
                predicted = logits.argmax(1)
            still = logits.argmax(1) == predicted
            slopes = torch.stack(
                [torch.autograd.grad(logits[:, c].sum(), x, retain_graph=c < classes - 1)[0] for c in range(classes)], 1
            ).flatten(2)
        x, rows, predicted, slopes, logits = (t[still].detach() for t in (x, rows, predicted, slopes, logits))
        if len(rows) == 0 or classes == 1:
            break
        each = torch.arange(len(rows), device=images.device)
        w, f = slopes - slopes[each, predicted][:, None], logits - logits[each, predicted][:, None]
        square = w.square().sum(2).clamp(min=1e-24)
        c = (f.square() / square).scatter(1, predicted[:, None], float("inf")).argmin(1)
        step = (f[each, c].abs() / square[each, c])[:, None] * w[each, c]
        x = x + step.view_as(x)
        result[rows] = (x - images[rows]).flatten(1).square().sum(1)
        going = step.norm(dim=1) > SETTLED * result[rows].sqrt()
        x, rows, predicted = x[going], rows[going], predicted[going]
    return result, forward, backward


# Signals that differentiate the model: measured in passes over the data in evaluation mode, not in training steps.
# They return values (b,) and how many samples they sent forward and backward.
MODEL_SIGNALS: dict[str, Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, int, int]]] = {
    "full_grad_norm": _full_grad_norm,
    "deepfool": _deepfool,
}


# Known to the record alone.
MEMBER = "member"  # 1 for the samples that the proxy was trained on, or that were its hardest in a step, else 0
LEARNING_RATE = "learning_rate"  # that of the epoch's last step, the same for all samples
RECORD_SIGNALS = frozenset({MEMBER, LEARNING_RATE})


def check_names(names: Iterable[str], after_proxy: bool = True) -> None:
    """Refuse a signal that does not exist, and those of the record alone where no passes of a proxy are recorded."""
    known = [*SIGNALS, *MODEL_SIGNALS, *sorted(RECORD_SIGNALS)]
    for name in sorted(names):
        if name not in known:
            raise UsageError(f"unknown signal {name!r}; known: {', '.join(known)}")
        if name in RECORD_SIGNALS and not after_proxy:
            raise UsageError(f"the signal {name!r} is of a proxy with at='end' or at='epochs'")


def compute(
    names: Iterable[str], logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None
) -> dict[str, Tensor]:
    """Compute the signals `names`, detached, in float32, on the device of `logits`."""
    logits, loss = logits.detach().float(), loss.detach().float()
    embedding = None if embedding is None else embedding.detach().float().flatten(1)
    return {name: SIGNALS[name].function(logits, labels, loss, embedding) for name in names}


def differentiate(
    names: Iterable[str], network: nn.Module, images: Tensor, labels: Tensor
) -> tuple[dict[str, Tensor], int, int]:
    """Compute those of the signals `names` that differentiate the model, which is in evaluation mode.

    Also tells how many samples were sent forward and backward for it.
    """
    values, forward, backward = {}, 0, 0
    for name in names:
        if name in MODEL_SIGNALS:
            values[name], more_forward, more_backward = MODEL_SIGNALS[name](network, images, labels)
            forward, backward = forward + more_forward, backward + more_backward
    return values, forward, backward
