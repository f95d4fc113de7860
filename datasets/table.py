"""A table of one's own: a CSV or Parquet file with a column of labels, or a table that comes with scikit-learn."""

from pathlib import Path

import pandas as pd
from sklearn import datasets

from dpbench.data import Dataset, UsageError, param
from dpbench.errors import one_line
from dpbench.frames import halves
from dpbench.tables import Table as Rows

BUNDLED = {"breast_cancer": datasets.load_breast_cancer, "iris": datasets.load_iris, "wine": datasets.load_wine}


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
        return halves(f"table: {self.path}", frame.drop(columns=self._dropped(frame)), label, self.test)

    def _frame(self, root: Path | None) -> tuple[pd.DataFrame, str]:
        """The whole table, and the name of the column of its labels."""
        if not self.path:
            raise UsageError(f"table: which? table:FILE.csv, table:FILE.parquet or table:{'|'.join(sorted(BUNDLED))}")
        file = (root or Path()) / self.path
        if not file.is_file() and self.path in BUNDLED:
            return BUNDLED[self.path](as_frame=True).frame, "target"
        try:
            separator = "\t" if file.suffix == ".tsv" else ","
            frame = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, sep=separator)
        except FileNotFoundError:
            raise UsageError(f"table: there is no file {file}") from None
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise UsageError(f"table: {file} cannot be read: {one_line(error, 200)}") from None
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
