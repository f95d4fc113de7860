"""The signals: per-sample quantities computed from one forward pass, each with its definition.

p = softmax(logits), y the label as one-hot vector, h the input of the last linear layer (the embedding).
"""

from collections.abc import Callable, Iterable

import torch.nn.functional as F
from torch import Tensor

from dpbench.errors import UsageError


def _loss(logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None) -> Tensor:
    """The training criterion of each sample (with label smoothing where the recipe has it)."""
    return loss


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


SIGNALS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "loss": _loss,
    "prob_y": _prob_y,
    "correct": _correct,
    "error_norm": _error_norm,
    "margin": _margin,
    "entropy": _entropy,
    "grad_norm": _grad_norm,
    "logits": _logits,
    "embedding": _embedding,
}
FROM_EMBEDDING = frozenset({"grad_norm", "embedding"})


def check_names(names: Iterable[str]) -> None:
    """Refuse a signal that does not exist."""
    for name in names:
        if name not in SIGNALS:
            raise UsageError(f"unknown signal {name!r}; known: {', '.join(SIGNALS)}")


def compute(
    names: Iterable[str], logits: Tensor, labels: Tensor, loss: Tensor, embedding: Tensor | None
) -> dict[str, Tensor]:
    """Compute the signals `names`, detached, in float32, on the device of `logits`."""
    logits, loss = logits.detach().float(), loss.detach().float()
    embedding = None if embedding is None else embedding.detach().float().flatten(1)
    return {name: SIGNALS[name](logits, labels, loss, embedding) for name in names}
