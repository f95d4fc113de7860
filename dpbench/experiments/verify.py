"""Check a bundle: its hashes and structure, and cells drawn at random, which are run again and compared."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from scipy.stats import t as student

from dpbench import store
from dpbench.errors import UsageError
from dpbench.experiments import bundle as bundles
from dpbench.experiments import gang, history
from dpbench.experiments import grid as grids
from dpbench.experiments.bundle import Bundle
from dpbench.experiments.grid import Executor
from dpbench.experiments.merge import VARYING, checked, one_sided
from dpbench.predictions import Predictions
from dpbench.selections import Selections
from dpbench.spec import PROTOCOL, Row, RunSpec
from dpbench.training.results import RunResult, read_result

COMPARED = ("status", "kind", "hyperparameters", "samples", "metrics", "epochs", "diagnostics")
THREADS = 64  # a stranger may ask for no more


@dataclass(frozen=True)
class Verdict:
    """Of a run, whether it agrees with the bundle, None where it was not run again; and why."""

    run: str
    title: str
    agrees: bool | None
    why: str


@dataclass
class Verified:
    """What was found in a bundle: how many runs are sound, what is wrong with it, and a verdict on each run drawn.

    `results` has, by verdict, the hashes of all results of the rows of which a run was made again.
    """

    seed: int
    sound: int = 0
    faults: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    results: dict[str, dict[str, str]] = field(default_factory=dict)


def verify(
    path: Path,
    cells: int,
    seed: int,
    console: Console,
    jobs: int | None = None,
    data_root: Path | None = None,
    executor: Executor | None = None,
) -> Verified:
    """Check a bundle, and run `cells` of its runs again, drawn by `seed`, in a results folder that is deleted then.

    Only code that is installed here is run: a run that was made by other code is told, and not run again.
    """
    found = Verified(seed)
    with bundles.opened(path) as bundle:
        try:
            manifest = bundle.manifest()
        except store.BAD as error:
            raise UsageError(f"{path} is refused: grid.json: {store.brief(error)}") from None
        specs = manifest.cells | manifest.controls
        altered = _altered(bundle, found)
        sound: dict[str, RunResult] = {}
        for key in bundle.runs():
            title = f"{specs[key].title} ({key})" if key in specs else f"run {key}"
            try:
                if key not in specs:
                    raise ValueError("it is no cell of the bundle's grid")
                sound[key] = checked(bundle.run(key), key)
                if RunSpec.model_validate(sound[key]["spec"]) != specs[key]:
                    raise ValueError("the grid says that it is another run")
            except store.BAD as error:
                found.faults.append(f"{title}: {store.brief(error)}")
                sound.pop(key, None)
        found.sound = len(sound)
        ended = sorted(key for key, result in sound.items() if result["status"] != "FAILED")
        drawn = random.Random(seed).sample(ended, min(cells, len(ended)))
        fit = {}
        for key in drawn:
            why = _foreign(specs[key], sound[key], altered)
            if not why and specs[key].devices > (most := _most_devices()):
                why = f"it takes {specs[key].devices} processes; at most {most} are started here"
            if why:
                found.verdicts.append(Verdict(key, f"{specs[key].title} ({key})", None, why))
            else:
                fit[key] = specs[key]
        with TemporaryDirectory(prefix="dpbench-verify-") as scratch, store.moved_home(Path(scratch)):
            for (threads, _), part in _alike(fit, sound).items():
                grids.run_cells(
                    path.name, part, dict, console, jobs, threads, None, data_root, grids.CELL_TIMEOUT_S, executor
                )
            for key in fit:
                peers = [one for one in sound.values() if specs[one["hash"]].row == specs[key].row]
                agrees, why = _compared(bundle, sound[key], peers)
                found.verdicts.append(Verdict(key, f"{specs[key].title} ({key})", agrees, why))
        found.results = _hashes(bundle, {key: specs[key].row for key in sound}, found.verdicts)
    return found


def _most_devices() -> int:
    """How many processes of a run are started here: the GPUs where there are any, else cores."""
    from dpbench.training.runner import default_device

    return gang.room(default_device())[0]


def _hashes(bundle: Bundle, rows: dict[str, Row], verdicts: list[Verdict]) -> dict[str, dict[str, str]]:
    """The hash of each run's results whose row has a verdict, by verdict; one run that disagrees speaks for its row."""
    agreeing: dict[Row, bool] = {}
    for one in verdicts:
        if one.agrees is not None:
            agreeing[rows[one.run]] = one.agrees and agreeing.get(rows[one.run], True)
    found: dict[str, dict[str, str]] = {history.VERIFIED: {}, history.CONTRADICTED: {}}
    for key, row in rows.items():
        if row in agreeing:
            verdict = history.VERIFIED if agreeing[row] else history.CONTRADICTED
            found[verdict][key] = history.digest(bundle.run(key))
    return found


def _altered(bundle: Bundle, found: Verified) -> set[tuple[str, str]]:
    """The plug-ins whose source in the bundle is not that which the runs' hashes are of."""
    altered = set()
    for (key, digest), members in bundle.sources().items():
        try:
            if bundle.digest_of(members) != digest:
                raise ValueError("the bundle's code is not that which its runs were made by")
        except (*store.BAD, MemoryError) as error:
            altered.add((key, digest))
            found.faults.append(f"source of {key}: {store.brief(error)}")
    return altered


