"""A bag of token embeddings."""

from torch import Tensor, nn

from dpbench.tokens import PAD, Sequence

KINDS = ("texts",)


def bag(shape: Sequence, classes: int, width: int = 64) -> nn.Module:
    """The mean of a text's token embeddings and one linear layer (fastText, Joulin et al. 2017)."""
    return Bag(shape, classes, width)


class Bag(nn.Module):
    """See `bag`."""

    def __init__(self, shape: Sequence, classes: int, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(shape.vocabulary, width, padding_idx=PAD), nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (b, l) to logits (b, C)."""
        return self.head(self.embed(tokens).sum(1) / (tokens != PAD).sum(1, keepdim=True).clamp(min=1))
