"""The models: functions of (shape, classes, ...) that return a network whose last linear layer gives the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from dpbench.errors import UsageError


def mlp(shape: tuple[int, ...], classes: int, width: int = 128, depth: int = 2) -> nn.Module:
    """A perceptron with `depth` hidden layers of `width` units and ReLU."""
    widths = [prod(shape)] + [width] * depth
    hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(widths[-1], classes))


def cnn(shape: tuple[int, ...], classes: int, width: int = 16) -> nn.Module:
    """Two 3 x 3 convolutions, `width` and 2 `width` channels, with ReLU and 2 x 2 pooling; 4 `width` hidden units."""
    channels, height, breadth = shape
    if min(height, breadth) < 4:
        raise UsageError(f"cnn: images of {height} x {breadth} are too small for two poolings; use mlp")
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (height // 4) * (breadth // 4), 4 * width),
        nn.ReLU(),
        nn.Linear(4 * width, classes),
    )


def resnet18(shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet-18 with the CIFAR stem: a 3 x 3 first convolution of stride 1 and no pooling."""
    from torchvision.models import resnet18 as build  # torchvision takes a second to import

    model = build(num_classes=classes)
    model.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn, "resnet18": resnet18}


def head(model: nn.Module) -> nn.Linear:
    """Return the last linear layer, whose input is the embedding."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise UsageError(f"{type(model).__name__} has no linear layer, so it has no embedding")
    return layers[-1]


@contextmanager
def inputs_of(layer: nn.Linear | None) -> Iterator[list[Tensor]]:
    """What is put into `layer` within the block, forward pass by forward pass; nothing for None."""
    seen: list[Tensor] = []
    if layer is None:
        yield seen
        return
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()
