"""Every grid that comes with dpbench runs on a few batches, and a cell that does not is named."""

from collections.abc import Callable
from pathlib import Path

import torch

from dpbench import catalog, tuned
from dpbench.experiments import smoke, standins
from dpbench.experiments.grid import default_jobs
from dpbench.grid_file import load_grid, read_grid
from dpbench.spec import Grid
from dpbench.training import loading

CPU = torch.device("cpu")
GRID = """\
datasets: ["synthetic[n=2000,n_test=100,d=16,classes=4]"]
models: ["mlp[width=8,depth=1]"]
methods: [full, METHOD]
keep: [0.5]
seeds: 3
recipe: {epochs: 50, batch_size: 500, lr: 0.1, compile: true}
"""


def small(method: str) -> Grid:
    return read_grid(GRID.replace("METHOD", method), "g.yaml", "g")


def test_all_grids(home: Path) -> None:
    names = [name for name in catalog.names("grids") if not tuned.base(name)]  # their cells are as in that
    whole = [load_grid(name) for name in names]
    grids = [grid.model_copy(update={"methods": grid.methods[-1:], "keep": grid.keep[-1:]}) for grid in whole]
    failed = {one.title: why for _, one, why in smoke.smoke(grids, default_jobs(CPU), CPU) if why}
    assert failed == {}
    assert not home.exists(), "results of a smoke test are kept nowhere"


def test_a_cell_that_fails_is_told(plugin: Callable[[str], str], home: Path) -> None:
    path = plugin("""
        class Late(PruningMethod):
            def select(self, epoch):
                if epoch == 1:
                    raise ValueError("on purpose")
                return Selection(torch.arange(self.task.k))
    """)
    found = {one.job.work.method: (count, why) for count, one, why in smoke.smoke([small(path)], 1, CPU)}
    assert found.pop("full") == (2, None)
    [(count, why)] = found.values()
    assert count == 2
    assert "on purpose" in str(why)


def test_data_are_small_while_they_are_tried_and_whole_again() -> None:
    dataset = small("uniform").datasets[0]
    with smoke.small():
        data = loading.load_data(dataset, None)
        assert len(data.train) == 32  # 8 of each of 4 classes
        assert data.train.labels.bincount().tolist() == [8] * 4
    assert len(loading.load_data(dataset, None).train) == 1800


def test_images_are_coarse_and_the_recipe_is_short(tmp_path: Path) -> None:
    with smoke.small():
        _, root, data, made = standins.read("cifar10", tmp_path / "nothing", tmp_path / "made", smoke.MADE)
    assert made
    assert root == tmp_path / "made"
    assert (data.shape, data.classes) == ((3, 8, 8), 10)
    short = smoke.recipe(small("uniform").recipe, CPU)
    assert (short.epochs, short.batch_size, short.compile) == (2, 16, False)
