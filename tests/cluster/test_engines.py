"""The short form of slurm.sh and ray.sh: a few cells by a real engine, to the last digit as here."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from dpbench import store
from dpbench.cli.options import asked_executor
from dpbench.experiments import grid as grids
from dpbench.grid_file import read_grid
from dpbench.training import runner

GRID = """\
datasets: ["synthetic[n=100,n_test=50,d=8,classes=2]"]
models: ["mlp[width=8,depth=1]"]
methods: [full, uniform_epoch]
keep: [0.5]
seeds: 1
recipe: {epochs: 2, batch_size: 25, lr: 0.1}
"""
NODE = Path(__file__).parent / "slurm_node.sh"


def numbers(result: Any) -> dict[str, float]:
    assert result["status"] == "FINISHED", result["reason"]
    return {name: value for name, value in result["metrics"].items() if not name.startswith(("time_", "peak_"))}


def check(home: Path, name: str, *options: str) -> None:
    """Run the grid by the executor, and each of its runs here."""
    engine = asked_executor({"use": "local"}, name, list(options))
    cells = grids.run_grid(read_grid(GRID, "short.yaml", "short"), Console(quiet=True), executor=engine)
    there = grids.results(cells)
    with store.moved_home(home.with_name("local")):
        here = {key: runner.run(spec, torch.device("cpu")) for key, spec in cells.items()}
    assert len(here) == 2
    assert {key: numbers(one) for key, one in there.items()} == {key: numbers(one) for key, one in here.items()}
    assert not list((home / "cluster").iterdir()), "all ended well"


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    absent = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if absent:
        pytest.skip(f"there is no {absent[0]}: apt-get install slurm-wlm munge")
    if os.getuid() != 0:
        pytest.skip("Slurm's daemons are started as root")
    with tempfile.TemporaryDirectory(prefix="dpbench-slurm-") as folder:
        monkeypatch.setenv("SLURM_CONF", f"{folder}/slurm.conf")
        begun = subprocess.run(["bash", NODE, "start", folder], capture_output=True, text=True, timeout=100)
        try:
            if begun.returncode:
                pytest.skip(f"Slurm does not start here: {begun.stderr.strip()[-300:]}")
            yield
        finally:
            subprocess.run(["bash", NODE, "end", folder], timeout=60)


def test_slurm_makes_the_same_numbers(slurm: None, home: Path) -> None:
    check(home, "slurm", "mem=100")


def test_ray_makes_the_same_numbers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")
    node = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        check(home, "ray", f"address={cluster.address}")
    finally:
        ray.shutdown()
        cluster.shutdown()
