"""The models' shapes, sizes and heads."""

import pytest
import torch
from torch import nn

from dpbench import catalog
from dpbench.errors import UsageError
from dpbench.models import head


@pytest.mark.parametrize(
    ("text", "shape", "embedding"),
    [
        ("mlp", (1, 8, 8), 128),
        ("mlp[width=7,depth=3]", (3, 4, 5), 7),
        ("mlp[depth=0]", (1, 2, 3), 6),
        ("cnn", (1, 8, 8), 64),
        ("cnn[width=3]", (3, 13, 10), 12),
        ("resnet18", (3, 8, 8), 512),
        ("resnet18", (1, 4, 4), 512),
    ],
)
def test_images_become_logits(text: str, shape: tuple[int, ...], embedding: int) -> None:
    model = catalog.load_model(text, shape, 5)
    assert model(torch.rand(3, *shape)).shape == (3, 5)
    assert isinstance(head(model), nn.Linear)
    assert (head(model).in_features, head(model).out_features) == (embedding, 5)


def test_resnet18_has_the_stem_for_small_images() -> None:
    model = catalog.load_model("resnet18", (3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962, "as in the papers"
    seen = []
    model.layer1.register_forward_hook(lambda *args: seen.append(args[2].shape))
    model(torch.rand(2, 3, 32, 32))
    assert seen == [(2, 64, 32, 32)], "the first stage keeps the image's size"


def test_weights_come_from_torchs_generator() -> None:
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(head(catalog.load_model("mlp", (1, 2, 2), 3)).weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(UsageError, match="images of 3 x 8 are too small for two poolings; use mlp"):
        catalog.load_model("cnn", (1, 3, 8), 2)
    with pytest.raises(UsageError, match="Conv2d has no linear layer"):
        head(nn.Conv2d(1, 1, 1))
