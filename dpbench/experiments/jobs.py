"""What a worker does of a grid, on this machine or on another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpbench import store
from dpbench.spec import RunSpec
from dpbench.training.results import RunResult, is_done, read_result

if TYPE_CHECKING:  # torch takes seconds to import, and whoever shows a board does without
    from dpbench.training.proxy import Request


@dataclass(frozen=True)
class Job:
    """A proxy record to make, or a run to carry out, on a device, by default the worker's own."""

    work: RunSpec | list[Request]
    device: str | None
    data_root: Path | None

    @property
    def title(self) -> str:
        """A short name for people."""
        return self.work.title if isinstance(self.work, RunSpec) else f"a proxy of seed {self.work[0].seed}"

    @property
    def devices(self) -> int:
        """How many processes do it together."""
        return self.work.devices if isinstance(self.work, RunSpec) else 1

    def __call__(self) -> RunResult | None:
        """Do it, in a worker."""
        import torch

        from dpbench.training import loading, proxy, runner

        device = torch.device(self.device) if self.device else runner.default_device()
        if isinstance(self.work, RunSpec):
            return runner.run(self.work, device, self.data_root)
        proxy.record(self.work, loading.data_of(self.work[0], self.data_root), device)
        return None

    @property
    def key(self) -> str:
        """What names its results: another code makes another one of the same work."""
        return self.work.hash if isinstance(self.work, RunSpec) else self.work[0].hash

    def done(self) -> bool:
        """Whether its results are there, whoever made them."""
        if isinstance(self.work, RunSpec):
            store.look_again(store.run_folder(self.work.hash))
            return is_done(self.work.hash)
        return not any(request.missing() for request in self.work)

    def found(self) -> RunResult | None:
        """Its results, as the folder has them."""
        if not isinstance(self.work, RunSpec):
            return None
        store.look_again(store.run_folder(self.work.hash))
        return read_result(self.work.hash)


def do(job: Job) -> Any:
    """Call a job; a module-level function, as worker processes need."""
    return job()
