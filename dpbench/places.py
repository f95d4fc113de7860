"""Where methods, datasets and models lie: with dpbench, in homes that DPBENCH_PATH names, in single files.

The packages `dpbench.methods`, `dpbench.datasets` and `dpbench.models` have no files of their own. `Finder` tells
Python which folders each of them is made of; what lies in these folders Python finds as in any package.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

KINDS = ("methods", "datasets", "models")  # what is chosen by name
HERE = Path(__file__).resolve().parent
_checkout = (HERE.parent / "pyproject.toml").is_file() and (HERE.parent / "methods").is_dir()
OURS = [HERE, HERE.parent] if _checkout else [HERE]  # what comes with dpbench: installed into it, in a checkout beside
LEADERBOARDS = OURS[-1] / "leaderboards"
_homes = [Path(home) for home in os.environ.get("DPBENCH_PATH", "").split(os.pathsep) if home]
# the __path__ of each of the three packages; what is found first counts
FOLDERS = {f"dpbench.{kind}": [str(root / kind) for root in (*OURS, *_homes)] for kind in KINDS}
FILES: dict[str, str] = {}  # plug-ins given as single files, by the names of their modules; workers are told of them


class Finder:
    """Finds the three packages and the single files, for `sys.meta_path`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None, /) -> ModuleSpec | None:
        if name in FILES:
            return spec_from_file_location(name, FILES[name])
        if name not in FOLDERS:
            return None
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = FOLDERS[name]
        return spec
