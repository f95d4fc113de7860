"""What running a grid will take: samples, time, memory and disk, from a calibration of seconds on this machine.

Counted is what the methods ask for: each sends its keep backward, batch-level methods forward all samples too. Not
counted is what they spend on choosing, and a method that decides how much it prunes may train on more or less.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from dpbench import catalog
from dpbench.data import Data
from dpbench.experiments import controls, standins
from dpbench.method import PruningMethod, Task
from dpbench.processes import cores
from dpbench.recipe import Recipe
from dpbench.shifts import STRENGTHS
from dpbench.signals import RECORD_SIGNALS
from dpbench.spec import Grid, RunSpec
from dpbench.training import ledger as ledgers
from dpbench.training import proxy
from dpbench.training.pace import Pace
from dpbench.training.results import is_done
from dpbench.training.rows import batches
from dpbench.training.train import Learner, Recorder, measure_all, train_epoch
from dpbench.training.workload import workload

MADE = 1200  # samples of a stand-in
CALIBRATED_S = 1.0  # seconds that each of a few timings may take
FIRST = 8  # samples of the batch by which the size of the others is chosen
PROBED = 5 / 3  # a probe's forward and two backward passes, in those of a training step
RESULT_BYTES, INDEX_BYTES = 1000, 1.5  # of an epoch's record; of a sample in a compressed selection
LIKELY = (0.9, 1.8)  # times the estimate, as found by measuring; see docs/grids.md
RUN_S = 0.3  # seconds that a run takes apart from its samples


class Size(NamedTuple):
    """How many samples a dataset really has."""

    train: int
    validation: int
    test: int


@dataclass
class Speed:
    """Seconds a sample takes: trained on, or forwarded for some signals. Bytes of each signal; MiB at the peak."""

    train: float
    forward: dict[frozenset[str], float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    memory: float = 0.0


@dataclass
class Part:
    """What the cells of one dataset and model take together."""

    cells: int = 0
    samples: float = 0.0  # sent backward
    seconds: float = 0.0


@dataclass
class Estimate:
    """What is done, and what the rest takes: its cells by dataset and model, then controls and proxies.

    Seconds are of one worker, with as many threads as it was calibrated with; where it has several devices, `share` of
    them share training and evaluation.
    """

    cells: int
    done: int
    parts: dict[tuple[str, str], Part] = field(default_factory=lambda: defaultdict(Part))
    controls: Part = field(default_factory=Part)
    proxies: Part = field(default_factory=Part)
    run_bytes: float = 0.0
    proxy_bytes: float = 0.0
    memory: float = 0.0  # MiB of a process
    share: int = 1
    made: list[str] = field(default_factory=list)  # datasets whose files are absent

    @property
    def whole(self) -> Part:
        """All parts together."""
        parts = [*self.parts.values(), self.controls, self.proxies]
        return Part(*(sum(getattr(part, name) for part in parts) for name in ("cells", "samples", "seconds")))


def estimate(
    grid: Grid, device: torch.device, data_root: Path | None, tell: Callable[[str], object] = lambda line: None
) -> Estimate:
    """Estimate what is not done of a grid; `tell` hears what is being calibrated. The process' threads count."""
    with TemporaryDirectory(prefix="dpbench-dry-run-") as scratch:
        data: dict[str, tuple[Data, Size, bool]] = {}
        for number, dataset in enumerate(grid.datasets):
            tell(f"reading {dataset}")
            data[dataset] = _data(dataset, data_root, Path(scratch) / str(number))
        return _estimate(grid, data, device, tell)


