"""Compare a grid of two homes: the same cells, with the same numbers to the last digit. python same.py HOME HOME"""

import os
import sys

from dpbench.experiments import grid as grids

TIMES = ("time_", "peak_")


def numbers(home: str) -> dict[str, dict[str, float]]:
    """The metrics of each run by hash, but for those of the machine."""
    os.environ["DPBENCH_HOME"] = home
    manifest = grids.read_manifest("grid")
    found = grids.results(manifest.cells | manifest.controls)
    assert found.keys() == (manifest.cells | manifest.controls).keys(), "runs are missing"
    return {
        key: {name: value for name, value in result["metrics"].items() if not name.startswith(TIMES)}
        for key, result in found.items()
    }


first, second = (numbers(home) for home in sys.argv[1:])
assert first == second, "the leaderboards differ"
print(f"{len(first)} runs, the same to the last digit")