def _foreign(spec: RunSpec, result: RunResult, altered: set[tuple[str, str]]) -> str:
    """Why a run may not be run again here: it was made by other code than what is installed; "" if it may."""
    if any(".py" in text for text in (spec.dataset, spec.model, spec.method)):
        return "it names a file of code; only what is installed here is run"
    identity = result.get("identity", {})
    theirs = identity.get("sources", {})
    changed = sorted(key for key, digest in altered if theirs.get(key) == digest)
    if changed:
        return f"the bundle gives another source of {', '.join(changed)} than made it"
    try:
        ours = spec.identity
    except UsageError as error:
        return store.brief(error)
    if identity.get("protocol") != PROTOCOL:
        return f"it was made under protocol {identity.get('protocol')}; here it is {PROTOCOL}"
    differing = sorted(key for key in {*theirs, *ours["sources"]} if theirs.get(key) != ours["sources"].get(key))
    if differing:
        return f"the source of {', '.join(differing)} differs from what is installed here; a stranger's code is not run"
    return "" if ours == identity else "its identity is written as another version of dpbench does"


def _alike(cells: dict[str, RunSpec], results: dict[str, RunResult]) -> dict[tuple[int, int], dict[str, RunSpec]]:
    """The runs by the threads and devices that they were made with; the last bits of a sum depend on threads."""
    found: dict[tuple[int, int], dict[str, RunSpec]] = defaultdict(dict)
    for key, spec in cells.items():
        threads = results[key]["environment"].get("threads")
        found[min(max(threads, 1), THREADS) if isinstance(threads, int) else 1, spec.devices][key] = spec
    return found


def _compared(bundle: Bundle, theirs: RunResult, peers: list[RunResult]) -> tuple[bool | None, str]:
    """Whether a run that was just made again agrees with the bundle's, and how that was found or where they differ."""
    ours = read_result(theirs["hash"])
    if ours is None or ours["status"] == "FAILED":
        return None, f"it could not be run here: {ours['reason'] if ours else 'it has no result'}"
    if ours["status"] != theirs["status"]:
        return False, f"status {theirs['status']} in the bundle, {ours['status']} here"
    timed = theirs["spec"].get("budget", {}).get("unit") == "time"
    devices = [str(one["environment"].get("device")) for one in (theirs, ours)]
    if timed or devices != ["cpu", "cpu"]:
        within = "its budget is time" if timed else f"made on {devices[0]}, here on {devices[1]}"
        return _within(ours, theirs, peers, within)
    differing = [*_differing(ours, theirs), *_differing_files(bundle, theirs)]
    if not differing:
        without = one_sided(ours, theirs)
        return True, f"exactly, but for {', '.join(without)}, which only one of the two has" if without else "exactly"
    versions = [f"{name} {theirs['environment'].get(name)} there, {ours['environment'].get(name)} here"
                for name in ("torch", "numpy", "machine")
                if theirs["environment"].get(name) != ours["environment"].get(name)]  # fmt: skip
    hint = f" (made with {', '.join(versions)}, which may be why)" if versions else ""
    return False, f"{'; '.join(differing[:3])}{hint}"


def _differing(ours: RunResult, theirs: RunResult) -> list[str]:
    """Each value that should be equal and is not, the accuracy first."""
    a, b = ({name: value for part in COMPARED for name, value in _flat(one.get(part), part)} for one in (ours, theirs))
    without = {f"metrics.{name}" for name in one_sided(ours, theirs)}
    names = sorted({*a, *b} - without, key=lambda name: (name != "metrics.accuracy", name))
    return [f"{name} {b.get(name)} in the bundle, {a.get(name)} here" for name in names if a.get(name) != b.get(name)]


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The numbers and texts in a part of a result, by their path, without times and memory; NaN is None."""
    if VARYING.match(name.rpartition(".")[2]):
        return
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _flat(inner, f"{name}.{key}")
    else:
        yield name, None if isinstance(value, float) and math.isnan(value) else value


def _differing_files(bundle: Bundle, theirs: RunResult) -> list[str]:
    """Which of selections and predictions, as far as the bundle has them, are others than those made here."""
    folder, files = store.run_folder(theirs["hash"]), bundle.run(theirs["hash"])
    differing = []
    if content := files.get("selections.npz"):
        there, here = Selections.read(content).digest, Selections.read(folder / "selections.npz").digest
        differing += [f"selections {there} in the bundle, {here} here"] if there != here else []
    if content := files.get("predictions.npz"):
        said, now = vars(Predictions.read(content)), vars(Predictions.read(folder / "predictions.npz"))
        other = np.logical_or.reduce([~_same(said[name], now[name]) for name in said])
        differing += [f"predictions of {int(other.sum())} test samples"] if other.any() else []
    return differing


def _same(a: Any, b: Any) -> Any:
    return (a == b) | ((a != a) & (b != b))  # NaN is a loss of what has diverged


def _within(ours: RunResult, theirs: RunResult, peers: list[RunResult], why: str) -> tuple[bool, str]:
    """Whether the accuracies differ by no more than two runs of a row do, at 95 %.

    That is by the spread of the row's seeds in the bundle, or by that of the test samples where this is more.
    """
    if ours["status"] == "DIVERGED":
        return True, f"both diverged ({why})"
    a, b = (one["metrics"]["accuracy"] for one in (ours, theirs))
    seeds = [one["metrics"]["accuracy"] for one in peers if one["status"] == "FINISHED"]
    spread = float(student.ppf(0.975, len(seeds) - 1) * np.std(seeds, ddof=1)) if len(seeds) > 1 else 0.0
    samples = max(1, theirs.get("samples", {}).get("test", 1))
    room = math.sqrt(2) * max(spread, 1.96 * math.sqrt(max(0.0, b * (1 - b)) / samples))
    text = f"accuracy {b:.2%} in the bundle, {a:.2%} here, at most {room:.2%} apart for two runs ({why})"
    return abs(a - b) <= room, f"within an interval, not exactly: {text}"
