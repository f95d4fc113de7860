"""How far a grid is, from the folders of its runs alone, on any machine that sees them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean

from dpbench import store
from dpbench.experiments import controls
from dpbench.experiments import grid as grids
from dpbench.spec import RunSpec
from dpbench.training import pulse
from dpbench.training.pulse import Pulse
from dpbench.training.results import RunResult


@dataclass
class Status:
    """The runs of a grid by what has become of them; `silent` ones have begun and given no sign for too long."""

    grid: str
    done: list[RunResult] = field(default_factory=list)
    diverged: list[RunResult] = field(default_factory=list)
    failed: list[tuple[RunSpec, str]] = field(default_factory=list)
    running: list[tuple[RunSpec, Pulse]] = field(default_factory=list)
    silent: list[tuple[RunSpec, Pulse]] = field(default_factory=list)
    waiting: int = 0

    @property
    def total(self) -> int:
        """All runs, controls at realised cost included as far as they are known."""
        ended = len(self.done) + len(self.diverged) + len(self.failed)
        return ended + len(self.running) + len(self.silent) + self.waiting

    @property
    def over(self) -> bool:
        """Whether nothing runs any more or waits to."""
        return not (self.waiting or self.running or self.silent)

    @property
    def left_s(self) -> float | None:
        """Seconds until the rest is done by as many workers as now, by the mean time of what is done; None if unknown.

        A run that has begun is counted by the share of its epochs that is left.
        """
        spent = [one["ended"] - one["started"] for one in self.done if one.get("ended")]
        spent = [seconds for seconds in spent if seconds > 0]  # a clock may have been set back meanwhile
        if not spent or not self.running:
            return None
        # a budget of steps, samples or time may take more epochs than are planned
        begun = [max(0.0, 1 - sign.epoch / max(sign.epochs, 1)) for _, sign in self.running]
        return fmean(spent) * (self.waiting + sum(begun)) / len(self.running)


def status(grid: str, results: dict[str, RunResult] | None = None) -> Status:
    """Read the folders of a grid's runs, or take the results that were just read from them.

    Controls that are not listed yet count as waiting when all cells have ended. UsageError for a grid that was not run
    here.
    """
    manifest = grids.read_manifest(grid)
    cells = manifest.cells | manifest.controls
    results = grids.results(cells) if results is None else results
    found, now = Status(grid), store.clock(store.home())
    for key, spec in cells.items():
        folder, result = store.run_folder(key), results.get(key)
        sign = pulse.read(folder)
        if result is not None and result["status"] == "FINISHED":
            found.done.append(result)
        elif result is not None and result["status"] == "DIVERGED":
            found.diverged.append(result)
        elif sign is not None and (result is None or sign.at > (store.dated(folder / "result.json") or 0.0)):
            (found.silent if sign.silent(now) else found.running).append((spec, sign))
        elif result is not None:
            found.failed.append((spec, result["reason"]))
        else:
            found.waiting += 1
    if found.over:  # or between the cells and their controls
        listed = {(spec.row, spec.seed) for spec in manifest.controls.values()}  # by whichever version of the code
        found.waiting = len({(spec.row, spec.seed) for spec in controls.wanted(manifest.cells, results)} - listed)
    return found


def clocks_apart(signs: Iterable[tuple[RunSpec, Pulse]]) -> dict[str, float]:
    """The machines whose clock is not that of the folder, each with its seconds ahead; negative if behind."""
    apart = {sign.host: sign.ahead for _, sign in signs}
    return {host: seconds for host, seconds in apart.items() if abs(seconds) > pulse.QUIET_S / 2}
