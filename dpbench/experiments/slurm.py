"""Slurm as an executor, by submitit (extra `slurm`): arrays, requeued before their time limit and when preempted.

Which jobs are over is asked of `squeue`, which needs no accounting database.
"""

from __future__ import annotations

import math
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dpbench.errors import RunFailed, UsageError, one_line
from dpbench.experiments.cluster import Engine, Errand

ARRAY = 1000  # jobs of an array; Slurm's own default limit is 1001
MINUTES = 60  # of one allocation; a run that needs more is requeued and goes on from its checkpoint
MOST_TIMES = 1000  # that a job without a limit is requeued
AGAIN_S = 15.0
SILENT_S = 600.0  # how long the controller may not answer


class Slurm(Engine):
    """Errands as jobs of arrays. Options are submitit's for Slurm: partition, time in minutes, mem, account, ..."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options: dict[str, Any] = {"time": MINUTES, "job_name": "dpbench", "stderr_to_stdout": True} | options
        self.jobs: dict[str, Any] = {}
        self.heard = time.monotonic()
        self._executor(Path("dpbench"), None)

    def _executor(self, folder: Path, timeout_s: float | None) -> Any:
        """Submitit's executor, that requeues a job until its run has had `timeout_s`."""
        try:
            from submitit import SlurmExecutor
        except ImportError:
            raise UsageError("the executor slurm needs submitit: pip install 'dpbench[slurm]'") from None
        minutes = self.options["time"]
        if not isinstance(minutes, int) or isinstance(minutes, bool) or minutes < 1:
            raise UsageError(f"the executor slurm: time is {minutes!r}, and must be a whole number of minutes")
        times = MOST_TIMES if timeout_s is None else math.ceil(timeout_s / 60 / minutes)
        try:
            executor = SlurmExecutor(folder, max_num_timeout=times)
            executor.update_parameters(**self.options)
        except RuntimeError:
            raise UsageError("the executor slurm finds no Slurm here: srun and sbatch are not on the PATH") from None
        except (ValueError, TypeError) as error:
            raise UsageError(f"the executor slurm: {one_line(error)}") from None
        return executor

    def start(self, errands: list[Errand], folder: Path) -> list[Any]:
        """Submit them as arrays."""
        executor = self._executor(folder, errands[0].timeout_s)
        if "cpus_per_task" not in self.options:
            executor.update_parameters(cpus_per_task=max(errand.cores for errand in errands))
        jobs: list[Any] = []
        began = time.monotonic()
        while len(jobs) < len(errands):
            try:
                with executor.batch():
                    new = [executor.submit(errand) for errand in errands[len(jobs) : len(jobs) + ARRAY]]
                jobs += new
            except Exception as error:  # submitit passes on what sbatch says
                if not (self.jobs or jobs) or time.monotonic() - began > SILENT_S:
                    self.cancel([job.job_id for job in jobs])
                    raise UsageError(f"Slurm does not take the jobs: {one_line(error)[-300:]}") from None
                time.sleep(AGAIN_S)  # it has taken others: the controller restarts, or a limit is reached
        self.jobs |= {job.job_id: job for job in jobs}
        return [job.job_id for job in jobs]

    def over(self, handles: list[Any]) -> dict[Any, str]:
        """Those that `squeue` lists no more."""
        try:
            asked = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
            listed = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=60).stdout.split()
        except (OSError, subprocess.SubprocessError) as error:
            if time.monotonic() - self.heard > SILENT_S:
                raise RunFailed(f"Slurm has not answered for {SILENT_S / 60:.0f} minutes: {error}") from None
            return {}
        self.heard = time.monotonic()
        return {job: self._end(job) for job in set(handles) - set(listed)}

    def _end(self, job: str) -> str:
        """The last line that the job has printed."""
        paths = self.jobs.pop(job).paths
        printed = paths.stdout.read_text(errors="replace").split("\n") if paths.stdout.is_file() else []
        last = next((line for line in reversed(printed) if line.strip()), "it printed nothing")
        return f"the Slurm job {job} ended without a result: {last.strip()[-200:]}"

    def cancel(self, handles: list[Any]) -> None:
        """By `scancel`."""
        if handles:
            with suppress(OSError, subprocess.SubprocessError):  # what was to be told is on its way
                subprocess.run(["scancel", *handles], check=False, capture_output=True, timeout=60)


def engine(options: dict[str, Any]) -> Engine:
    """The engine with these options."""
    return Slurm(options)
