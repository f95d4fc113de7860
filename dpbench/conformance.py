"""The conformance battery: what every pruning method must keep to, checked on fake signals without any training.

Each check returns findings, one sentence each: in which call, what was expected, what came; `dpbench check` shows them.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dpbench import catalog, isolation, ledger
from dpbench.errors import DpbenchError, MethodFailed
from dpbench.method import PruningMethod, Signals, Task
from dpbench.rng import generator
from dpbench.sampler import Selector, batches, call, order, pick, set_up
from dpbench.signals import SIGNALS, compute


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


def signals_of(setting: Setting, needs: frozenset[str], indices: Tensor, epoch: int, run: int | None = None) -> Signals:
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
    if setting.losses in ("nan", "infinite"):
        bad = indices % 3 == 0
        fill = float("nan") if setting.losses == "nan" else float("inf")
        values = {name: torch.where(bad.view(-1, *[1] * (v.dim() - 1)), fill, v) for name, v in values.items()}
    return Signals(indices, values, epoch, run)


def prepare(name: str, setting: Setting) -> PruningMethod:
    """Set a method up and replay a pretended proxy where it asks for one."""
    method = catalog.load_method(name)
    keep = setting.keep if method.keep is None else method.keep
    task = Task(setting.n, setting.epochs, setting.batch_size, keep, labels_of(setting))
    set_up(method, task, generator(setting.seed, "method"))
    if method.proxy is not None:
        last = min(method.proxy.epochs, setting.epochs) - 1
        epochs = [last] if method.proxy.at == "end" else range(last + 1)
        for run in range(method.proxy.seeds):
            for epoch in epochs:
                _deliver(method, signals_of(setting, method.needs, torch.arange(setting.n), epoch, run), setting)
    return method


def pretend(name: str, setting: Setting) -> Trace:
    """Carry a method through a pretended training, one object a rank; all ranks must agree with rank 0."""
    methods = [prepare(name, setting) for _ in range(setting.ranks)]
    selectors = [Selector(method) for method in methods]
    selected, weights, picked, drew = [], [], [], []
    for epoch in range(methods[0].epochs(methods[0].task)):
        start, end = epoch / setting.epochs, (epoch + 1) / setting.epochs
        rng_state, asked = methods[0].rng.get_state(), selectors[0].asked
        selections = [selector.select(epoch, start, end) for selector in selectors]
        if selectors[0].asked != asked:
            drew.append(not torch.equal(rng_state, methods[0].rng.get_state()))
        for rank, other in enumerate(selections[1:], 1):
            if not torch.equal(other.indices, selections[0].indices):
                raise DpbenchError(f"select(epoch={epoch}): rank {rank} chose other samples than rank 0")
        selection = selections[0]
        selected.append(selection.indices.sort().values)
        if selection.weights is not None:
            weights.append(selection.weights[selection.indices.argsort()])
        rows = order(selection.indices, setting.n, generator(setting.seed, "order", epoch))
        passed = []
        for step, batch in enumerate(batches(rows, setting.batch_size * methods[0].pool)):
            signals = signals_of(setting, methods[0].needs, batch, epoch)
            for rank, method in enumerate(methods):
                if not method.picks():
                    break
                mine = batch[rank :: setting.ranks]
                if len(mine) == 0:
                    continue
                own = signals_of(setting, method.needs, mine, epoch)
                rng = generator(setting.seed, "pick", epoch, rank, step)
                picked.append(mine[pick(method, mine, own.values, epoch, rng)[0]])
            if methods[0].online:
                for method in methods:
                    _deliver(method, signals, setting)
            passed.append(batch)
        if selection.refresh is not None:
            passed.append(selection.refresh)
        if not methods[0].online and passed:
            signals = signals_of(setting, methods[0].needs, torch.cat(passed), epoch)
            for method in methods:
                _deliver(method, signals, setting)
        if setting.reload:
            methods, selectors = _reload(name, setting, methods, selectors)
    return Trace(selected, weights, picked, sum(drew) / max(1, len(drew)))


def _deliver(method: PruningMethod, signals: Signals, setting: Setting) -> None:
    """Hand signals over as the setting says; online methods get them as they are."""
    rows = torch.arange(len(signals))
    if setting.delivery in ("shuffled", "steps") and not method.online:
        rng = torch.Generator().manual_seed(3)
        parts = list((torch.randperm(len(rows), generator=rng) if setting.delivery == "shuffled" else rows).split(7))
    elif setting.delivery == "repeated" and not method.online:
        parts = [rows, rows[::2]]
    else:
        parts = [rows]
    for part in parts:
        values = {name: value[part] for name, value in signals.values.items()}
        call(method, "observe", method.observe, replace(signals, indices=signals.indices[part], values=values))


def _reload(
    name: str, setting: Setting, methods: list[PruningMethod], selectors: list[Selector]
) -> tuple[list[PruningMethod], list[Selector]]:
    """Pass all state through a file, as a checkpoint does, into new objects."""
    fresh = [catalog.load_method(name) for _ in methods]
    again = []
    for method, new, selector in zip(methods, fresh, selectors, strict=True):
        file = io.BytesIO()
        torch.save({"method": method.state_dict(), "selector": selector.state_dict()}, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        new.setup(method.task, generator(setting.seed, "other"))
        new.load_state_dict(state["method"])
        again.append(Selector(new))
        again[-1].load_state_dict(state["selector"])
    return fresh, again


def valid(name: str) -> list[str]:
    """Selections are in range, unique, int64 and, where the method says exact, of round(keep n) samples."""
    setting, method = Setting(), catalog.load_method(name)
    trace = pretend(name, setting)
    if not method.exact or method.picks():
        return []
    k = round(setting.n * (setting.keep if method.keep is None else method.keep))
    low, high = method.window
    pruning = range(int(low * setting.epochs), int(high * setting.epochs))
    return [
        f"select(epoch={epoch}): expected {k} samples, came {len(trace.selected[epoch])} (exact is True)"
        for epoch in pruning
        if epoch < len(trace.selected) and len(trace.selected[epoch]) != k
    ]


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
    setting = Setting(n=n, classes=10)
    ledger.reset_peak_memory()
    start_mb = ledger.peak_memory_mb()
    method = catalog.load_method(name)
    keep = setting.keep if method.keep is None else method.keep
    task = Task(n, setting.epochs, 128, keep, labels_of(setting))
    method.setup(task, generator(0, "method"))
    runs = [None] if method.proxy is None else list(range(method.proxy.seeds))
    rng = torch.Generator().manual_seed(0)
    for run in runs:
        values = {name: _random_signal(name, n, rng) for name in method.needs}
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
