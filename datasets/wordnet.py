"""WordNet 3.0 (Miller 1995): 117,659 glosses, classified into its 45 lexicographer files, of very unequal sizes."""

from pathlib import Path

import numpy as np
import torch

from dpbench.data import Dataset, UsageError, param, split_by_class
from dpbench.tokens import Texts, encode

DEBIAN = Path("/usr/share/wordnet")
PARTS = ("noun", "verb", "adj", "adv")


class WordNet(Dataset):
    """The first `length` byte pairs of each gloss; a tenth of each class is held out as test samples.

    Debian has the files: `apt install wordnet-base`; --data-root names another folder with data.noun and the others.
    """

    length: int = param(32, low=1, high=1000)
    vocabulary: int = param(8192, low=300, high=1_000_000)
    kind = "texts"

    def read(self, root: Path | None) -> tuple[Texts, Texts]:
        texts: list[str] = []
        classes: list[int] = []
        for part in PARTS:
            file = (root or DEBIAN) / f"data.{part}"
            if not file.is_file():
                raise UsageError(f"wordnet: there is no {file}; apt install wordnet-base, or --data-root DIR")
            for line in file.read_text(encoding="latin-1").splitlines():
                if not line.startswith("  "):  # the licence
                    fields, _, gloss = line.partition("|")
                    texts.append(gloss.strip())
                    classes.append(int(fields.split(maxsplit=2)[1]))
        labels = np.unique(classes, return_inverse=True)[1]
        train, test = split_by_class(labels, 0.1)
        found = Texts(encode(texts, train, self.vocabulary, self.length), self.vocabulary, torch.from_numpy(labels))
        return found.at(torch.from_numpy(train)), found.at(torch.from_numpy(test))
