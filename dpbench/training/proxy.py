"""The proxy record: a training seen once, its signals kept on disk, shared by every method that asks, and replayed.

A record is a folder named by the hash of data, model, recipe, seed and run. It holds one .npy file for each signal
and epoch, written by atomic rename, so a crash leaves no half file, and for each epoch the sizes and checksums of its
files. What is missing or damaged is made by training once more: the same seed gives the same training, and the recipe's
schedule makes a shorter training a prefix of a longer one.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import Timeout

from dpbench import catalog, optim, store
from dpbench.data import Data
from dpbench.draws import sample
from dpbench.method import Proxy, Signals
from dpbench.rng import derive, generator, seeded
from dpbench.signals import LEARNING_RATE, MEMBER, MODEL_SIGNALS, RECORD_SIGNALS
from dpbench.spec import PROTOCOL, Recipe, RunSpec, identity_hash, source_digests
from dpbench.training.ledger import Ledger
from dpbench.training.pace import Pace
from dpbench.training.rows import batches, join, order
from dpbench.training.train import Hardest, Learner, Recorder, measure_all, train_epoch
from dpbench.training.workload import workload

SIGNAL_FILE = re.compile(r"(?:pass|steps)-\d+-(.+)\.npy")


@dataclass(frozen=True)
class Request:
    """One proxy training and what is wanted of it: the signals `needs` of the epochs that `proxy` replays."""

    dataset: str
    model: str
    recipe: Recipe
    seed: int
    run: int
    proxy: Proxy
    needs: Set[str]
    data: str  # the fingerprint, as in RunSpec
    keep: float = 1.0  # of a proxy that trains on the hardest samples

    @property
    def training(self) -> dict[str, Any]:
        """What the training is, whatever is recorded of it."""
        return {
            "protocol": PROTOCOL,
            "sources": source_digests(self.dataset, self.model),
            "dataset": self.dataset,
            "data": self.data,
            "model": self.model,
            "recipe": self.recipe.model_dump(),
            "seed": self.seed,
            "run": self.run,
            "trained_on": self.proxy.data,
            "share": self.proxy.share,
            **({"hardest": self.proxy.hardest, "keep": self.keep} if self.proxy.hardest else {}),
        }

    @property
    def hash(self) -> str:
        """The content hash of the training."""
        return identity_hash(self.training)

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

    def files(self) -> Iterator[tuple[Path, list[Path]]]:
        """The files that are wanted, epoch by epoch, after that with their checksums."""
        for epoch in range(self.epochs[-1] + 1):
            signals = [self.file(epoch, name) for name in sorted(self.needs)] if epoch in self.epochs else []
            yield _sums(self.folder, epoch), [_cost(self.folder, epoch), *signals]

    def missing(self) -> bool:
        """Whether anything wanted is not on disk, or has another size than it should have."""
        return not all(_seems_whole(sums, wanted) for sums, wanted in self.files())

    def damaged(self) -> bool:
        """Whether anything wanted is missing, or not what was written; what is found so is set aside."""
        return not all(_is_whole(sums, wanted) for sums, wanted in self.files())


def _cost(folder: Path, epoch: int) -> Path:
    return folder / f"cost-{epoch:04d}.json"


def _sums(folder: Path, epoch: int) -> Path:
    return folder / f"sums-{epoch:04d}.json"


def _read_sums(path: Path) -> dict[str, tuple[int, str]]:
    """Size and checksum of each file of an epoch, by name; empty where they are not known."""

    def check(content: Any) -> dict[str, tuple[int, str]]:
        return {str(name): (int(size), str(digest)) for name, (size, digest) in content.items()}

    return store.read_json(path, check) or {}


def _seems_whole(sums: Path, wanted: list[Path]) -> bool:
    known = _read_sums(sums)
    return all(path.name in known and path.is_file() and _size(path) == known[path.name][0] for path in wanted)


def _is_whole(sums: Path, wanted: list[Path]) -> bool:
    """Whether each file is there and as it was written; a damaged one is set aside, not a half-made one."""
    known, whole = _read_sums(sums), True
    for path in wanted:
        found = store.read(path, _sum) if path.name in known else None
        if found is not None and found != known[path.name]:
            store.set_aside(path, "not what was written")
        whole = whole and found == known.get(path.name, ())
    return whole


def _sum(path: Path) -> tuple[int, str]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return stream.tell(), digest


def requests(spec: RunSpec) -> list[Request]:
    """What the run's method asks for, one request for each of its proxy runs."""
    method = catalog.load_method(spec.method)
    stated, model = method.requires(), method.beside.get("proxy_model", spec.model)
    needs = stated.signals - {"embedding"} if "embedding" in method.beside else stated.signals
    if stated.proxy is None or (stated.signals and not needs):
        return []
    recipe, keep = (spec.recipe.at(spec.keep), spec.keep) if stated.proxy.hardest else (spec.recipe, 1.0)
    return [
        Request(spec.dataset, model, recipe, spec.seed, run, stated.proxy, needs, spec.data, keep)
        for run in range(stated.proxy.seeds)
    ]


def record(wanted: list[Request], data: Data, device: torch.device) -> None:
    """Make the record that serves all of `wanted`, requests of one training, unless it is there."""
    with store.locked(wanted[0].folder / "lock"):
        _make(wanted, data, device)


def obtain(request: Request, data: Data, device: torch.device, ledger: Ledger) -> list[Signals]:
    """Record what is missing, book the cost, and return what was recorded, epoch by epoch, memory-mapped.

    All files are open by then: removing the record does no harm any more.
    """
    with store.locked(request.folder / "lock"):
        _make([request], data, device)
        book(request, ledger)
        return list(replay(request))


