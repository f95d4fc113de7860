"""Any score with any selection rule: score[by=aum,rule=stratified]."""

import copy
from dataclasses import replace
from functools import partial

import torch

from dpbench.method import Requires, Selection, Signals, Task, param
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

    def requires(self) -> Requires:
        of_score = scorer(self.by).requires()
        return replace(of_score, signals={*of_score.signals, "prob_y"}) if self.rule == "beta" else of_score

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
