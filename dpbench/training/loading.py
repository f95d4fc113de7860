"""The data of a run: loaded once a process, and checked to be what the run was made for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from dpbench import catalog
from dpbench.data import Data
from dpbench.errors import RunFailed
from dpbench.spec import RunSpec
from dpbench.training import proxy

change: list[Callable[[Data], Data]] = []  # what a smoke test makes of the data that this process loads


@lru_cache(maxsize=2)
def load_data(dataset: str, root: Path | None) -> Data:
    """A dataset, kept for the next run of this process."""
    data = catalog.load_dataset(dataset).load(root)
    for make in change:
        data = make(data)
    return data


def fingerprints(datasets: Iterable[str], root: Path | None) -> dict[str, str]:
    """Each dataset's fingerprint, which a run's spec names; missing files are reported here, before any work."""
    return {dataset: load_data(dataset, root).fingerprint for dataset in datasets}


def data_of(work: RunSpec | proxy.Request, root: Path | None) -> Data:
    """The data that a run or a proxy training was made for; no other data may answer for them."""
    data = load_data(work.dataset, root)
    if data.fingerprint != work.data:
        made = f"was made for data {work.data}" if work.data else "names no data"
        raise RunFailed(
            f"{work.dataset}: this {'run' if isinstance(work, RunSpec) else 'proxy'} {made}, and what is loaded here "
            f"is {data.fingerprint}; the files are others, or were changed since the command began"
        )
    return data
