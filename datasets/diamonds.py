"""Diamonds (Wickham, ggplot2): 53,940 rows, six numbers, two categories and the price, five classes of cut."""

from pathlib import Path

import pandas as pd

from dpbench.data import Dataset
from dpbench.files import member
from dpbench.frames import halves
from dpbench.tables import Table


class Diamonds(Dataset):
    """A fifth of each class is held out as test samples.

    The file is in the wheel of plotnine, which is read and not installed:
    `pip download --no-deps plotnine==0.15.9 -d data`, and --data-root for another folder than data.
    """

    kind = "tables"

    def read(self, root: Path | None) -> tuple[Table, Table]:
        frame = pd.read_csv(member(root, "plotnine", "plotnine/data/diamonds.csv"))
        return halves("diamonds", frame, "cut")
