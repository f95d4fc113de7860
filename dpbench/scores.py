"""Building blocks that a method file may import besides dpbench.method: recorded passes, budgets, rules, windows.

`Static` turns what `observe` is shown into whole passes over the data, `ScoreMethod` adds a score and a rule.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor

from dpbench.draws import others, sample, top
from dpbench.errors import UsageError
from dpbench.method import PruningMethod, Selection, Signals, Task, param

Rule: TypeAlias = Callable[[Tensor, int, torch.Generator], Tensor]  # scores (m,), k -> k positions

PART = 2**14  # samples that are worked on together, so that they stay in the cache


class Static(PruningMethod):
    """A method that selects once, from whole passes over the data that a proxy training recorded.

    `take` is given each pass, in the order of the training, when all of it is known; `choose` answers.
    """

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        if self.requires().period != 0:
            raise ValueError("it selects once; write Requires(..., period=0)")
        self.current = [-1, -1]  # run and epoch of the pass that is being gathered
        self.gathered: dict[str, Tensor] = {}

    @abstractmethod
    def take(self, seen: Signals) -> None:
        """Learn from one whole pass: `seen.indices` is range(n)."""

    @abstractmethod
    def choose(self) -> Selection:
        """Select, after the last pass."""

    def observe(self, signals: Signals) -> None:
        if signals.proxy_run is None:
            return
        if self.current != [signals.proxy_run, signals.epoch]:
            self._finish()
            self.current = [signals.proxy_run, signals.epoch]
        whole = torch.equal(signals.indices, torch.arange(self.task.n))
        for name in self.requires().signals:
            value = signals[name].float()
            if value.dim() > 1 and not value.sum().isfinite():
                value = value.nan_to_num(0.0, 0.0, 0.0)  # so that one sample cannot spoil every distance
            if whole:
                self.gathered[name] = value
                continue
            if name not in self.gathered:
                self.gathered[name] = value.new_zeros(self.task.n, *value.shape[1:])
            self.gathered[name][signals.indices] = value

    def select(self, epoch: int) -> Selection:
        self._finish()
        if self.requires().signals and self.current == [-1, -1]:
            raise ValueError("no proxy training was replayed")
        return self.choose()

    def labels(self) -> Tensor:
        """The labels, which the method cannot do without."""
        if self.task.labels is None:
            raise ValueError("the labels of the samples are needed")
        return self.task.labels

    def _finish(self) -> None:
        if self.gathered:
            run, epoch = self.current
            seen, self.gathered = self.gathered, {}
            self.take(Signals(torch.arange(self.task.n), seen, epoch, run))


class ScoreMethod(Static):
    """A static method that is a score: the k samples of highest score, or each class's share of k (`balanced`)."""

    balanced: bool = param(False)

    @abstractmethod
    def scores(self) -> Tensor:
        """(n,), high for the samples that the paper keeps; not a number counts as highest."""

    def choose(self) -> Selection:
        return Selection(pick(self.scores(), groups(self.task, self.balanced), hardest, self.rng))


class SubsetMethod(Static):
    """A static method that chooses a set, from the last pass: k samples, or each class's share of k (`balanced`)."""

    balanced: bool = param(False)

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.seen: dict[str, Tensor] = {}

    @abstractmethod
    def among(self, members: Tensor, seen: dict[str, Tensor], k: int) -> Selection:
        """Select k of the samples `members` (m,), whose signals are `seen` (m, ...); indices are positions there."""

    def take(self, seen: Signals) -> None:
        self.seen = seen.values

    def choose(self) -> Selection:
        seen, self.seen = self.seen, {}  # checkpoints stay small
        parts = []
        for members, share in groups(self.task, self.balanced):
            own = {name: values[members] for name, values in seen.items()} if self.balanced else seen
            parts.append((members, self.among(members, own, share)))
        indices = torch.cat([members[part.indices] for members, part in parts])
        weights = [part.weights for _, part in parts if part.weights is not None]
        return Selection(indices, mean_one(torch.cat(weights)) if weights else None)


def mean_one(weights: Tensor) -> Tensor:
    """Scale weights so that their mean is 1, which leaves the learning rate its meaning; ones if all vanish."""
    mean = weights.mean()
    return (weights / mean).float() if mean > 0 else torch.ones(len(weights))


# --- budgets ---------------------------------------------------------------------------------------------------------


def budgets(weights: Tensor, size: Tensor, k: int) -> Tensor:
    """Split k in proportion to `weights` (C,), none above its `size` (C,): (C,) int64 that sum to min(k, size.sum()).

    What exceeds a size goes to the others in proportion; fractions are rounded by largest remainder.
    """
    weights, k = weights.double().clamp(min=1e-12), min(k, int(size.sum()))
    full, level = size == 0, 0.0
    while not full.all():
        level = float((k - size[full].sum()) / weights[~full].sum())
        over = ~full & (level * weights >= size)
        if not over.any():
            break
        full |= over
    share = torch.where(full, size.double(), level * weights)
    budget = (share + 1e-9).floor().long()
    budget[(share - budget).argsort(descending=True, stable=True)[: k - int(budget.sum())]] += 1
    return budget


def groups(task: Task, balanced: bool, weights: Tensor | None = None) -> list[tuple[Tensor, int]]:
    """What to choose among and how many: all samples and k, or for each class its members and its share of k.

    The shares are in proportion to the classes' sizes, or to `weights` (C,).
    """
    if not balanced:
        return [(torch.arange(task.n), task.k)]
    if task.labels is None:
        raise ValueError("balanced selection needs the labels of the samples")
    size = task.labels.bincount()
    quota = budgets(size if weights is None else weights, size, task.k).tolist()
    return [((task.labels == c).nonzero().squeeze(1), share) for c, share in enumerate(quota) if share]


