"""A small transformer, for tables."""

import torch
from dpbench.models.transformer import Block
from torch import Tensor, nn

from dpbench.tables import Columns

KINDS = ("tables",)


def ft_transformer(
    shape: Columns, classes: int, width: int = 64, depth: int = 2, heads: int = 4, dropout: float = 0.1
) -> nn.Module:
    """FT-Transformer (Gorishniy et al. 2021): a token for each column, and one whose output is classified."""
    return FTTransformer(shape, classes, width, depth, heads, dropout)


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
