"""Tables: standardised by the training rows, and each fault with its line."""

import pytest
import torch
from torch import Tensor

from dpbench.spec import Recipe
from dpbench.tables import Columns, Table

CPU = torch.device("cpu")
NAN = float("nan")
NUMBERS = torch.tensor([[1.0, 5.0], [3.0, 5.0], [NAN, 5.0], [5.0, 5.0]])
CODES = torch.tensor([[0], [2], [1], [2]])
LABELS = torch.tensor([0, 1, 0, 1])
RIGHT = Table(NUMBERS, CODES, (3,), LABELS)
RECIPE = Recipe(epochs=1, batch_size=1, lr=1)


def test_numbers_are_standardised_by_the_training_rows_and_missing_ones_are_average() -> None:
    rows, labels = RIGHT.loader(RIGHT, RECIPE, CPU, augment=True).batch(torch.tensor([2, 0, 3]))
    spread = (8 / 3) ** 0.5
    torch.testing.assert_close(rows, torch.tensor([[0, 0, 1], [-2 / spread, 0, 0], [2 / spread, 0, 2]]))
    assert labels.tolist() == [0, 0, 1]
    other = Table(torch.tensor([[7.0, 6.0]]), CODES[:1], (3,), LABELS[:1]).loader(RIGHT, RECIPE, CPU, augment=False)
    torch.testing.assert_close(other.batch(torch.tensor([0]))[0], torch.tensor([[4 / spread, 1.0, 0]]))
    assert RIGHT.shape == Columns(2, (3,))


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({}, []),
        ({"numbers": NUMBERS.double()}, ["training numbers are torch.float64; torch.float32 is needed"]),
        ({"numbers": NUMBERS[:3]}, ["3 rows of training numbers have 4 labels"]),
        ({"codes": CODES[:, 0]}, ["training codes are of shape (4,); (n, columns) is needed"]),
        ({"codes": CODES + 1}, ["training codes are outside 0..categories-1"]),
        ({"codes": CODES - 1}, ["training codes are outside 0..categories-1"]),
        ({"categories": (3, 3)}, ["training codes have 1 columns, categories 2 sizes"]),
        ({"numbers": NUMBERS / 0}, ["training numbers are infinite in column 0; a missing one is NaN"]),
        ({"numbers": NUMBERS[:, :0], "codes": CODES[:, :0], "categories": ()},
         ["training rows have no column but the label"]),
        ({"labels": LABELS - 1}, ["training labels reach down to -1; they begin at 0"]),
    ],
)  # fmt: skip
def test_each_fault_has_its_line(changes: dict[str, Tensor], faults: list[str]) -> None:
    assert Table(**(vars(RIGHT) | changes)).faults("training") == faults


def test_the_fingerprint_covers_every_value() -> None:
    assert RIGHT.fingerprint == Table(NUMBERS.clone(), CODES, (3,), LABELS).fingerprint
    for changes in ({"numbers": NUMBERS + 1}, {"codes": CODES.flip(0)}, {"labels": LABELS.flip(0)}):
        assert Table(**(vars(RIGHT) | changes)).fingerprint != RIGHT.fingerprint
