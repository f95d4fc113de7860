"""Letter recognition (Frey and Slate 1991): 20,000 rows of 16 numbers, 26 classes."""

from pathlib import Path

from dpbench.data import Dataset
from dpbench.frames import of_r
from dpbench.tables import Table


class Letters(Dataset):
    """A fifth of each class is held out as test samples.

    Debian has the file: `apt install --no-install-recommends r-cran-mlbench`; --data-root names another folder with
    LetterRecognition.rda. It is read by `pip install 'dpbench[r]'`.
    """

    kind = "tables"

    def read(self, root: Path | None) -> tuple[Table, Table]:
        return of_r("letters", "LetterRecognition", "lettr", root)
