"""The conformance battery: what every pruning method must keep to, checked on fake signals without any training.

Each check returns findings, one sentence each: in which call, what was expected, what came; `dpbench check` shows them.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dpbench import catalog, isolation
from dpbench.errors import DpbenchError, MethodFailed
from dpbench.method import Signals, Task
from dpbench.signals import MEMBER, SIGNALS, compute
from dpbench.training import ledger
from dpbench.training.driver import Driver
from dpbench.training.rows import batches


@dataclass(frozen=True)
class Setting:
    """A pretended training: its size, its seed, and how its signals are made and delivered."""

    n: int = 120
    epochs: int = 8
    batch_size: int = 16
    keep: float = 0.4
    classes: int = 4
    seed: int = 0
    losses: str = "falling"  # or "equal", "nan", "infinite"
    delivery: str = "epoch"  # or "steps", "shuffled", "repeated"
    ranks: int = 1
    reload: bool = False  # save the state and load it into a new object after every epoch


@dataclass(frozen=True)
class Trace:
    """What a method did: the samples and weights of each epoch, and the picks of each batch and rank."""

    selected: list[Tensor]
    weights: list[Tensor]
    picked: list[Tensor]
    draws: float  # the share of the selects that used the method's generator

    def same(self, other: Trace) -> bool:
        """Whether two traces are equal bit for bit."""
        return all(
            len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
            for a, b in ((self.selected, other.selected), (self.weights, other.weights), (self.picked, other.picked))
        )


def labels_of(setting: Setting) -> Tensor:
    """Labels (n,), as balanced as can be."""
    return torch.arange(setting.n) % setting.classes


def signals_of(setting: Setting, needs: Set[str], indices: Tensor, epoch: int, run: int | None = None) -> Signals:
    """Pretended signals: every sample is learnt at a pace of its own, a tenth never."""
    n, classes, labels = setting.n, setting.classes, labels_of(setting)
    rng = torch.Generator().manual_seed(7 + (run or 0))
    noise = torch.randn(n, classes, generator=rng)
    pace = torch.rand(n, generator=rng) * (torch.rand(n, generator=rng) > 0.1)
    embedding = torch.randn(n, 5, generator=rng)
    logits = noise + torch.nn.functional.one_hot(labels, classes) * (pace * (epoch + 1))[:, None]
    if setting.losses == "equal":
        logits = torch.zeros(n, classes)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    plain = needs & SIGNALS.keys()
    values = compute(plain, logits[indices], labels[indices], loss[indices], embedding[indices])
    values |= dict.fromkeys(needs - plain, loss[indices])  # any number will do where there is no model
    values |= {MEMBER: (indices % 2 == 0).float()} if MEMBER in needs else {}
    if setting.losses in ("nan", "infinite"):
        bad = indices % 3 == 0
        fill = float("nan") if setting.losses == "nan" else float("inf")
        values = {name: torch.where(bad.view(-1, *[1] * (v.dim() - 1)), fill, v) for name, v in values.items()}
    return Signals(indices, values, epoch, run)


def set_up(name: str, setting: Setting, rank: int = 0) -> Driver:
    """A method before a pretended training."""
    method = catalog.load_method(name)
    fixed = method.requires().fixed_keep
    keep = setting.keep if fixed is None else fixed
    task = Task(setting.n, setting.epochs, setting.batch_size, keep, labels_of(setting))
    return Driver(method, task, setting.seed, rank)


def prepare(name: str, setting: Setting, rank: int = 0) -> Driver:
    """A method before a pretended training, with a pretended proxy replayed where it asks for one."""
    driver = set_up(name, setting, rank)
    if (proxy := driver.requires.proxy) is not None:
        last = min(proxy.epochs, setting.epochs) - 1
        for run in range(proxy.seeds):
            for epoch in [last] if proxy.at == "end" else range(last + 1):
                signals = signals_of(setting, driver.requires.signals, torch.arange(setting.n), epoch, run)
                for part in _delivered(driver, signals, setting):
                    driver.replay(part)
    return driver


def pretend(name: str, setting: Setting) -> Trace:
    """Carry a method through a pretended training, one object a rank; all ranks must agree with rank 0."""
    drivers = [prepare(name, setting, rank) for rank in range(setting.ranks)]
    selected, weights, picked, drew = [], [], [], []
    for epoch in range(drivers[0].epochs):
        first = drivers[0]
        online, needs = first.requires.online, first.requires.signals
        before, asked = first.method.rng.get_state(), first.asked
        selections = [driver.start(epoch, (epoch + 1) / setting.epochs) for driver in drivers]
        if first.asked != asked:
            drew.append(not torch.equal(before, first.method.rng.get_state()))
        for rank, other in enumerate(selections[1:], 1):
            if not torch.equal(other.indices, selections[0].indices):
                raise DpbenchError(f"select(epoch={epoch}): rank {rank} chose other samples than rank 0")
        selection = selections[0]
        selected.append(selection.indices.sort().values)
        if selection.weights is not None:
            weights.append(selection.weights[selection.indices.argsort()])
        passed = batches(first.order(), setting.batch_size * first.pool)
        for batch in passed:
            for rank, driver in enumerate(drivers if first.picks else []):
                if len(mine := batch[rank :: setting.ranks]):
                    picked.append(mine[driver.pick(mine, signals_of(setting, needs, mine, epoch).values)[0]])
            if online:
                _observe(drivers, signals_of(setting, needs, batch, epoch), setting)
        if selection.refresh is not None and len(selection.refresh):
            passed.append(selection.refresh)
        if not online and needs:
            _observe(drivers, signals_of(setting, needs, torch.cat(passed), epoch), setting)
        if setting.reload:
            drivers = [_reload(name, setting, driver) for driver in drivers]
    return Trace(selected, weights, picked, sum(drew) / max(1, len(drew)))


def _observe(drivers: list[Driver], signals: Signals, setting: Setting) -> None:
    """Let every rank know what all have measured, delivered as the setting says."""
    for driver in drivers:
        for part in _delivered(driver, signals, setting):
            driver.observe(part.indices, part.values)
            driver.tell()


def _delivered(driver: Driver, signals: Signals, setting: Setting) -> list[Signals]:
    """The same signals in the parts and the order of the setting; online methods get them as they are."""
    if driver.requires.online:
        return [signals]
    rows, rng = torch.arange(len(signals)), torch.Generator().manual_seed(3)
    parts = {
        "epoch": [rows],
        "steps": rows.split(7),
        "shuffled": torch.randperm(len(rows), generator=rng).split(7),
        "repeated": [rows, rows[::2]],
    }[setting.delivery]
    return [
        replace(signals, indices=signals.indices[part], values={k: v[part] for k, v in signals.values.items()})
        for part in parts
    ]


def _reload(name: str, setting: Setting, driver: Driver) -> Driver:
    """Pass all state through a file, as a checkpoint does, into a new object."""
    file = io.BytesIO()
    torch.save(driver.state_dict(), file)
    file.seek(0)
    fresh = set_up(name, replace(setting, seed=setting.seed + 1), driver.rank)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


def valid(name: str) -> list[str]:
    """Every answer is in range, unique and int64, with weights that are finite and not negative, if any."""
    pretend(name, Setting())
    return []


def seeded(name: str) -> list[str]:
    """The same seed gives the same selections; another seed gives others where most selects draw."""
    first, again, other = (pretend(name, Setting(seed=seed)) for seed in (0, 0, 1))
    findings = []
    if not first.same(again):
        findings.append("select, pick: expected equal selections for equal seeds, came different ones")
    if first.draws > 0.5 and first.same(other):
        findings.append("select: expected different selections for different seeds, came equal ones")
    return findings


def no_globals(name: str) -> list[str]:
    """Nothing that all methods share is changed, as global random generators, torch's settings, the environment."""
    changed: list[str] = []
    with isolation.observed(changed):
        pretend(name, Setting())
    return [f"setup, select, pick or observe: expected {what} untouched, it was changed" for what in changed]


