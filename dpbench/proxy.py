"""The proxy record: a training seen once, its signals kept on disk, shared by every method that asks, and replayed.

A record is a folder named by the hash of dataset, model, recipe, seed and run. It holds one .npy file for each signal
and epoch, written by atomic rename, so a crash leaves no half file. What is missing is made by training once more: the
same seed gives the same training, and the recipe's schedule makes a shorter training a prefix of a longer one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from dpbench import catalog, optim, store
from dpbench.data import Data, Loader
from dpbench.errors import RunFailed
from dpbench.ledger import Ledger
from dpbench.method import Proxy, Signals, sample
from dpbench.rng import derive, generator, seeded
from dpbench.sampler import batches, join, order
from dpbench.signals import LEARNING_RATE, MEMBER, MODEL_SIGNALS, RECORD_SIGNALS
from dpbench.spec import PROTOCOL, Recipe, RunSpec
from dpbench.train import Learner, measure_all, train_epoch


@dataclass(frozen=True)
class Request:
    """One proxy training and what is wanted of it: the signals `needs` of the epochs that `proxy` replays."""

    dataset: str
    model: str
    recipe: Recipe
    seed: int
    run: int
    proxy: Proxy
    needs: frozenset[str]

    @property
    def training(self) -> dict[str, Any]:
        """What the training is, whatever is recorded of it."""
        return {
            "protocol": PROTOCOL,
            "dataset": self.dataset,
            "dataset_source": catalog.source_digest("datasets", catalog.parse(self.dataset)[0]),
            "model": self.model,
            "recipe": self.recipe.model_dump(),
            "seed": self.seed,
            "run": self.run,
            "data": self.proxy.data,
            "share": self.proxy.share,
        }

    @property
    def hash(self) -> str:
        """The content hash of the training."""
        return hashlib.sha256(json.dumps(self.training, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where the record is."""
        return store.home() / "proxy" / self.hash

    @property
    def epochs(self) -> range:
        """The epochs that are replayed."""
        last = min(self.proxy.epochs, self.recipe.epochs) - 1
        return range(last, last + 1) if self.proxy.at == "end" else range(last + 1)

    def file(self, epoch: int, signal: str) -> Path:
        """The file of one signal: (n,) or (n, d) float32 in the order of the training samples."""
        return self.folder / f"{'steps' if self.proxy.at == 'steps' else 'pass'}-{epoch:04d}-{signal}.npy"

    def missing(self) -> bool:
        """Whether anything wanted is not on disk."""
        return not all(self.file(epoch, name).is_file() for epoch in self.epochs for name in self.needs)


def requests(spec: RunSpec) -> list[Request]:
    """What the run's method asks for, one request for each of its proxy runs."""
    method = catalog.load_method(spec.method)
    if method.proxy is None:
        return []
    return [
        Request(spec.dataset, spec.model, spec.recipe, spec.seed, run, method.proxy, method.needs)
        for run in range(method.proxy.seeds)
    ]


def record(wanted: list[Request], data: Data, device: torch.device) -> None:
    """Make the record that serves all of `wanted`, requests of one training, unless it is there."""
    with _locked(wanted[0].folder):
        _make(wanted, data, device)


def obtain(request: Request, data: Data, device: torch.device, ledger: Ledger) -> list[Signals]:
    """Record what is missing, book the cost, and return what was recorded, epoch by epoch, memory-mapped.

    All files are open by then: removing the record does no harm any more.
    """
    with _locked(request.folder):
        _make([request], data, device)
        book(request, ledger)
        return list(replay(request))


def _locked(folder: Path) -> FileLock:
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "lock")


def _make(wanted: list[Request], data: Data, device: torch.device) -> None:
    if any(request.missing() for request in wanted):
        store.write_json(wanted[0].folder / "training.json", wanted[0].training)
        _train(wanted, data, device)


def _train(wanted: list[Request], data: Data, device: torch.device) -> None:
    """Train for as many epochs as the longest request and save what each wants."""
    first = wanted[0]
    recipe, seed = first.recipe, derive(first.seed, "proxy", first.run)
    learner = Learner(first.model, recipe, data.shape, data.classes, seed, device)
    split = data.train if first.proxy.data == "train" else data.validation
    loader = Loader(split, data.train.images, device, recipe.augment, recipe.pad, recipe.channels_last)
    recorded = Loader(data.train, data.train.images, device, channels_last=recipe.channels_last)
    n, everything = len(recorded), torch.arange(len(recorded))
    size = round(first.proxy.share * len(loader))
    trained = sample(len(loader), max(1, size), generator(seed, "members"))
    member = torch.zeros(n).index_fill_(0, trained, 1.0) if first.proxy.data == "train" else torch.zeros(n)
    in_steps = _needs([request for request in wanted if request.proxy.at == "steps"])
    for epoch in range(max(request.epochs[-1] for request in wanted) + 1):
        begin = time.perf_counter()
        loader.start_epoch(generator(seed, "augment", epoch))
        rows = order(trained, len(loader), generator(seed, "order", epoch)).to(device)
        parts = batches(rows, recipe.batch_size)
        with seeded(derive(seed, "train", epoch), device):
            done = train_epoch(
                learner,
                loader,
                parts,
                lambda step, _: optim.schedule(recipe, (epoch + step / len(parts)) / recipe.epochs),  # noqa: B023
                needs=in_steps,
            )
        cost: dict[str, Any] = {"backward": done.backward, "train_s": time.perf_counter() - begin}
        asking = [request for request in wanted if epoch in request.epochs]
        passing = [request for request in asking if request.proxy.at != "steps"]
        values = {MEMBER: member, LEARNING_RATE: torch.full((n,), learner.optimizer.param_groups[0]["lr"])}
        for name, needs in _passes(passing).items():
            learner.differentiated, begin = (0, 0), time.perf_counter()
            passed = join(measure_all(learner, recorded, everything, needs), epoch)
            forward, backward = learner.differentiated
            cost[name] = {"s": time.perf_counter() - begin, "forward": n + forward, "backward": backward}
            values |= passed.values
        _add_cost(first.folder, epoch, cost)  # first, so that what is there has a cost
        _save(passing, Signals(everything, values, epoch))
        if in_steps:
            _save([r for r in asking if r.proxy.at == "steps"], join(done.passed, epoch))


