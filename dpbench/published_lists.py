"""Index lists that other projects have published, with their hashes: leaderboards/subsets.csv."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from dpbench.places import LEADERBOARDS


@dataclass(frozen=True)
class List:
    """A file that lists `size` of the `n` training samples of a dataset, in the order of the dataset's own files."""

    name: str
    dataset: str
    n: int
    size: int
    sha256: str
    source: str
    paper: str


@cache
def lists() -> dict[str, List]:
    """All lists by name."""
    with (LEADERBOARDS / "subsets.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    texts = ("name", "dataset", "sha256", "source", "paper")
    found = [List(n=int(line["n"]), size=int(line["size"]), **{key: line[key] for key in texts}) for line in lines]
    return {one.name: one for one in found}


def of_sha256(sha256: str) -> List | None:
    """The list whose file has this hash."""
    return next((one for one in lists().values() if one.sha256 == sha256), None)
