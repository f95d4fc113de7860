"""Tables: columns of numbers and of categories, standardised on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dpbench.data import Loader, Source, label_faults, tensor_faults

if TYPE_CHECKING:
    from dpbench.spec import Recipe


class Columns(NamedTuple):
    """The shape of a row: `numbers` columns of numbers, then one column of codes for each of `categories`."""

    numbers: int
    categories: tuple[int, ...]  # how many values each has, the code 0 for a missing one among them


@dataclass(frozen=True)
class Table(Source):
    """Rows of `numbers` (n, d) float32, NaN where one is missing, and `codes` (n, c) int64, with labels (n,) int64.

    A code counts from 0 for a missing value up to one less than its entry in `categories`.
    """

    kind = "tables"

    numbers: Tensor
    codes: Tensor
    categories: tuple[int, ...]
    labels: Tensor

    @property
    def shape(self) -> Columns:
        """What a row holds."""
        return Columns(self.numbers.shape[1], self.categories)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Numbers, codes and labels."""
        return self.numbers, self.codes, self.labels

    def at(self, rows: Tensor) -> Table:
        """The samples at `rows`."""
        return Table(self.numbers[rows], self.codes[rows], self.categories, self.labels[rows])

    def features(self) -> Tensor:
        """The numbers, and each category as zeros and a one."""
        codes = [F.one_hot(column, size).float() for column, size in zip(self.codes.T, self.categories, strict=True)]
        return torch.cat([self.numbers, *codes], 1)

    def faults(self, part: str) -> list[str]:
        """What is wrong with the columns and labels of the split `part`."""
        found = label_faults(part, self.labels)
        for what, values, dtype in (("numbers", self.numbers, torch.float32), ("codes", self.codes, torch.int64)):
            wrong = tensor_faults(f"{part} {what}", values, dtype, 2, "(n, columns)", empty=(1,))
            if not wrong and not found and len(values) != len(self.labels):
                wrong = [f"{len(values)} rows of {part} {what} have {len(self.labels)} labels"]
            found += wrong
        if found:
            return found
        if self.numbers.isinf().any():
            column = int(self.numbers.isinf().any(0).nonzero()[0])
            found.append(f"{part} numbers are infinite in column {column}; a missing one is NaN")
        if self.numbers.shape[1] + self.codes.shape[1] == 0:
            found.append(f"{part} rows have no column but the label")
        if len(self.categories) != self.codes.shape[1]:
            found.append(f"{part} codes have {self.codes.shape[1]} columns, categories {len(self.categories)} sizes")
        elif ((self.codes < 0) | (self.codes >= torch.tensor(self.categories, dtype=torch.int64))).any():
            found.append(f"{part} codes are outside 0..categories-1")
        return found

    def loader(self, like: Source, recipe: Recipe, device: torch.device, augment: bool) -> TableLoader:
        """Batches whose numbers are standardised by those of `like`; nothing is augmented."""
        assert isinstance(like, Table)
        return TableLoader(self, like.numbers, device)


class TableLoader(Loader):
    """Rows (b, d + c) float32 on a device: standardised numbers, 0 where one is missing, and codes as they are."""

    def __init__(self, source: Table, like: Tensor, device: torch.device) -> None:
        self.labels = source.labels.to(device)
        mean = like.nanmean(0)
        scale = (like - mean).square().nanmean(0).sqrt()
        numbers = ((source.numbers - mean) / torch.where(scale > 0, scale, 1.0)).nan_to_num(0.0)
        self.rows = torch.cat([numbers, source.codes.float()], 1).to(device)

    def batch(self, rows: Tensor, augment: bool = True) -> tuple[Tensor, Tensor]:
        """Return the rows (b, d + c) in float32 and the labels (b,)."""
        return self.rows[rows], self.labels[rows]