def pick(scores: Tensor, among: list[tuple[Tensor, int]], rule: Rule, rng: torch.Generator) -> Tensor:
    """Apply `rule` within each group; (k,) indices."""
    return torch.cat([members[rule(scores[members], share, rng)] for members, share in among])


# --- rules -----------------------------------------------------------------------------------------------------------

hardest: Rule = top


def easiest(scores: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """The k lowest scores."""
    return top(-_ranked(scores), k, rng)


def moderate(scores: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """The k scores around the median: as many are left out above as below; ties are broken at random."""
    rest = others(len(scores), easiest(scores, (len(scores) - k) // 2, rng))
    return rest[easiest(scores[rest], k, rng)]


def stratified(scores: Tensor, k: int, rng: torch.Generator, cut: float = 0.0, strata: int = 50) -> Tensor:
    """CCS: leave out the share `cut` of highest score, then draw from strata of equal width, each up to its budget.

    From the smallest stratum to the largest, each gives all it has or an equal part of what is still missing.
    """
    scores, n = finite(scores), len(scores)
    rest = others(n, top(scores, min(math.floor(cut * n + 1e-9), n - k), rng))
    low, high = scores[rest].min(), scores[rest].max()
    stratum = ((scores[rest] - low) / (high - low).clamp(min=1e-30) * strata).long().clamp(max=strata - 1)
    budget = strata_budgets(stratum.bincount(minlength=strata), k)
    chosen = []
    for s in budget.nonzero().squeeze(1).tolist():
        members = rest[stratum == s]
        chosen.append(members[sample(len(members), int(budget[s]), rng)])
    return torch.cat(chosen)


def strata_budgets(size: Tensor, k: int) -> Tensor:
    """CCS's budgets for strata of these sizes, the smallest first."""
    budget = torch.zeros_like(size)
    for place, s in enumerate(size.argsort(stable=True).tolist()):
        budget[s] = min(int(size[s]), (k - int(budget.sum())) // (len(size) - place))
    return budget


def draw(weights: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """Draw k positions one after the other without replacement, each in proportion to `weights` (m,)."""
    noise = torch.empty(len(weights), dtype=torch.float64).exponential_(generator=rng)
    return top(weights.double().log() - noise.log(), k, rng)


def beta_weights(scores: Tensor, ease: Tensor, keep: float, c: float) -> Tensor:
    """DUAL's sampling weights: score x the density of Beta(a, b) at the mean probability of the label, `ease` (n,).

    b = 15 (1 - m) (1 - r^c), a = 16 - b, m the mean ease of the ten highest scores and r = 1 - keep.
    """
    scores, ease = finite(scores).double().clamp(min=0.0), ease.double().nan_to_num(0.5).clamp(1e-6, 1 - 1e-6)
    anchor = float(ease[scores.topk(min(10, len(scores))).indices].mean())
    b = max(1e-3, 15 * (1 - anchor) * (1 - (1 - keep) ** c))
    log_density = (15 - b) * ease.log() + (b - 1) * (1 - ease).log()
    return (scores + 1e-12) * (log_density - log_density.max()).exp()


def _ranked(scores: Tensor) -> Tensor:
    """Scores with NaN as +inf, where it ranks."""
    return scores.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)


def finite(scores: Tensor) -> Tensor:
    """Scores with infinities and NaN, which rank highest, moved next to the others so that widths can be taken."""
    usual = scores[scores.isfinite()]
    low, high = (float(usual.min()), float(usual.max())) if len(usual) else (0.0, 0.0)
    return scores.nan_to_num(nan=high, posinf=high, neginf=low)


# --- logits ----------------------------------------------------------------------------------------------------------


def classes_first(logits: Tensor) -> list[Tensor]:
    """Logits (n, C) as parts (C, m), on which a sum over few classes is several times faster."""
    return [part.T.contiguous() for part in logits.split(PART)]


def rivals(logits: Tensor) -> Tensor:
    """p_c / max p from logits (C, m) of all classes but the most probable, in no order: (C - 1, m).

    Their sum tells 1 - max p with the precision that a subtraction from 1 would lose for confident samples.
    """
    best, rest = logits[0], logits[1:].clone()
    for z in rest:
        best, z[:] = torch.maximum(best, z), torch.minimum(best, z)
    return rest.sub_(best).exp_()


# --- series over epochs ----------------------------------------------------------------------------------------------


def windows(series: list[Tensor], width: int) -> Iterator[Tensor]:
    """Every run of `width` successive entries, stacked (width, n); all of them when the series is shorter."""
    width = min(width, len(series))
    for start in range(len(series) - width + 1):
        yield torch.stack(series[start : start + width])


def deviation(window: Tensor) -> Tensor:
    """Standard deviation over the first dimension with n - 1 in the denominator; 0 for a single entry."""
    # in fewer passes than torch.std takes
    return (window - window.mean(0)).square_().sum(0).div_(max(1, len(window) - 1)).sqrt_()


def in_parts(series: list[Tensor], score: Callable[[list[Tensor]], Tensor]) -> Tensor:
    """Apply `score` to the series of some samples at a time, few enough to stay in the cache: (n,)."""
    parts = zip(*(values.split(PART) for values in series), strict=True)
    return torch.cat([score(list(part)) for part in parts])


@cache
def scorer(name: str) -> ScoreMethod:
    """The method `name`, a user's plug-in too, if it is a score; a copy of it can be set up."""
    from dpbench.catalog import load_method  # the catalog imports method files, so not at the top

    method = load_method(name)
    if not isinstance(method, ScoreMethod):
        raise UsageError(f"score[by={name}]: {name} is not a score, as aum is: it does not derive from ScoreMethod")
    return method