def _make(wanted: list[Request], data: Data, device: torch.device) -> None:
    if any(request.damaged() for request in wanted):
        store.write_json(wanted[0].folder / "training.json", wanted[0].training)
        _train(wanted, data, device)


def _train(wanted: list[Request], data: Data, device: torch.device) -> None:
    """Train for as many epochs as the longest request and save what each wants."""
    first = wanted[0]
    recipe, seed = first.recipe, derive(first.seed, "proxy", first.run)
    learner = Learner(first.model, recipe, workload(data, recipe), data.shape, seed, device)
    split = data.train if first.proxy.data == "train" else data.trusted or data.validation
    loader = split.loader(data.train, recipe, device, augment=True)
    recorded = data.train.loader(data.train, recipe, device, augment=False)
    n, everything = len(recorded), torch.arange(len(recorded))
    size = round(first.proxy.share * len(loader))
    trained = sample(len(loader), max(1, size), generator(seed, "members"))
    member = torch.zeros(n).index_fill_(0, trained, 1.0) if first.proxy.data == "train" else torch.zeros(n)
    needs = _needs([request for request in wanted if request.proxy.at == "steps"])
    steps, batch, shown = Recorder(needs), recipe.batch_size, seed
    if first.proxy.hardest:
        steps = Hardest(needs, first.keep, first.proxy.hardest, generator(seed, "pick"))
        batch, shown = batch * max(1, round(1 / first.keep)), first.seed  # the run's own batches and augmentation
    pace = Pace(recipe, recipe.epochs)
    for epoch in range(max(request.epochs[-1] for request in wanted) + 1):
        begin, on_cpu = time.perf_counter(), time.thread_time()
        loader.start_epoch(generator(shown, "augment", epoch))
        rows = order(trained, len(loader), generator(shown, "order", epoch)).to(device)
        parts = batches(rows, batch)
        pace.start(epoch)
        with seeded(derive(seed, "train", epoch), device):
            done = train_epoch(learner, loader, parts, pace, steps)
        cost: dict[str, Any] = {"forward": done.forward, "backward": done.backward}
        cost["train_s"] = time.perf_counter() - begin
        cost["on_cpu_s"] = time.thread_time() - on_cpu
        asking = [request for request in wanted if epoch in request.epochs]
        passing = [request for request in asking if request.proxy.at != "steps"]
        values = {MEMBER: member, LEARNING_RATE: torch.full((n,), optim.learning_rate(learner.optimizer))}
        for name, needs in passes(passing).items():
            learner.differentiated, begin, on_cpu = (0, 0), time.perf_counter(), time.thread_time()
            _, measured = measure_all(learner, recorded, everything, needs)
            forward, backward = learner.differentiated
            cost[name] = {"s": time.perf_counter() - begin, "forward": n + forward, "backward": backward}
            cost[name]["on_cpu_s"] = time.thread_time() - on_cpu
            values |= measured
        written = [_add_cost(first.folder, epoch, cost), *_save(passing, Signals(everything, values, epoch))]
        if steps.needs:
            written += _save([r for r in asking if r.proxy.at == "steps"], join(steps.passed, epoch))
            steps.passed.clear()
        sums = _sums(first.folder, epoch)
        store.write_json(sums, _read_sums(sums) | {path.name: _sum(path) for path in written})


def _needs(wanted: list[Request]) -> frozenset[str]:
    """All signals that the requests want."""
    return frozenset().union(*(request.needs for request in wanted))


def passes(wanted: list[Request]) -> dict[str, frozenset[str]]:
    """The passes that measure what is wanted, as name in the cost: signals; what differentiates the model has its own.

    Otherwise one method's costly signal would be booked to all others.
    """
    needs = _needs(wanted) - RECORD_SIGNALS
    own = needs & MODEL_SIGNALS.keys()
    return ({"pass": needs - own} if needs - own else {}) | {name: frozenset({name}) for name in sorted(own)}


def _add_cost(folder: Path, epoch: int, cost: dict[str, Any]) -> Path:
    """Add to an epoch's cost, unless what is there is not what was written; return its file."""
    file = _cost(folder, epoch)
    old = store.read_json(file) if _is_whole(_sums(folder, epoch), [file]) else None
    store.write_json(file, (old or {}) | cost)
    return file


def _save(wanted: list[Request], signals: Signals) -> Iterator[Path]:
    """Write the signals that are wanted, and yield their files."""
    for request in wanted:
        for name in request.needs:
            values = torch.empty_like(signals[name])
            values[signals.indices] = signals[name]
            path = request.file(signals.epoch, name)
            store.write(path, lambda file: _dump(file, values.numpy()))  # noqa: B023
            yield path


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
                    training=store.read_json(folder / "training.json", dict) or {},
                    epochs=sum(name.startswith("cost-") for name in sizes),
                    signals=tuple(sorted({part[1] for name in sizes if (part := SIGNAL_FILE.fullmatch(name))})),
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
        with store.locked(record.folder / "lock", timeout=0):
            for path in record.folder.iterdir():
                if path.name != "lock":  # others may wait for it
                    with store.told(path):
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
        cost = store.load_json(_cost(request.folder, epoch).read_bytes())
        own = passes([request]) if request.proxy.at != "steps" and epoch in request.epochs else {}
        ledger.proxy_backward += cost["backward"] + sum(cost[name]["backward"] for name in own)
        ledger.proxy_forward += cost.get("forward", cost["backward"]) + sum(cost[name]["forward"] for name in own)
        ledger.seconds["proxy"] += cost["train_s"] + sum(cost[name]["s"] for name in own)
        ledger.on_cpu += sum(part.get("on_cpu_s", math.nan) for part in (cost, *(cost[name] for name in own)))
