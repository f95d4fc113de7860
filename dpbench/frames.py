"""Data frames as tables: which columns are numbers, which are categories, and what is missing in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dpbench.data import split_by_class
from dpbench.errors import UsageError
from dpbench.tables import Table

MOST = 1000  # values of a category; a column with more is a name or a text
DEBIAN = Path("/usr/lib/R/site-library/mlbench/data")


def halves(name: str, frame: pd.DataFrame, label: str, test: float = 0.2) -> tuple[Table, Table]:
    """The training and the test rows of the dataset's frame, `test` of each class, classified by the column `label`."""
    labels = classes(frame[label], label, name)
    return encode(frame.drop(columns=label), labels, *split_by_class(labels, test), name)


def of_r(name: str, frame: str, label: str, root: Path | None) -> tuple[Table, Table]:
    """The dataset `name`, which is a `frame` of R's mlbench, split; UsageError with how to get it."""
    file = (root or DEBIAN) / f"{frame}.rda"
    if not file.is_file():
        raise UsageError(
            f"{name}: there is no {file}: apt install --no-install-recommends r-cran-mlbench, or --data-root DIR"
        )
    try:
        import rdata
    except ImportError:
        raise UsageError(f"{name}: {file} is read by the package rdata: pip install 'dpbench[r]'") from None
    return halves(name, rdata.read_rda(file, default_encoding="ascii")[frame], label)


def classes(column: pd.Series, label: str, name: str) -> np.ndarray:
    """The classes as 0..C-1, in the order of their sorted names."""
    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise UsageError(f"{name}: {len(missing)} rows have no {label}; the first is row {missing[0]}")
    labels, known = pd.factorize(column, sort=True)
    if len(known) < 2:
        raise UsageError(f"{name}: {label} has {len(known)} different values; at least two classes are needed")
    return labels


def encode(
    values: pd.DataFrame, labels: np.ndarray, train: np.ndarray, test: np.ndarray, name: str
) -> tuple[Table, Table]:
    """Numbers and codes of the training and the test rows of the dataset `name`."""
    numbers, codes, sizes = [], [], []
    for title, column in values.items():
        if column.iloc[train].isna().all():
            raise UsageError(
                f"{name}: column {title!r} has no value among the training rows; leave it out: drop={title}"
            )
        if pd.api.types.is_numeric_dtype(column):
            number = column.to_numpy(np.float32, na_value=np.nan)
            numbers.append(np.where(np.isinf(number), np.nan, number))
            if np.isnan(numbers[-1][train]).any():
                codes.append((~np.isnan(numbers[-1])).astype(np.int64))
                sizes.append(2)
            continue
        known = pd.Index(sorted(column.iloc[train].dropna().astype(str).unique()))
        if len(known) > MOST:
            raise UsageError(
                f"{name}: column {title!r} has {len(known):,} different values; leave it out: drop={title}"
            )
        codes.append(known.get_indexer(column.astype(str).where(column.notna())) + 1)
        sizes.append(len(known) + 1)
    n = len(values)
    both = (
        torch.from_numpy(np.stack(numbers, 1)) if numbers else torch.empty(n, 0),
        torch.from_numpy(np.stack(codes, 1).astype(np.int64)) if codes else torch.empty(n, 0, dtype=torch.int64),
    )
    found = Table(*both, tuple(sizes), torch.from_numpy(labels.astype(np.int64)))
    return found.at(torch.from_numpy(train)), found.at(torch.from_numpy(test))