def any_order(name: str) -> list[str]:
    """Observing in another order, in chunks, or some samples twice changes nothing (unless the method is online)."""
    plain = pretend(name, Setting())
    said = {"steps": "in chunks", "shuffled": "in another order", "repeated": "half of the samples twice"}
    return [
        f"observe {how}: expected the same selections, came others"
        for delivery, how in said.items()
        if not plain.same(pretend(name, Setting(delivery=delivery)))
    ]


def resumable(name: str) -> list[str]:
    """Saved and loaded after every epoch, the method goes on as if it had not been stopped."""
    if pretend(name, Setting()).same(pretend(name, Setting(reload=True))):
        return []
    return ["state_dict, load_state_dict: expected the undisturbed selections after a reload, came others"]


def same_on_ranks(name: str) -> list[str]:
    """Every rank of a distributed run selects the same samples."""
    one = pretend(name, Setting())
    findings = []
    for ranks in (2, 4):
        trace = pretend(name, Setting(ranks=ranks))
        if not catalog.load_method(name).picks() and not one.same(trace):
            findings.append(f"{ranks} ranks: expected the selections of one rank, came others")
    return findings


def edge_cases(name: str) -> list[str]:
    """One sample, keep = 1, one class, ties, NaN and infinite losses are no reason to fail."""
    cases = {
        "n = 1": Setting(n=1, classes=1),
        "n = 2": Setting(n=2, classes=2),
        "keep = 1": Setting(keep=1.0),
        "one class": Setting(classes=1),
        "equal losses": Setting(losses="equal"),
        "NaN losses": Setting(losses="nan"),
        "infinite losses": Setting(losses="infinite"),
        "one epoch": Setting(epochs=1),
    }
    findings = []
    for what, setting in cases.items():
        try:
            trace = pretend(name, setting)
        except DpbenchError as error:
            findings.append(f"{what}: {error}")
            continue
        if any(len(chosen) == 0 for chosen in trace.selected):
            findings.append(f"{what}: select: expected at least one sample, came none")
    return findings


