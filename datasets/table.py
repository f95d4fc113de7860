"""A table of one's own: a CSV or Parquet file with a column of labels, or a table that comes with scikit-learn."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split

from dpbench.data import Dataset, UsageError, param
from dpbench.tables import Table as Rows

BUNDLED = {"breast_cancer": datasets.load_breast_cancer, "iris": datasets.load_iris, "wine": datasets.load_wine}
MOST = 1000  # values of a category; a column with more is a name or a text


class Table(Dataset):
    """Rows of `path` (a file, or breast_cancer, iris or wine), classified by the column `label`.

    Numbers are standardised; a missing one counts as average and is marked in a category of its own. All else is a
    category; what is missing, or not among the training rows, is its value 0. Columns named in `drop` (a b c) are left
    out. `test` is the share of the rows that is held out as test samples, stratified by class.
    """

    path: str = param("")
    label: str = param("label")
    drop: str = param("")
    test: float = param(0.2, low=0.01, high=0.9)
    kind = "tables"

    def read(self, root: Path | None) -> tuple[Rows, Rows]:
        frame, label = self._frame(root)
        values, labels = frame.drop(columns=label), _labels(frame[label], label)
        values = values.drop(columns=self._dropped(values))
        rows = np.arange(len(frame))
        counts = np.bincount(labels)
        share = labels if counts.min() > 1 else None  # a class of one sample cannot be on both sides
        train, test = train_test_split(rows, test_size=self.test, random_state=0, stratify=share)
        return _encode(values, labels, train, test)

    def _frame(self, root: Path | None) -> tuple[pd.DataFrame, str]:
        """The whole table, and the name of the column of its labels."""
        if not self.path:
            raise UsageError(f"table: which? table:FILE.csv, table:FILE.parquet or table:{'|'.join(sorted(BUNDLED))}")
        file = (root or Path()) / self.path
        if not file.is_file() and self.path in BUNDLED:
            return BUNDLED[self.path](as_frame=True).frame, "target"
        try:
            read = pd.read_parquet if file.suffix == ".parquet" else pd.read_csv
            more = {"sep": "\t"} if file.suffix == ".tsv" else {}
            frame = read(file, **more)
        except FileNotFoundError:
            raise UsageError(f"table: there is no file {file}") from None
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise UsageError(f"table: {file} cannot be read: {' '.join(str(error).split())[:200]}") from None
        if self.label not in frame:
            columns = ", ".join(map(str, frame.columns[:20]))
            raise UsageError(f"table: {file} has no column {self.label!r}; it has {columns}; say label=COLUMN")
        return frame, self.label

    def _dropped(self, values: pd.DataFrame) -> list[str]:
        names = self.drop.split()
        absent = [name for name in names if name not in values]
        if absent:
            raise UsageError(f"table: drop: there is no column {absent[0]!r}")
        return names


def _labels(column: pd.Series, name: str) -> np.ndarray:
    """The classes as 0..C-1, in the order of their sorted names."""
    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise UsageError(f"table: {len(missing)} rows have no {name}; the first is row {missing[0]}")
    return pd.factorize(column, sort=True)[0]


def _encode(values: pd.DataFrame, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[Rows, Rows]:
    """Numbers and codes of the training and the test rows."""
    numbers, codes, sizes = [], [], []
    for name, column in values.items():
        if pd.api.types.is_numeric_dtype(column):
            number = column.to_numpy(np.float32, na_value=np.nan)
            numbers.append(np.where(np.isinf(number), np.nan, number))
            if np.isnan(numbers[-1][train]).any():
                codes.append((~np.isnan(numbers[-1])).astype(np.int64))
                sizes.append(2)
            continue
        known = pd.Index(sorted(column.iloc[train].dropna().astype(str).unique()))
        if len(known) > MOST:
            raise UsageError(f"table: column {name!r} has {len(known):,} different values; leave it out: drop={name}")
        codes.append(known.get_indexer(column.astype(str).where(column.notna())) + 1)
        sizes.append(len(known) + 1)
    n = len(values)
    both = (
        torch.from_numpy(np.stack(numbers, 1)) if numbers else torch.empty(n, 0),
        torch.from_numpy(np.stack(codes, 1).astype(np.int64)) if codes else torch.empty(n, 0, dtype=torch.int64),
    )
    found = Rows(*both, tuple(sizes), torch.from_numpy(labels.astype(np.int64)))
    return found.at(torch.from_numpy(train)), found.at(torch.from_numpy(test))
