"""A subset from a file, which `dpbench run --from FILE` takes in."""

from pathlib import Path

import torch

from dpbench import store
from dpbench.errors import UsageError
from dpbench.method import PruningMethod, Requires, Selection, Task, param
from dpbench.selections import Selections


class Subset(PruningMethod):
    """Train on the samples, with the weights, of $DPBENCH_HOME/subsets/ID.npz; `id` ends in the hash of its content."""

    id: str = param("")

    def requires(self) -> Requires:
        """The fixed share is the one that was asked for, or the file's own where it holds another number of samples."""
        if not self.file.is_file():
            return Requires(period=0)
        found = Selections.read(self.file)
        k, asked = len(found.epochs[0]), found.config.get("keep", 0.0)
        return Requires(period=0, fixed_keep=asked if round(asked * found.n) == k else k / found.n)

    @property
    def file(self) -> Path:
        return store.home() / "subsets" / f"{self.id}.npz"

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        if not self.id:
            raise UsageError("subset: no file is named; give yours by dpbench run --from FILE")
        if not self.file.is_file():
            raise UsageError(
                f"subset: no file {self.id}.npz under $DPBENCH_HOME/subsets; give yours by dpbench run --from FILE"
            )
        found = Selections.read(self.file)
        if not self.id.endswith(found.digest[:8]):
            raise UsageError(f"subset: {self.file} is not the file that was taken in; give yours by dpbench run --from")
        if found.n != task.n:
            raise UsageError(f"subset: {self.id} is a subset of {found.n} samples, not of {task.n}")
        made_for = found.config.get("data") or task.data
        if task.data and made_for != task.data:
            raise UsageError(f"subset: {self.id} is a subset of other data ({made_for}) than these ({task.data})")
        self.indices, self.weights = found.epochs[0], found.weights

    def select(self, epoch: int) -> Selection:
        return Selection(self.indices, self.weights)
