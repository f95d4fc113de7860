"""A proxy of one's own: all samples measured once, in the data's order, without a trace in the model."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dpbench import IndexedDataset, record_proxy
from dpbench.errors import UsageError
from dpbench.signals import MODEL_SIGNALS, SIGNALS, compute, differentiate

N = 21
X, Y = torch.randn(N, 6, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 3


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))


def test_all_signals_by_sample_in_evaluation_mode() -> None:
    model = network()
    model[1].eval()  # as one that fine-tunes has it
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = [name for name in SIGNALS if name != "batch_loss"]  # which is of a batch, not of a sample
    loader = DataLoader(IndexedDataset(TensorDataset(X, Y)), batch_size=8, shuffle=True)
    found = record_proxy(model, loader, [*names, *MODEL_SIGNALS, "learning_rate"])
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model[3]._forward_pre_hooks
    model.eval()
    logits, embedding = model(X), model[:3](X)
    loss = F.cross_entropy(logits, Y, reduction="none")
    expected = compute(names, logits, Y, loss, embedding) | differentiate(MODEL_SIGNALS, model, X, Y)[0]
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values.detach(), msg=name)
        assert not found[name].requires_grad


class Named(nn.Module):
    """Takes its input by name and answers as models of Hugging Face do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, pixels: Tensor) -> Any:
        return SimpleNamespace(logits=self.inner(pixels))


def test_batches_that_are_mappings() -> None:
    model = Named()
    data = IndexedDataset([{"pixels": x, "labels": y} for x, y in zip(X, Y, strict=True)])
    found = record_proxy(model, DataLoader(data, 5), {"prob_y", "embedding"})
    plain = record_proxy(model.inner, DataLoader(IndexedDataset(TensorDataset(X, Y)), N), {"prob_y", "embedding"})
    assert found.keys() == plain.keys()
    for name in found:
        torch.testing.assert_close(found[name], plain[name])
    with pytest.raises(UsageError, match="full_grad_norm is of models of one tensor"):
        record_proxy(model, DataLoader(data, 5), {"full_grad_norm"})


PLAIN = TensorDataset(X, Y)


@pytest.mark.parametrize(
    ("data", "options", "needs", "message"),
    [
        (PLAIN, {}, "loss", "the loader must go through an IndexedDataset"),
        (IndexedDataset(TensorDataset(X)), {}, "loss", "the loader must go through an IndexedDataset"),
        (IndexedDataset(TensorDataset(X, Y.float())), {}, "loss", "with class ids as labels"),
        (IndexedDataset(TensorDataset(X, Y[:, None])), {}, "loss", r"labels of shape \(8, 1\); logits \(b, C\)"),
        (IndexedDataset(PLAIN), {"drop_last": True}, "loss", "gave 16 of 21 samples in 16; each is needed once"),
        (IndexedDataset(PLAIN), {}, "lose", "unknown signal 'lose'"),
    ],
)
def test_what_cannot_be_recorded_is_told(data: Any, options: dict[str, Any], needs: str, message: str) -> None:
    model = network()
    with pytest.raises(UsageError, match=message):
        record_proxy(model, DataLoader(data, 8, **options), {needs})
    assert model.training
