"""A measure of each row's finished runs by seed, and how two rows differ in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from dpbench.analysis import moderated, stats, verdicts
from dpbench.analysis.flips import Flips
from dpbench.spec import Row, row_of
from dpbench.training import derived
from dpbench.training.measures import MEASURES
from dpbench.training.results import RunResult, is_finished


@dataclass(frozen=True)
class Measured:
    """A measure by row and seed, in points; the spacing of its values; rows with seeds that diverged or failed, why."""

    values: dict[Row, pd.Series]
    steps: dict[Row, float]
    trouble: dict[Row, str]
    spreads: moderated.Spreads
    share: float  # of ALPHA, at one look

    def difference(self, row: Row, reference: Row) -> stats.Difference | None:
        """The paired difference of two rows; None where one has no run, or has seeds that diverged or failed."""
        both = (row, reference)
        if any(one in self.trouble or one not in self.values for one in both):
            return None
        found = self.spreads.difference(row, reference, self.values[row], self.values[reference], self.steps[row])
        return replace(found, share=self.share)


def measure(name: str, results: Iterable[RunResult], flips: Flips | None = None, looks: Sequence[int] = ()) -> Measured:
    """Gather a measure from runs; `flips` are those of their test predictions, which tell how an accuracy varies.

    Of a grid with `looks` each row has its seeds up to the last one that is whole.
    """
    results = list(results)
    [one] = [one for one in MEASURES if one.name == name]
    found: dict[Row, dict[int, float]] = {}
    steps: dict[Row, float] = {}
    for result in results:
        value = one.of(result) if is_finished(result) else None
        if value is not None:
            row = row_of(result["spec"])
            found.setdefault(row, {})[result["spec"]["seed"]] = one.factor * value
            steps[row] = _step(name, result)
    values = {row: pd.Series(by_seed) for row, by_seed in found.items()}
    values = {row: of_row[stats.whole_looks(of_row.index, looks)] for row, of_row in values.items()}
    values = {row: of_row for row, of_row in values.items() if len(of_row)}
    trouble = verdicts.broken(results)
    frames = {row: pd.DataFrame({"accuracy": values[row], "step": steps[row]}) for row in values if row not in trouble}
    return Measured(
        values, steps, trouble, moderated.spreads(frames, flips if name == "accuracy" else None), stats.share(looks)
    )


def _step(measure: str, result: RunResult) -> float:
    """One test sample in points; in one class, a sample of a class of average size. 0 where it is not recorded."""
    tested = result.get("samples", {}).get("test")
    classes = len(derived.diagnostics(result).get("kept_per_class") or []) if measure == "accuracy_worst_class" else 1
    return 100 * classes / tested if tested else 0.0
