"""The models: functions of (shape, classes, ...) that return a network whose last linear layer gives the logits.

The shape is that of one sample: (c, h, w) of an image, Columns of a table's row, Sequence of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpbench.errors import UsageError
from dpbench.tables import Columns
from dpbench.tokens import PAD, Sequence

SMALL = 64  # pixels below which a ResNet has the CIFAR stem


def mlp(shape: tuple[int, ...] | Columns, classes: int, width: int = 128, depth: int = 2) -> nn.Module:
    """A perceptron with `depth` hidden layers of `width` units and ReLU; a table's categories come as one-hot."""
    first = OneHot(shape) if isinstance(shape, Columns) else nn.Flatten()
    inputs = shape.numbers + sum(shape.categories) if isinstance(shape, Columns) else prod(shape)
    widths = [inputs] + [width] * depth
    hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(first, *hidden, nn.Linear(widths[-1], classes))


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


def _resnet(build: Callable[..., nn.Module], shape: tuple[int, ...], classes: int) -> nn.Module:
    model = build(num_classes=classes)
    small = min(shape[1:]) < SMALL
    model.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False) if small else model.conv1
    model.maxpool = nn.Identity() if small else model.maxpool
    if not small and shape[0] != 3:
        raise UsageError(f"a ResNet of images of {SMALL} pixels and more takes 3 channels, not {shape[0]}")
    return model


def resnet18(shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet-18; below 64 pixels with the CIFAR stem: a 3 x 3 first convolution of stride 1 and no pooling."""
    from torchvision.models import resnet18 as build  # torchvision takes a second to import

    return _resnet(build, shape, classes)


def resnet34(shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet-34, with the same stem."""
    from torchvision.models import resnet34 as build

    return _resnet(build, shape, classes)


def resnet50(shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet-50, with the same stem."""
    from torchvision.models import resnet50 as build

    return _resnet(build, shape, classes)


def ft_transformer(
    shape: Columns, classes: int, width: int = 64, depth: int = 2, heads: int = 4, dropout: float = 0.1
) -> nn.Module:
    """FT-Transformer (Gorishniy et al. 2021): a token for each column, and one whose output is classified."""
    return FTTransformer(shape, classes, width, depth, heads, dropout)


def bag(shape: Sequence, classes: int, width: int = 64) -> nn.Module:
    """The mean of a text's token embeddings and one linear layer (fastText, Joulin et al. 2017)."""
    return Bag(shape, classes, width)


def transformer(
    shape: Sequence, classes: int, width: int = 64, depth: int = 2, heads: int = 4, dropout: float = 0.1
) -> nn.Module:
    """A small transformer encoder over a text's tokens, whose mean output is classified."""
    return TextTransformer(shape, classes, width, depth, heads, dropout)


class OneHot(nn.Module):
    """A table's rows (b, d + c) with the codes of each category as one-hot."""

    def __init__(self, shape: Columns) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, rows: Tensor) -> Tensor:
        """(b, d + the number of all values)."""
        numbers, codes = rows[:, : self.shape.numbers], rows[:, self.shape.numbers :].long()
        hot = [F.one_hot(code, size).float() for code, size in zip(codes.unbind(1), self.shape.categories, strict=True)]
        return torch.cat([numbers, *hot], 1)


class Block(nn.Module):
    """A layer of a transformer encoder, normalised before each part."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, seen: Tensor | None = None) -> Tensor:
        """Tokens (b, l, width) to the same; `seen` (b, l) bool are those that may be attended to."""
        parts = self.project(self.before(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if seen is None else seen[:, None, None]
        query, key, value = parts
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        tokens = tokens + self.drop(self.join(found))
        return tokens + self.drop(self.feed(self.between(tokens)))


class FTTransformer(nn.Module):
    """See `ft_transformer`."""

    def __init__(self, shape: Columns, classes: int, width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.numbers = shape.numbers
        scale = width**-0.5
        self.weight, self.bias = (nn.Parameter(torch.randn(shape.numbers, width) * scale) for _ in range(2))
        self.values = nn.ModuleList(nn.Embedding(size, width) for size in shape.categories)
        self.summary = nn.Parameter(torch.randn(width) * scale)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (b, d + c) to logits (b, C)."""
        numbers, codes = rows[:, : self.numbers], rows[:, self.numbers :].long()
        tokens = [(numbers[:, :, None] * self.weight + self.bias), self.summary.expand(len(rows), 1, -1)]
        tokens += [embed(code)[:, None] for embed, code in zip(self.values, codes.unbind(1), strict=True)]
        found = torch.cat(tokens, 1)
        for block in self.blocks:
            found = block(found)
        return self.head(self.norm(found[:, self.numbers]).relu())


class Bag(nn.Module):
    """See `bag`."""

    def __init__(self, shape: Sequence, classes: int, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(shape.vocabulary, width, padding_idx=PAD), nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (b, l) to logits (b, C)."""
        return self.head(self.embed(tokens).sum(1) / (tokens != PAD).sum(1, keepdim=True).clamp(min=1))


class TextTransformer(nn.Module):
    """See `transformer`."""

    def __init__(self, shape: Sequence, classes: int, width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.embed, self.place = (
            nn.Embedding(shape.vocabulary, width, padding_idx=PAD),
            nn.Embedding(shape.length, width),
        )
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (b, l) to logits (b, C)."""
        seen = tokens != PAD
        seen[:, 0] = True  # an empty text attends to one token of padding
        found = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        for block in self.blocks:
            found = block(found, seen)
        mean = (self.norm(found) * seen[:, :, None]).sum(1) / seen.sum(1, keepdim=True)
        return self.head(mean)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "ft_transformer": ft_transformer,
    "bag": bag,
    "transformer": transformer,
}
# The kinds of samples that each takes; the first model of a kind is the one to begin with.
KINDS: dict[str, tuple[str, ...]] = {
    "images": ("cnn", "mlp", "resnet18", "resnet34", "resnet50"),
    "tables": ("mlp", "ft_transformer"),
    "texts": ("bag", "transformer"),
}


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
