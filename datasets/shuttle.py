"""Statlog Shuttle: 58,000 rows of 9 numbers, 7 classes from 45,586 rows to 10."""

from pathlib import Path

from dpbench.data import Dataset
from dpbench.frames import of_r
from dpbench.tables import Table


class Shuttle(Dataset):
    """A fifth of each class is held out as test samples.

    Debian has the file: `apt install --no-install-recommends r-cran-mlbench`; --data-root names another folder with
    Shuttle.rda. It is read by `pip install 'dpbench[r]'`.
    """

    kind = "tables"

    def read(self, root: Path | None) -> tuple[Table, Table]:
        return of_r("shuttle", "Shuttle", "Class", root)
