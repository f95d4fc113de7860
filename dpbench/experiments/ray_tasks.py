"""Ray as an executor, by its core tasks (extra `ray`), on a cluster that runs, with the resources asked for."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from dpbench.errors import UsageError, one_line
from dpbench.experiments.cluster import Engine, Errand

OPTIONS = ("address", "num_cpus", "num_gpus", "memory", "resources", "scheduling_strategy")


class Ray(Engine):
    """Errands as tasks, never retried by Ray. `address` is the cluster's; the other options are a task's resources."""

    poll_s = 0.5

    def __init__(self, options: dict[str, Any]) -> None:
        if unknown := [name for name in options if name not in OPTIONS]:
            raise UsageError(f"the executor ray has no option {unknown[0]!r}; known: {', '.join(OPTIONS)}")
        try:
            import ray
        except ImportError:
            raise UsageError("the executor ray needs Ray: pip install 'dpbench[ray]'") from None
        self.ray = ray
        self.resources = {name: value for name, value in options.items() if name != "address"}
        address = options.get("address") or os.environ.get("RAY_ADDRESS") or "auto"
        # what a node must know as this machine does; the rest of its environment is its own
        told = {
            name: value for name, value in os.environ.items() if name.startswith("DPBENCH_") or name == "PYTHONPATH"
        }
        try:
            if not ray.is_initialized():
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": told})
        except Exception as error:  # of a node that does not start, plain Exception
            line = one_line(error, 200)
            raise UsageError(f"no Ray cluster answers at {address}: {line}; start one by ray start --head") from None

    def start(self, errands: list[Errand], folder: Path) -> list[Any]:
        """Start them as tasks, each with its cores as CPUs unless the options say otherwise."""
        task = self.ray.remote(max_retries=0)(_carry_out)
        return [task.options(**{"num_cpus": errand.cores} | self.resources).remote(errand) for errand in errands]

    def over(self, handles: list[Any]) -> dict[Any, str]:
        """Those whose result, or exception, is there."""
        ready, _ = self.ray.wait(handles, num_returns=len(handles), timeout=0)
        return {handle: self._end(handle) for handle in ready}

    def _end(self, handle: Any) -> str:
        try:
            self.ray.get(handle)
        except Exception as error:  # of the errand, of its worker or of its node
            lines = [line for line in str(error).splitlines() if line.strip()]
            return f"the Ray task ended by {type(error).__name__}: {lines[-1].strip()[-200:] if lines else ''}"
        return "the Ray task ended without a result"

    def cancel(self, handles: list[Any]) -> None:
        """Kill what still runs."""
        for handle in handles:
            with suppress(Exception):  # it has just ended
                self.ray.cancel(handle, force=True)


def _carry_out(errand: Errand) -> None:
    errand()


def engine(options: dict[str, Any]) -> Engine:
    """The engine with these options."""
    return Ray(options)
