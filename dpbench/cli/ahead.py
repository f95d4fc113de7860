"""What `dpbench run` does with a grid other than running it: an estimate, a try, commands for its cells, one cell."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dpbench.cli.terminal import err, program
from dpbench.errors import RunFailed

if TYPE_CHECKING:
    import torch

    from dpbench.spec import Grid


def cell(grid: Grid, key: str, threads: int, device: torch.device, data_root: Path | None, timeout_s: float) -> None:
    """Run one cell of a grid that was listed, with the controls of its row after the row's last seed."""
    from dpbench.experiments import cells
    from dpbench.training.results import read_result

    for one in cells.run_cell(grid.name, key, err, threads, device, data_root, timeout_s):
        result = read_result(one)
        if result is None or result["status"] == "FAILED":
            raise RunFailed(f"the run {one} failed: {result['reason'] if result else 'it left no result'}")


def list_commands(grid: Grid, data_root: Path | None) -> None:
    """Print a command for each cell that is not done: this one's, with the cell in the place of --list-commands."""
    from dpbench import store
    from dpbench.experiments import cells

    found, count = cells.listed(grid, data_root)
    given = [text for text in sys.argv[1:] if text != "--list-commands"]
    own = any(mark in text for text in given for mark in (".yaml", ".yml", ".py", ":", "path=")) or data_root
    start = f"cd {shlex.quote(os.getcwd())} && " if own else ""  # where relative paths lead on
    start += f"DPBENCH_HOME={shlex.quote(str(store.home()))} "
    for key in found:
        print(start + shlex.join([*_called(), *given, "--cell", key]))
    err.print(f"{len(found)} of {count} cells are not done. Run these in any order, then this without --list-commands.")


def _called() -> list[str]:
    """The words that start this program from any folder."""
    if Path(sys.argv[0]).suffix == ".py":
        return [sys.executable, "-m", "dpbench.cli"]
    return ["dpbench" if program() == "dpbench" else os.path.abspath(program())]
