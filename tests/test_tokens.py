"""Texts: batches as long as their longest, and each fault with its line."""

import pytest
import torch

from dpbench.spec import Recipe
from dpbench.tokens import Sequence, Texts

TOKENS = torch.tensor([[4, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [3, 3, 3, 2]])
LABELS = torch.tensor([0, 1, 0, 1])
RIGHT = Texts(TOKENS, 5, LABELS)


def test_a_batch_is_as_long_as_its_longest_text() -> None:
    loader = RIGHT.loader(RIGHT, Recipe(epochs=1, batch_size=1, lr=1), torch.device("cpu"), augment=True)
    tokens, labels = loader.batch(torch.tensor([1, 0]))
    assert tokens.tolist() == [[1, 0], [4, 2]]
    assert labels.tolist() == [1, 0]
    assert loader.batch(torch.tensor([2]))[0].tolist() == [[0]], "an empty text is one token of padding"
    assert loader.batch(torch.tensor([3, 2]))[0].shape == (2, 4)
    assert RIGHT.at(torch.tensor([3])).shape == Sequence(4, 5)


def test_a_token_of_padding_within_a_text_does_not_end_it() -> None:
    texts = Texts(torch.tensor([[4, 0, 2, 0], [1, 0, 0, 0]]), 5, LABELS[:2])
    loader = texts.loader(texts, Recipe(epochs=1, batch_size=1, lr=1), torch.device("cpu"), augment=True)
    assert loader.batch(torch.tensor([0, 1]))[0].tolist() == [[4, 0, 2], [1, 0, 0]]
    assert loader.batch(torch.tensor([1]))[0].tolist() == [[1]]


@pytest.mark.parametrize(
    ("texts", "faults"),
    [
        (RIGHT, []),
        (Texts(TOKENS, 4, LABELS), ["test tokens are outside 0..3"]),
        (Texts(TOKENS - 1, 5, LABELS), ["test tokens are outside 0..4"]),
        (Texts(TOKENS[:3], 5, LABELS), ["3 test texts have 4 labels"]),
        (Texts(TOKENS.int(), 5, LABELS), ["test tokens are torch.int32; torch.int64 is needed"]),
    ],
)
def test_each_fault_has_its_line(texts: Texts, faults: list[str]) -> None:
    assert texts.faults("test") == faults
