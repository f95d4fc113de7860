"""A dataset whose batches tell their samples, for loaders that skip or reorder batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from dpbench.errors import UsageError


class IndexedDataset(Dataset[Any]):
    """`data` whose samples carry their index, so that a batch tells its samples whatever loader made it.

    A sample that is a mapping gets the key "index"; any other becomes (index, sample):

        loader = DataLoader(IndexedDataset(data), batch_sampler=sampler)
        for indices, (images, labels) in loader:
            loss = sampler.reduce(cross_entropy(model(images), labels, reduction="none"), indices)
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self._indexed(index, self.data[index])

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """A batch at once, as torch's loader asks for it."""
        several = getattr(self.data, "__getitems__", None)
        samples = several(indices) if several else [self.data[index] for index in indices]
        return [self._indexed(index, sample) for index, sample in zip(indices, samples, strict=True)]

    def _indexed(self, index: int, sample: Any) -> Any:
        if not isinstance(sample, Mapping):
            return index, sample
        if "index" in sample:
            raise UsageError(f"IndexedDataset: sample {index} has a key 'index' of its own; rename it")
        return {**sample, "index": index}
