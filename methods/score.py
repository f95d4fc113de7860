"""Any score with any selection rule: score[by=aum,rule=stratified]."""

import copy
from functools import partial
from typing import Any

import torch

from dpbench.method import Proxy, PruningMethod, Selection, Signals, Task, param
from dpbench.scores import (
    Rule,
    Static,
    beta_weights,
    draw,
    easiest,
    finite,
    groups,
    hardest,
    moderate,
    pick,
    scorer,
    stratified,
)


class Score(Static):
    """Take the scores of the method `by`, with its defaults, and select by `rule`, globally or class by class.

    hardest, easiest: the k highest, lowest scores. moderate: the k around the median. stratified: CCS's, after cutting
    off the share `cut` of highest score. beta: DUAL's draw in proportion to the score, counted from the lowest, times
    a density at the mean p_y with exponent `c`.
    """

    by: str = param("aum")
    rule: str = param("hardest", choices=("hardest", "easiest", "moderate", "stratified", "beta"))
    balanced: bool = param(False)
    cut: float = param(0.0, low=0.0, high=0.5)
    c: float = param(4.0, low=0.5, high=10.0)

    _INTERFACE = PruningMethod._INTERFACE | {"source"}  # it has a state of its own

    @property
    def needs(self) -> frozenset[str]:
        return scorer(self.by).needs | ({"prob_y"} if self.rule == "beta" else set())

    @property
    def proxy(self) -> Proxy | None:
        return scorer(self.by).proxy

    def uses(self) -> tuple[str, ...]:
        return (self.by,)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.ease, self.passes = torch.zeros(task.n), 0
        self.source = copy.copy(scorer(self.by))
        self.source.setup(task, rng)

    def take(self, seen: Signals) -> None:
        self.source.take(seen)
        if self.rule == "beta":
            self.ease += seen["prob_y"]
            self.passes += 1

    def choose(self) -> Selection:
        scores = self.source.scores()
        if self.rule == "beta":
            scores = finite(scores)
            scores = beta_weights(scores - scores.min(), self.ease / self.passes, self.task.keep, self.c)
        rules: dict[str, Rule] = {
            "hardest": hardest,
            "easiest": easiest,
            "moderate": moderate,
            "stratified": partial(stratified, cut=self.cut),
            "beta": draw,
        }
        return Selection(pick(scores, groups(self.task, self.balanced), rules[self.rule], self.rng))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"source": self.source.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.source.load_state_dict(state["source"])
