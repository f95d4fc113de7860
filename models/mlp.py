"""A perceptron, for images and tables."""

from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpbench.tables import Columns

KINDS = ("images", "tables")


def mlp(shape: tuple[int, ...] | Columns, classes: int, width: int = 128, depth: int = 2) -> nn.Module:
    """A perceptron with `depth` hidden layers of `width` units and ReLU; a table's categories come as one-hot."""
    first = OneHot(shape) if isinstance(shape, Columns) else nn.Flatten()
    inputs = shape.numbers + sum(shape.categories) if isinstance(shape, Columns) else prod(shape)
    widths = [inputs] + [width] * depth
    hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(first, *hidden, nn.Linear(widths[-1], classes))


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
