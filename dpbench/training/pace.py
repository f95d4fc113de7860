"""How far a training is, in the unit of its budget, and the step that the schedule makes of it."""

from __future__ import annotations

import time

from dpbench import optim
from dpbench.setting import Budget
from dpbench.spec import Recipe
from dpbench.training.ledger import Epoch, Ledger
from dpbench.training.ranks import ALONE, Ranks

SPENT = ("select", "train", "observe")  # the phases whose seconds a budget of time counts


class Pace:
    """The progress of a training to the end of its budget: `epochs`, or what full training of n samples takes in them.

    `samples` are those that may be sent backward, `steps` those of the optimizer; `ledger` counts what is spent.
    """

    def __init__(
        self,
        recipe: Recipe,
        epochs: int,
        budget: Budget | None = None,
        samples: float = 0,
        steps: int = 0,
        ledger: Ledger | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.recipe, self.epochs, self.samples, self.steps = recipe, epochs, samples, steps
        self.budget = budget or Budget()
        self.ledger, self.ranks = ledger or Ledger(), ranks

    def progress(self, epoch: int, share: float = 0.0, done: Epoch | None = None) -> float:
        """The share of the budget that is spent at `share` of `epoch`, which `done` something by then."""
        done = done or Epoch()
        match self.budget.unit:
            case "steps":
                return (self.ledger.steps + done.steps) / self.steps
            case "samples":
                return (self.ledger.backward + done.backward) / self.samples
            case "time":
                assert self.budget.seconds is not None
                now = time.perf_counter() - self.began if share else 0.0
                spent = sum(self.ledger.seconds[phase] for phase in SPENT) + now
                return self.ranks.agreed(spent / self.budget.seconds)  # clocks differ
            case _:
                return (epoch + share) / self.epochs

    def start(self, epoch: int, scale: float = 1.0) -> None:
        """Begin an epoch, whose learning rate is multiplied by `scale`."""
        self.epoch, self.scale, self.began = epoch, scale, time.perf_counter()

    def at(self, share: float, done: Epoch) -> optim.Step | None:
        """Learning rate and momentum of the step at `share` of the epoch; None when the budget is spent."""
        progress = self.progress(self.epoch, share, done)
        return optim.schedule(self.recipe, progress, self.scale) if progress < 1 else None
