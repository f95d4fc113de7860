"""Compare the grid of $DPBENCH_HOME with what the tracking server has: each run once, each row once."""

from collections import Counter

from mlflow import MlflowClient

from dpbench.analysis import board
from dpbench.experiments import grid as grids

client = MlflowClient()


def sent(experiment: str, tag: str) -> Counter[str]:
    """How often each key is there."""
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], max_results=1000)
    return Counter(run.data.tags[tag] for run in runs)


manifest = grids.read_manifest("grid")
finished = grids.results(manifest.cells | manifest.controls)
assert finished.keys() == (manifest.cells | manifest.controls).keys(), "the grid is not finished"
runs, rows = sent("grid", "dpbench.hash"), sent("grid leaderboard", "dpbench.row")
assert runs == Counter(finished.keys()), "runs are missing, or there twice"
assert len(rows) == len(board.load("grid").table), "rows are missing"
assert set(rows.values()) == {1}, "rows are there twice"
print(f"{len(runs)} runs and {len(rows)} rows, each exactly once")