def _estimate(
    grid: Grid, data: dict[str, tuple[Data, Size, bool]], device: torch.device, tell: Callable[[str], object]
) -> Estimate:
    prints = {dataset: found.fingerprint for dataset, (found, _, real) in data.items() if real}
    specs = {spec.hash: spec for spec in grid.runs(prints)}
    todo = [spec for key, spec in specs.items() if not is_done(key)]
    found = Estimate(len(specs), len(specs) - len(todo), made=[name for name, (*_, real) in data.items() if not real])
    room = grid.devices if device.type == "cuda" else max(1, cores() // torch.get_num_threads())
    found.share = min(grid.devices, room)  # processes beyond the cores take turns
    wanted = _wanted(todo)
    speeds: dict[tuple[str, str, Recipe], Speed] = {}

    def speed(dataset: str, model: str, recipe: Recipe) -> Speed:
        key = (dataset, model, recipe.model_copy(update={"epochs": 1}))
        if key not in speeds:
            tell(f"calibrating {model} on {dataset}")
            needs = {need for group in wanted.values() for one in group for need in _signals(one, key)}
            real, size, _ = data[dataset]
            speeds[key] = calibrate(real, model, recipe, device, needs)
            speeds[key].memory += _rest_mb(real, size)
        return speeds[key]

    costs: dict[tuple[str, str, int, float], tuple[RunSpec, Size]] = {}
    for spec in todo:
        size = data[spec.dataset][1]
        one = speed(spec.dataset, spec.model, spec.recipe.at(spec.keep))
        found.memory = max(found.memory, one.memory)
        work = _work(spec, size, one)
        part = found.parts[spec.dataset, spec.model]
        _add(part, work, one, found.share)
        found.run_bytes += work.epochs * RESULT_BYTES + INDEX_BYTES * work.backward
        share = round((work.forward + work.backward * 3) / (3 * size.train * spec.recipe.epochs), 2)
        exempt = catalog.parse(spec.method)[0] in controls.EXEMPT or spec.budget.unit != "epochs"
        if not exempt and abs(share - spec.keep) > controls.OFF_COST and 0 < share < 1:
            control = spec.model_copy(update={"method": controls.METHOD, "keep": share})
            costs[spec.dataset, spec.model, spec.seed, share] = (control, size)
    for control, size in costs.values():
        one = speed(control.dataset, control.model, control.recipe.at(control.keep))
        work = _work(control, size, one)
        _add(found.controls, work, one, found.share)
        found.run_bytes += work.epochs * RESULT_BYTES + INDEX_BYTES * work.backward
    for group in wanted.values():
        first = group[0]
        _add_proxy(found, group, data[first.dataset][1], speed(first.dataset, first.model, first.recipe))
    return found


def _data(dataset: str, root: Path | None, scratch: Path) -> tuple[Data, Size, bool]:
    """The dataset, its sizes, and whether it is itself: what is made in its place, in `scratch`, has less."""
    *_, data, made = standins.read(dataset, root, scratch, MADE)
    times = standins.scale(dataset, MADE) if made else 1
    test = standins.STAND_INS[catalog.parse(dataset)[0]].test if made else len(data.test)
    return data, Size(round(times * len(data.train)), round(times * len(data.validation)), test), not made


def _rest_mb(data: Data, size: Size) -> float:
    """MiB of what a stand-in leaves out, as it lies in the source and in the loader."""
    held = sum(values.numel() * values.element_size() for values in data.train.tensors)
    return 2 * held * (size.train / len(data.train) - 1) / 2**20


class _Work(NamedTuple):
    epochs: float
    backward: float  # samples trained on
    forward: float  # samples forwarded to choose among them
    evaluated: float
    probed: float


@cache
def _method(text: str) -> PruningMethod:
    return catalog.load_method(text)


def _work(spec: RunSpec, size: Size, speed: Speed) -> _Work:
    """What a run does, as far as its method says it, and in a budget of time as much as there is time for."""
    method, budget, recipe = _method(spec.method), spec.budget, spec.recipe.at(spec.keep)
    stated, n = method.requires(), size.train
    epochs = float(method.epochs(Task(n, recipe.epochs, recipe.batch_size, spec.keep)))
    whole = n * recipe.epochs
    share = spec.keep * stated.until + 1 - stated.until
    backward = share * whole
    measures = method.picks() and bool(stated.signals - RECORD_SIGNALS)  # forwards the batches that it picks from
    forward = n * epochs if measures else 0.0
    if budget.unit in ("steps", "samples"):  # as many as full training takes, whatever is kept
        whole = budget.iterations * recipe.batch_size * recipe.accumulate if budget.iterations else whole
        picked = method.picks() and budget.unit == "steps"
        backward = spec.keep * whole if picked else whole
        epochs = backward / (spec.keep * n)
        forward = n * epochs if measures else 0.0
    if budget.seconds is not None:
        one = share * speed.train + (speed.forward[frozenset()] if measures else 0.0)  # of the n of an epoch
        epochs = budget.seconds / (n * one)
        backward, forward = share * n * epochs, n * epochs if measures else 0.0
    probes = math.ceil(epochs / spec.probe.every) if spec.probe.every else 0
    shifted = sum(map(len, STRENGTHS.values())) if spec.shifts else 0
    tested = epochs * (size.validation + size.test) + shifted * size.test
    return _Work(epochs, backward, forward, tested, probes * min(spec.probe.samples, n))


def _add(part: Part, work: _Work, speed: Speed, share: int) -> None:
    """Add a run, of which so many devices share all but the probes, which the first one makes."""
    part.cells += 1
    part.samples += work.backward
    part.seconds += RUN_S + speed.train * (work.backward / share + PROBED * work.probed)
    part.seconds += speed.forward[frozenset()] * (work.forward + work.evaluated) / share


def _wanted(todo: list[RunSpec]) -> dict[str, list[proxy.Request]]:
    """The proxy records that are missing, by training."""
    wanted: dict[str, list[proxy.Request]] = defaultdict(list)
    for spec in todo:
        for request in proxy.requests(spec):
            if request not in wanted[request.hash] and request.missing():
                wanted[request.hash].append(request)
    return {key: group for key, group in wanted.items() if group}


def _signals(request: proxy.Request, key: tuple[str, str, Recipe]) -> list[frozenset[str]]:
    """The sets of signals that a request wants measured in passes of their own."""
    same = (request.dataset, request.model, request.recipe.model_copy(update={"epochs": 1})) == key
    return list(proxy.passes([request]).values()) if same else []


def _add_proxy(found: Estimate, group: list[proxy.Request], size: Size, speed: Speed) -> None:
    """Add one proxy training with its passes, and the files it leaves."""
    first, n = group[0], size.train
    epochs = max(request.epochs[-1] for request in group) + 1
    trained = first.proxy.share * (n if first.proxy.data == "train" else size.validation) * epochs
    if first.proxy.hardest:
        found.proxies.seconds += speed.forward[frozenset()] * trained
        trained *= first.keep / first.proxy.hardest
    found.proxies.cells += 1
    found.proxies.samples += trained
    found.proxies.seconds += speed.train * trained
    for epoch in range(epochs):
        asking = [request for request in group if epoch in request.epochs]
        passing = [request for request in asking if request.proxy.at != "steps"]
        found.proxies.seconds += sum(n * _pass_s(speed, needs) for needs in proxy.passes(passing).values())
        files = {(request.proxy.at == "steps", name) for request in asking for name in request.needs}
        found.proxy_bytes += sum(n * speed.bytes.get(name, 4) for _, name in files)


def _pass_s(speed: Speed, needs: Set[str]) -> float:
    """Seconds a sample takes in a pass; of signals that were calibrated in parts, the longest."""
    parts = [seconds for known, seconds in speed.forward.items() if known <= needs]
    return max(parts)


def calibrate(
    data: Data, model: str, recipe: Recipe, device: torch.device, needs: Set[frozenset[str]] = frozenset()
) -> Speed:
    """Time a few training steps and passes for the signals `needs`, each for a second or a few batches.

    A thread that is alone is timed by its CPU, whatever else the machine does; several, and a GPU, by the clock.
    """
    ledgers.reset_peak_memory()
    learner = Learner(
        model, recipe.model_copy(update={"compile": False}), workload(data, recipe), data.shape, 0, device
    )
    loader = data.train.loader(data.train, recipe, device, augment=True)
    plain = data.train.loader(data.train, recipe, device, augment=False)
    loader.start_epoch(torch.Generator().manual_seed(0))
    rows = torch.arange(len(loader), device=device)
    pace = Pace(recipe, 10**9)  # at the beginning of the schedule, where nothing diverges
    pace.start(0)

    def train(size: int, batch: int) -> None:
        train_epoch(learner, loader, batches(rows[:size], batch), pace, Recorder())

    def seconds(act: Callable[[int], object], most: int) -> float:
        """A sample's, by as many as fit into the time, after one to warm up."""
        first = min(FIRST, most)
        act(first)
        one = _timed(lambda: act(first), device) / first
        count = max(first, min(most, int(CALIBRATED_S / one)))
        return _timed(lambda: act(count), device) / count

    most = min(len(loader), 30 * recipe.batch_size)
    speed = Speed(seconds(lambda count: train(count, min(count, recipe.batch_size)), most))
    for wanted in {frozenset[str](), *needs}:
        measured: dict[str, torch.Tensor] = {}

        def measure(count: int, wanted: frozenset[str] = wanted, measured: dict[str, torch.Tensor] = measured) -> None:
            measured |= measure_all(learner, plain, rows[:count], wanted or frozenset({"loss"}))[1]

        speed.forward[wanted] = seconds(measure, most)
        speed.bytes |= {name: 4 * values[0].numel() for name, values in measured.items()}
    speed.memory = ledgers.peak_memory_mb()
    return speed


def _timed(act: Callable[[], object], device: torch.device) -> float:
    """The seconds of a call."""
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(clock() - start, 1e-6)