def _needs(wanted: list[Request]) -> frozenset[str]:
    """All signals that the requests want."""
    return frozenset().union(*(request.needs for request in wanted))


def _passes(wanted: list[Request]) -> dict[str, frozenset[str]]:
    """The passes that measure what is wanted, as name in the cost: signals; what differentiates the model has its own.

    Otherwise one method's costly signal would be booked to all others.
    """
    needs = _needs(wanted) - RECORD_SIGNALS
    own = needs & MODEL_SIGNALS.keys()
    return ({"pass": needs - own} if needs - own else {}) | {name: frozenset({name}) for name in sorted(own)}


def _add_cost(folder: Path, epoch: int, cost: dict[str, Any]) -> None:
    file = folder / f"cost-{epoch:04d}.json"
    store.write_json(file, (store.read_json(file) or {}) | cost)


def _save(wanted: list[Request], signals: Signals) -> None:
    for request in wanted:
        for name in request.needs:
            values = torch.empty_like(signals[name])
            values[signals.indices] = signals[name]
            path = request.file(signals.epoch, name)
            store.write(path, lambda file: _dump(file, values.numpy()))  # noqa: B023


def _dump(file: Path, values: np.ndarray) -> None:
    with file.open("wb") as stream:
        np.save(stream, values)


@dataclass(frozen=True)
class Record:
    """A record on disk: of which training, how many of its epochs, which signals, and its size in bytes."""

    folder: Path
    training: dict[str, Any]
    epochs: int
    signals: tuple[str, ...]
    size: int


def records() -> list[Record]:
    """Every record under $DPBENCH_HOME, the largest first."""
    found = []
    for folder in (store.home() / "proxy").glob("*/"):
        sizes = {path.name: size for path in folder.glob("[!.]*.*") if (size := _size(path))}
        if sizes:
            found.append(
                Record(
                    folder=folder,
                    training=store.read_json(folder / "training.json") or {},
                    epochs=sum(name.startswith("cost-") for name in sizes),
                    signals=tuple(sorted({name[:-4].split("-", 2)[2] for name in sizes if name.endswith(".npy")})),
                    size=sum(sizes.values()),
                )
            )
    return sorted(found, key=lambda record: (-record.size, record.folder.name))


def _size(path: Path) -> int:
    """A file's size in bytes, 0 if another process has removed it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def remove(record: Record) -> bool:
    """Remove a record, unless a process is making or opening it; whether it is gone. Who needs it makes it again."""
    try:
        with FileLock(record.folder / "lock", timeout=0):
            for path in record.folder.iterdir():
                if path.name != "lock":  # others may wait for it
                    path.unlink()
    except Timeout:
        return False
    return True


def replay(request: Request) -> Iterator[Signals]:
    """Yield what was recorded, epoch by epoch, memory-mapped."""
    for epoch in request.epochs:
        values = {name: torch.from_numpy(np.load(request.file(epoch, name), mmap_mode="c")) for name in request.needs}
        n = len(next(iter(values.values()))) if values else 0
        yield Signals(torch.arange(n), values, epoch, request.run)


def book(request: Request, ledger: Ledger) -> None:
    """Book the record's cost as if it were made for this method alone: its training and its passes."""
    for epoch in range(request.epochs[-1] + 1):
        cost = store.read_json(request.folder / f"cost-{epoch:04d}.json") or {}
        passes = _passes([request]) if request.proxy.at != "steps" and epoch in request.epochs else {}
        if not cost.keys() >= {"backward", "train_s", *passes}:
            raise RunFailed(f"the proxy record {request.folder.name} has no cost of epoch {epoch}; remove that folder")
        ledger.proxy_backward += cost["backward"] + sum(cost[name]["backward"] for name in passes)
        ledger.proxy_forward += cost["backward"] + sum(cost[name]["forward"] for name in passes)
        ledger.seconds["proxy"] += cost["train_s"] + sum(cost[name]["s"] for name in passes)
