"""dpbench: data-pruning methods behind one interface, compared with exact accounting and honest statistics."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from dpbench.places import Finder

__version__ = "0.1.0"

sys.meta_path.insert(0, Finder())  # in front: an installed package of one folder would hide the others

_EXPORTS = {
    "Picks": "method",
    "Proxy": "method",
    "PruningMethod": "method",
    "Requires": "method",
    "Selection": "method",
    "Signals": "method",
    "Task": "method",
    "param": "method",
    "load_method": "catalog",
    "PruningSampler": "training.sampler",
    "ShardedSelection": "training.sharded",
    "IndexedDataset": "training.indexed",
    "record_proxy": "training.record",
}
__all__ = [
    "IndexedDataset",
    "Picks",
    "Proxy",
    "PruningMethod",
    "PruningSampler",
    "Requires",
    "Selection",
    "ShardedSelection",
    "Signals",
    "Task",
    "load_method",
    "param",
    "record_proxy",
]

if TYPE_CHECKING:
    from dpbench.catalog import load_method
    from dpbench.method import Picks, Proxy, PruningMethod, Requires, Selection, Signals, Task, param
    from dpbench.training.indexed import IndexedDataset
    from dpbench.training.record import record_proxy
    from dpbench.training.sampler import PruningSampler
    from dpbench.training.sharded import ShardedSelection


def __getattr__(name: str) -> Any:
    """Import on first use, so that `dpbench --help` does not wait for torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dpbench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dpbench.{_EXPORTS[name]}"), name)
