"""What a static method asks of its proxy training, measured on a model of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dpbench import signals
from dpbench.embedding import head, inputs_of
from dpbench.errors import UsageError
from dpbench.training.answers import rows_fault
from dpbench.training.rows import Passed, join


@torch.no_grad()
def record_proxy(model: nn.Module, loader: DataLoader[Any], needs: Iterable[str]) -> dict[str, Tensor]:
    """Forward all samples of `loader` in evaluation mode; return the signals `needs`, (n,) or (n, d), by sample.

    Called after an epoch of the proxy's training, what it returns is ready for `PruningSampler.replay`:

        sampler.replay(**record_proxy(model, loader, sampler.method.requires().signals), epoch=epoch)

    `loader` goes once through an `IndexedDataset` of all n samples, in any order and without augmentation. Its batches
    are (indices, (x, labels)), and `model(x)` are the logits (b, C); or they are mappings with "index" and "labels",
    of which the model takes the rest by name and returns the logits or an object with `logits`, as in Hugging Face.
    The embedding is the input of the model's last linear layer. `member` and `learning_rate`, which only the
    training knows, are left to be given by name.
    """
    wanted = frozenset(needs) - signals.RECORD_SIGNALS
    signals.check_names(wanted)
    watched = head(model) if signals.from_embedding(wanted) else None
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        passes = [_measure(model, watched, batch, wanted) for batch in loader]
    finally:
        for module, mode in training.items():
            module.training = mode
    n = len(loader.dataset)  # type: ignore[arg-type]
    seen = join(passes, 0)
    if not torch.equal(seen.indices.sort().values, torch.arange(n)):
        raise UsageError(
            f"record_proxy: the loader gave {len(seen.indices.unique())} of {n} samples in {len(seen)}; each is needed "
            "once: no drop_last, and no sampler that leaves samples out"
        )
    return {name: values[seen.indices.argsort()] for name, values in seen.values.items()}


def _measure(model: nn.Module, watched: nn.Linear | None, batch: Any, wanted: frozenset[str]) -> Passed:
    """Forward one batch."""
    device = next(model.parameters()).device
    indices, inputs, labels = _parts(batch)
    labels = labels.to(device)
    inputs = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    x = inputs.pop("", None)
    with inputs_of(watched) as embeddings:
        output = model(**inputs) if x is None else model(x)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or labels.shape != logits.shape[:1]:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise UsageError(
            f"record_proxy: the model gave {got} for labels of shape {tuple(labels.shape)}; logits (b, C) are needed "
            "for class ids (b,)"
        )
    loss = F.cross_entropy(logits.float(), labels, reduction="none")
    embedding = embeddings[0] if embeddings else None
    values = signals.compute(wanted & signals.SIGNALS.keys(), logits, labels, loss, embedding)
    if differentiated := wanted & signals.MODEL_SIGNALS.keys():
        if x is None:
            raise UsageError(f"record_proxy: {min(differentiated)} is of models of one tensor, not of a mapping")
        values |= signals.differentiate(differentiated, model, x, labels)[0]
    return indices.cpu(), {name: value.detach().cpu() for name, value in values.items()}


def _parts(batch: Any) -> tuple[Tensor, dict[str, Any], Tensor]:
    """Indices, inputs by name ("" for the only one) and labels of a batch."""
    if isinstance(batch, Mapping) and {"index", "labels"} <= batch.keys():
        indices, labels = batch["index"], batch["labels"]
        inputs = {name: value for name, value in batch.items() if name not in ("index", "labels")}
    else:
        try:
            indices, (x, labels) = batch
        except (TypeError, ValueError):
            indices, x, labels = None, None, None
        inputs = {"": x}
    whole = isinstance(labels, Tensor) and not labels.is_floating_point() and isinstance(inputs.get("", labels), Tensor)
    if not whole or rows_fault(indices, 2**62):
        raise UsageError(
            "record_proxy: the loader must go through an IndexedDataset: batches (indices, (x, labels)), or mappings "
            'with "index" and "labels", with class ids as labels'
        )
    return indices, inputs, labels.long()
