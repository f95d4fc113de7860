"""dpbench: data-pruning methods behind one interface, compared with exact accounting and honest statistics."""

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# `methods/` and `datasets/` of the checkout, and of every folder in DPBENCH_PATH, are portions of
# the namespace packages dpbench.methods and dpbench.datasets.
_root = Path(__file__).resolve().parent.parent
if (_root / "methods").is_dir() and (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))
__path__.extend(home for home in os.environ.get("DPBENCH_PATH", "").split(os.pathsep) if home)

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


def __getattr__(name: str) -> Any:
    """Import on first use, so that `dpbench --help` does not wait for torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dpbench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dpbench.{_EXPORTS[name]}"), name)
