"""One bar for a whole command: how many runs are done, which are running, and when the rest will be."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

LOST = ("FAILED", "DIVERGED")
ENOUGH = 2  # runs that have to be done before anything is said of the rest
OVERHEAD = 0.1  # what a run takes that keeps nothing, against one that keeps all


class Running(Progress):
    """A bar and, below it, the names of what is running. Runs are added as they are planned, each with its keep."""

    def __init__(self, title: str, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.title, self.clock = title, clock
        self.lost: Counter[str] = Counter()
        self.waiting: dict[int, float] = {}  # weights
        self.begun: dict[int, tuple[str, float, float]] = {}  # names, times, weights
        self.ended: list[tuple[float, float]] = []  # seconds, weights
        self.planned, self.done, self.workers = 0, 0, 1
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, TextColumn("{task.fields[eta]}"), console=console)
        self.bar = self.add_task(title, total=0, eta="")

    def plan(self, shares: dict[int, float], runs: int, workers: int) -> None:
        """Add what is to be done, by key, with the share of the samples that each trains on; `runs` of it count."""
        self.waiting |= {key: OVERHEAD + share for key, share in shares.items()}
        self.planned, self.workers = self.planned + runs, workers
        self._show()

    def begin(self, key: int, name: str) -> None:
        """A worker has started on it."""
        self.begun[key] = (name, self.clock(), self.waiting.pop(key))
        self._show()

    def end(self, key: int, status: str | None) -> None:
        """It has ended; a run has a status, a proxy has none. What was left out had not begun."""
        self.waiting.pop(key, None)
        if key in self.begun:
            _, began, weight = self.begun.pop(key)
            self.ended.append((self.clock() - began, weight))
        self.done += status is not None
        self.lost.update([status] if status in LOST else [])
        self._show()

    def seconds_left(self) -> float | None:
        """By the mean time of what has ended, by weight; None while too little has."""
        if min(self.done, len(self.ended)) < ENOUGH:
            return None
        of_one = sum(spent for spent, _ in self.ended) / sum(weight for _, weight in self.ended)
        now = self.clock()
        running = [max(0.0, of_one * weight - (now - began)) for _, began, weight in self.begun.values()]
        work = sum(running) + of_one * sum(self.waiting.values())
        return max([work / self.workers, *running])

    def _show(self) -> None:
        left = self.seconds_left()
        eta = "" if left is None else f"ETA {int(left) // 60}:{int(left) % 60:02d}"
        lost = [f"{self.lost[status]} {status.lower()}" for status in LOST if self.lost[status]]
        text = ", ".join([self.title, *lost])
        self.update(self.bar, description=text, total=self.planned, completed=self.done, eta=eta)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar and, while something runs, its names on one line."""
        yield from super().get_renderables()
        if begun := list(self.begun.values()):
            names = ", ".join(name for name, _, _ in begun)
            yield Text(f"running: {names}", style="dim", no_wrap=True, overflow="ellipsis")
