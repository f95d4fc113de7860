"""Any score with any selection rule: score[by=aum,rule=stratified]."""

import copy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from dpbench.draws import others
from dpbench.errors import UsageError
from dpbench.greedy import BLOCK, blocks, guard
from dpbench.kernels import euclidean
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
    part: float = param(1.0, low=0.001, high=1.0, log=True)
    near: int = param(10, low=1, high=100)

    def requires(self) -> Requires:
        stated = scorer(self.by).requires()
        if self.rule == "beta":
            stated = replace(stated, signals={*stated.signals, "prob_y"})
        if self.part == 1:
            return stated
        proxy = stated.proxy
        if proxy is None or proxy.seeds > 1 or proxy.data != "train" or proxy.share < 1:
            raise UsageError(f"score[by={self.by}]: part is for scores by one proxy that trains on all samples")
        proxy = replace(proxy, share=self.part, at="end" if proxy.at == "end" else "epochs")
        return replace(stated, signals={*stated.signals, "member", "embedding"}, proxy=proxy)

    def uses(self) -> tuple[str, ...]:
        return (self.by,)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.ease, self.passes = torch.zeros(task.n), 0
        self.source = copy.copy(scorer(self.by))
        self.source.setup(task, rng)
        self.members = torch.arange(0)  # of the part, once they are known
        self.embedding = torch.zeros(0)

    def take(self, seen: Signals) -> None:
        if self.part < 1:
            seen = self._of_part(seen)
        self.source.take(seen)
        if self.rule == "beta":
            self.ease += seen["prob_y"]
            self.passes += 1

    def _of_part(self, seen: Signals) -> Signals:
        """What was measured on the part; `by` is told that these are all samples."""
        members, labels = seen["member"].nonzero().squeeze(1), self.task.labels
        part = replace(self.task, n=len(members), labels=None if labels is None else labels[members])
        if len(self.members) == 0:
            self.source.setup(part, self.rng)
            self.members, self.ease = members, torch.zeros(len(members))
        self.source.task, self.embedding = part, seen["embedding"]
        values = {name: value[members] for name, value in seen.values.items()}
        return replace(seen, indices=torch.arange(len(members)), values=values)

    def _extrapolated(self, values: Tensor) -> Tensor:
        """The values (m,) of the part for all samples (n,): the mean of the nearest members for all others."""
        n, m, h = self.task.n, len(self.members), self.embedding
        rest, distance = others(n, self.members), euclidean(h)
        guard("score", len(rest) * m * h.shape[1], 3 * h.numel() + 2 * max(BLOCK, 256 * m))
        found, known = values.new_empty(n), finite(values)
        found[self.members] = values
        for rows in filter(len, blocks(rest, m)):
            nearest = distance(rows, self.members).topk(min(self.near, m), largest=False).indices
            found[rows] = known[nearest].mean(1)
        return found

    def choose(self) -> Selection:
        scores, ease = self.source.scores(), self.ease
        if self.part < 1:
            scores = self._extrapolated(scores)
            ease = self._extrapolated(ease) if self.rule == "beta" else ease
        if self.rule == "beta":
            scores = finite(scores)
            scores = beta_weights(scores - scores.min(), ease / self.passes, self.task.keep, self.c)
        rules: dict[str, Rule] = {
            "hardest": hardest,
            "easiest": easiest,
            "moderate": moderate,
            "stratified": partial(stratified, cut=self.cut),
            "beta": draw,
        }
        return Selection(pick(scores, groups(self.task, self.balanced), rules[self.rule], self.rng))
