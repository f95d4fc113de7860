"""What tuning has found for the rows of a grid, and the name of the track that a board shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import Field

from dpbench.recipe import Strict

FIXED = "fixed recipe"
SUFFIX = "_tuned"  # of the name of a grid's tuned track


def base(name: str) -> str | None:
    """The name of the grid whose tuned track a grid is by its name; None for others."""
    return name.removesuffix(SUFFIX) if name.endswith(SUFFIX) else None


class Tuned(Strict):
    """What was chosen on the validation samples for a method of the grid, where it is named as the grid lists it.

    It holds for the dataset, the model and the keep that are given, and for all where they are not. `chosen` is the
    method with the parameters that were found, `recipe` has the values that were; `trials` found them, which sent
    `spent` samples backward. `rates` are the lowest and the highest learning rate that work (`experiments/ladder.py`).
    """

    method: str
    dataset: str | None = None
    model: str | None = None
    keep: float | None = Field(None, gt=0, le=1)
    chosen: str = ""
    recipe: dict[str, Any] = {}
    trials: int = Field(ge=1)
    spent: int | None = Field(None, ge=0)
    rates: tuple[float, float] | None = None

    @property
    def becomes(self) -> str:
        """The method as its rows name it."""
        return self.chosen or self.method

    def at(self, dataset: str, model: str, keep: float) -> bool:
        """Whether it holds for the rows of this dataset, model and keep."""
        return self.dataset in (None, dataset) and self.model in (None, model) and self.keep in (None, keep)


def listed(given: Any) -> Any:
    """The trials of each method, which may be all that a grid says, as a list of what was found."""
    if not isinstance(given, dict):
        return given
    return [{"method": method, "trials": trials} for method, trials in given.items()]


def track(rows: Iterable[Tuned | None]) -> str:
    """Name the track of these rows: whether the recipe's values were tuned for each of them, or are the same for all.

    Parameters of single methods may be tuned on the fixed recipe, too.
    """
    rows = list(rows)
    trials = sorted({row.trials for row in rows if row and row.recipe})
    if not trials:
        return FIXED
    count = sum(bool(row and row.recipe) for row in rows)
    if count < len(rows):
        return f"{FIXED}, but for {count} tuned of {len(rows)} rows"
    return f"tuned ({'-'.join(map(str, dict.fromkeys((trials[0], trials[-1]))))} trials a row)"
