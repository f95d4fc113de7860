"""That a run is under way, where and how far, as a file in its folder: `dpbench status` reads it on any machine."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dpbench import store
from dpbench.errors import RunFailed

FILE = "running.json"
EVERY_S = 2.0  # between two writes
QUIET_S = 120.0  # without a sign a run counts as silent, unless its epochs take so long
FIRST_S = 3600.0  # the same before the first epoch is over, of which nobody knows how long it takes
EPOCHS = 3  # that it may be silent for


class Pulse(NamedTuple):
    """The last sign of a run: its machine and process, epochs done of how many, seconds of the last, and since when.

    The times of one that was read are by the clock that dates the folder's files, since clocks of machines differ.
    """

    host: str
    pid: int
    epoch: int
    epochs: int
    epoch_s: float
    since: float
    at: float
    ahead: float = 0.0  # seconds of the machine's clock, where it was read

    def silent(self, now: float) -> bool:
        """Whether there should have been a newer sign by now, which is `store.clock`."""
        patience = max(QUIET_S, EPOCHS * self.epoch_s) if self.epoch else FIRST_S
        return now - self.at > patience


WRITTEN = [name for name in Pulse._fields if name != "ahead"]


class Beat:
    """Writes a run's signs."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self.path, self.epochs = folder / FILE, epochs
        self.since = self.last = time.time()
        self.written = -EVERY_S

    def __call__(self, epoch: int) -> None:
        """Say that `epoch` of the epochs are done, unless it was said a moment ago."""
        now = time.time()
        if time.monotonic() - self.written >= EVERY_S:
            self.written = time.monotonic()
            pulse = Pulse(socket.gethostname(), os.getpid(), epoch, self.epochs, now - self.last, self.since, now)
            with suppress(RunFailed):  # a sign that is missing harms no run
                store.write_json(self.path, {name: getattr(pulse, name) for name in WRITTEN})
        self.last = now


def read(folder: Path) -> Pulse | None:
    """The last sign of the run in a folder, None where it has ended or not begun."""
    found = store.read_json(folder / FILE, lambda content: Pulse(**content))
    dated = store.dated(folder / FILE)
    if found is None or dated is None:
        return None
    ahead = found.at - dated
    return found._replace(at=dated, since=found.since - ahead, ahead=ahead)
