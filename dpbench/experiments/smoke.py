"""Smoke tests: every cell of a grid on a few small batches, in a home of its own, to see whether it runs at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from dpbench import catalog, store
from dpbench.data import Data, Source
from dpbench.experiments import standins
from dpbench.experiments.executors import run_all
from dpbench.experiments.jobs import Job
from dpbench.image_files import DecodedFiles, ImageFiles
from dpbench.images import Images
from dpbench.recipe import Recipe
from dpbench.setting import Budget
from dpbench.spec import Grid, RunSpec
from dpbench.training import account, loading

MADE = 600  # samples of a dataset whose files are absent
TRAIN, REST = 64, 24  # samples to train on; for validation and to test with
CLASSES = 8  # of them, so that each has some samples
BATCH, EPOCHS, ITERATIONS, SECONDS = 16, 2, 8, 0.1
STEM = 64  # pixels from which ResNets have their usual first layers
SMALL = 8  # pixels of smaller images
LARGE = 1_000_000  # parameters
GENTLE = 0.01  # of the learning rate, so that a few steps do not diverge


@dataclass(frozen=True)
class Tried:
    """A smoke test in a worker: a job on small data."""

    job: Job
    title: str

    def __call__(self) -> Any:
        """Do it; the run's result."""
        with small():
            return self.job()


def do(tried: Tried) -> Any:
    """Call it; a module-level function, as worker processes need."""
    return tried()


def smoke(
    grids: Iterable[Grid], jobs: int, device: torch.device, data_root: Path | None = None
) -> Iterator[tuple[int, Tried, str | None]]:
    """Try every cell of the grids once; yield how many there are, what was tried, and why it failed or None.

    A dataset whose files are absent is read from others that are made. A large model is tried in a grid's first cell
    with samples of its shape; the other cells have the smallest model of their kind. What several grids try alike is
    tried once. On a CPU all is in single precision: many emulate the others.
    """
    with TemporaryDirectory(prefix="dpbench-smoke-") as scratch, store.moved_home(Path(scratch) / "home"), small():
        places: dict[str, standins.Read] = {}
        cells: dict[str, Tried] = {}
        built: set[tuple[Any, ...]] = set()  # grids' models and the shapes of samples that they have had in a cell
        for grid in grids:
            for spec in _cells(grid):
                if spec.dataset not in places:
                    folder = Path(scratch) / f"data-{len(places)}"
                    places[spec.dataset] = standins.read(spec.dataset, data_root, folder, MADE)
                text, root, data, _ = places[spec.dataset]
                again = (grid.name, spec.model, data.shape) in built
                built.add((grid.name, spec.model, data.shape))
                title = f"{grid.name}: {spec.dataset} {spec.model} {spec.method} keep={spec.keep:g}"
                changed = {"dataset": text, "data": data.fingerprint, "budget": budget(spec.budget)}
                changed |= {"recipe": recipe(spec.recipe, device), "devices": 1, "sync_batchnorm": False}
                if again and spec.recipe.layer_decay is None and _size(spec.model, data.shape, data.classes) > LARGE:
                    changed["model"] = catalog.FIRST.get(catalog.load_dataset(text).kind, spec.model)
                spec = spec.model_copy(update=changed)
                cells.setdefault(spec.hash, Tried(Job(spec, str(device), root), title))
        for tried, outcome in run_all(do, list(cells.values()), min(jobs, max(1, len(cells)))):
            yield len(cells), tried, _why(outcome)


@cache
def _size(model: str, shape: tuple[Any, ...], classes: int) -> int:
    """How many parameters a model has, without making them."""
    with torch.device("meta"):
        return sum(values.numel() for values in catalog.load_model(model, shape, classes).parameters())


def _cells(grid: Grid) -> list[RunSpec]:
    """The cells of the first seed."""
    return grid.model_copy(update={"seeds": 1}).runs()


def _why(outcome: Any) -> str | None:
    if isinstance(outcome, BaseException):
        return account.reason(outcome)
    return outcome["reason"] if outcome["status"] == "FAILED" else None


@contextmanager
def small() -> Iterator[None]:
    """Make all data small that is loaded in the while."""
    if shrunken in loading.change:  # a worker of this module's process has been here before
        yield
        return
    loading.load_data.cache_clear()
    loading.change.append(shrunken)
    try:
        yield
    finally:
        loading.change.remove(shrunken)
        loading.load_data.cache_clear()


def shrunken(data: Data) -> Data:
    """A few samples of a few classes, images with few pixels; the model keeps all its outputs."""
    rows = _some(data.train, TRAIN)
    return dataclasses.replace(
        data,
        train=_coarse(data.train.at(rows)),
        validation=_few(data.validation, REST),
        test=_few(data.test, REST),
        positions=data.positions[rows],
        noisy=None if data.noisy is None else data.noisy[rows],
    )


def _few(source: Source, count: int) -> Source:
    return _coarse(source.at(_some(source, count)))


def _some(source: Source, count: int) -> Tensor:
    """Rows, in order: as many of each of the first classes as there are and have room."""
    rows = [(source.labels == label).nonzero().squeeze(1)[: count // CLASSES] for label in range(CLASSES)]
    return torch.cat(rows).sort().values


def _coarse(source: Source) -> Source:
    """The samples, their images with fewer pixels."""
    if isinstance(source, DecodedFiles):
        source = source.files.relabelled(source.labels)
    if isinstance(source, Images):
        return Images(source.images[:, :, :: _stride(source), :: _stride(source)].contiguous(), source.labels)
    if isinstance(source, ImageFiles):
        return dataclasses.replace(source, side=source.side // _stride(source))
    return source


def _stride(source: Source) -> int:
    side = min(source.shape[1:])
    return max(1, side // (STEM if side >= STEM else SMALL))


def recipe(given: Recipe, device: torch.device) -> Recipe:
    """The recipe with few epochs of small batches and a gentle rate, not compiled."""
    changed = {
        "epochs": min(given.epochs, EPOCHS),
        "batch_size": min(given.batch_size, BATCH),
        "lr": GENTLE * given.lr,
        "lr_min": GENTLE * given.lr_min,
        "pad": min(given.pad, SMALL - 1),
        "train_size": given.train_size and min(given.train_size, STEM),
        "test_size": given.test_size and min(given.test_size, STEM),
        "batch_size_at": tuple((keep, min(size, BATCH // 2)) for keep, size in given.batch_size_at),
        "accumulate": min(given.accumulate, 2),
        "compile": False,
        "precision": "fp32" if device.type == "cpu" else given.precision,
    }
    return given.changed(changed)


def budget(given: Budget) -> Budget:
    """The budget with few iterations, or little time."""
    fields = {"iterations": ITERATIONS, "seconds": SECONDS}
    return given.model_copy(update={name: most for name, most in fields.items() if getattr(given, name) is not None})