CHECKS: dict[str, Callable[[str], list[str]]] = {
    "valid": valid,
    "seeded": seeded,
    "no_globals": no_globals,
    "any_order": any_order,
    "resumable": resumable,
    "same_on_ranks": same_on_ranks,
    "edge_cases": edge_cases,
}


def check(name: str) -> dict[str, list[str]]:
    """Run all checks on a method; a check that cannot be carried through is a finding too.

    A method that fails wherever it is run is told so once, as not valid, and not checked further.
    """
    try:
        with isolation.restored():
            pretend(name, Setting())
    except MethodFailed as error:
        return {"valid": [str(error)]}
    report = {}
    for title, function in CHECKS.items():
        try:
            with isolation.restored():
                report[title] = function(name)
        except DpbenchError as error:
            report[title] = [str(error)]
    return report


def examine(name: str) -> tuple[dict[str, list[str]], str]:
    """All checks, and in words what `measure` finds where they pass."""
    report = check(name)
    if any(report.values()):
        return report, "not measured"
    try:
        seconds, size = measure(name)
    except Exception as error:  # whatever a plug-in raises
        return report, f"not measured: {error}"
    return report, f"{seconds:.3f} s, {size:.0f} bytes a sample at its peak"


def measure(name: str, n: int = 1_000_000) -> tuple[float, float]:
    """Seconds of one select with all n samples observed, and its peak memory in bytes a sample, state included."""
    setting = Setting(n=n, classes=10, batch_size=128)
    ledger.reset_peak_memory()
    start_mb = ledger.peak_memory_mb()
    method = set_up(name, setting).method
    stated = method.requires()
    runs = [None] if stated.proxy is None else list(range(stated.proxy.seeds))
    rng = torch.Generator().manual_seed(0)
    for run in runs:
        values = {name: _random_signal(name, n, rng) for name in stated.signals}
        method.observe(Signals(torch.arange(n), values, 0, run))
        del values
    ledger.reset_peak_memory()
    begin = time.perf_counter()
    method.select(1)
    return time.perf_counter() - begin, max(0.0, ledger.peak_memory_mb() - start_mb) * 2**20 / n


def _random_signal(name: str, n: int, rng: torch.Generator) -> Tensor:
    if name == "correct":
        return (torch.rand(n, generator=rng) < 0.8).float()
    return torch.rand(n, 10, generator=rng) if name in ("logits", "embedding") else torch.rand(n, generator=rng)
