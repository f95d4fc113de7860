"""A small transformer, for texts."""

import torch.nn.functional as F
from torch import Tensor, nn

from dpbench.tokens import PAD, Sequence

KINDS = ("texts",)


def transformer(
    shape: Sequence, classes: int, width: int = 64, depth: int = 2, heads: int = 4, dropout: float = 0.1
) -> nn.Module:
    """A small transformer encoder over a text's tokens, whose mean output is classified."""
    return TextTransformer(shape, classes, width, depth, heads, dropout)


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
