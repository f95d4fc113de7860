"""OrderDP: a random candidate set, of which the samples of highest score are trained on."""

import torch
from torch import Tensor

from dpbench.draws import others, sample, top
from dpbench.inclusion import inclusion_probability
from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, param


class _Paper(PruningMethod):
    """The paper's algorithm, once an epoch: train on the q samples of highest last seen score of s drawn uniformly."""

    explore: float = param(0.8, low=0.05, high=1.0, at_least_keep=True)
    score: str = param("loss", choices=("loss", "error_norm", "entropy", "grad_norm", "margin", "prob_y", "correct"))

    paper = "Jin et al., OrderDP: a theoretically guaranteed lossless dynamic data pruning framework (ICLR 2026)"

    def select(self, epoch: int) -> Selection:
        candidates = sample(self.task.n, self.s, self.rng)
        kept = top(self.scores.index_select(0, candidates), self.task.k, self.rng)
        return Selection(candidates.index_select(0, kept))

    def observe(self, signals: Signals) -> None:
        self.scores[signals.indices] = self.score_of(signals)

    def score_of(self, signals: Signals) -> Tensor:
        return signals[self.score].float()

    @property
    def s(self) -> int:
        """The number of candidates."""
        return max(self.task.k, round(self.explore * self.task.n))

    def requires(self) -> Requires:
        return Requires({self.score})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.scores = torch.full((task.n,), float("inf"))


class OrderDP(_Paper):
    """Draw s of n candidates uniformly, keep the q of highest score; once an epoch, with last seen scores.

    q = round(keep n) exactly, s = round(explore n), never below q; exploit = q / s follows. A sample is kept
    with probability P_j = (s/n) P[Hypergeom(n-1, j-1, s-1) <= q-1], j its rank by score (Theorem 1). Samples
    that were never trained on rank first. `score` is any scalar signal; the paper studies the loss.

    Beyond the paper: `ema` is the weight of the old value in a running score. `order="low"` ranks from the lowest.
    `unseen` may be a start value (released code: 3 for CIFAR, 1 for ImageNet). `trim` drops the first t = trim s
    candidates of the order, where label noise gathers: then P_j(q + t) - P_j(t) replaces P_j; it waits until every
    sample was seen. `floor` draws m = floor q of the q uniformly from those that the order does not choose:
    P_j + (1 - P_j) m / (n - q + m), with q - m in the place of q.
    `correct="full"` weights a sample by q / (n P_j), so that the mean over the q is unbiased for the mean over all
    n, provided that all P_j > 0, which m >= 1 guarantees. With m = 0 the ranks j > n - s + q (and with trim the t
    first) are never chosen for q < s: the estimate is that of the others' sum, divided by n.
    """

    ema: float = param(0.0, low=0.0, high=0.99)
    order: str = param("high", choices=("high", "low"))
    unseen: str | float = param("first", choices=("first", 1.0, 3.0))
    trim: float = param(0.0, low=0.0, high=0.5)
    floor: float = param(0.0, low=0.0, high=0.9)
    correct: str = param("surrogate", choices=("surrogate", "full"))

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.sign = 1.0 if self.order == "high" else -1.0
        if self.unseen != "first":
            self.scores.fill_(self.sign * float(self.unseen))
        self.past = self.scores  # the scores before `epoch`, for the running score
        self.epoch = -1

    def select(self, epoch: int) -> Selection:
        n, s, q = self.task.n, self.s, self.task.k
        m, t = round(self.floor * q), self._dropped()
        if m == t == 0 and self.correct == "surrogate":
            return super().select(epoch)
        place = self.scores if self.correct == "surrogate" else -self._ranks()
        candidates = sample(n, s, self.rng)
        chosen = candidates[top(place[candidates], q - m + t, self.rng)]
        if t:
            chosen = chosen[others(len(chosen), top(place[chosen], t, self.rng))]
        if m:
            rest = others(n, chosen)
            chosen = torch.cat([chosen, rest[sample(len(rest), m, self.rng)]])
        if self.correct == "surrogate":
            return Selection(chosen)
        return Selection(chosen, (q / (n * self._probability(-place[chosen]))).float())

    def score_of(self, signals: Signals) -> Tensor:
        score = self.sign * super().score_of(signals)
        if self.ema:
            if signals.epoch != self.epoch:  # each epoch counts once, however often it shows a sample
                self.past, self.epoch = self.scores.clone(), signals.epoch
            past = self.past[signals.indices]
            score = torch.where(past.isfinite(), self.ema * past + (1 - self.ema) * score, score)
        return score

    def surrogate(self) -> Tensor:
        """P_j / q for rank j (Theorem 1), with `correct="full"` 1 / n where P_j > 0; equals share theirs."""
        probability = self._probability()
        of_rank = probability / self.task.k if self.correct == "surrogate" else (probability > 0) / self.task.n
        order = self.scores.argsort(descending=True)
        _, equals, sizes = self.scores[order].unique_consecutive(return_inverse=True, return_counts=True)
        shared = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, equals, of_rank.double()) / sizes
        return torch.empty_like(shared[equals]).index_put_((order,), shared[equals])

    def _dropped(self) -> int:
        """t, how many of the first candidates are dropped."""
        waits = self.trim == 0 or self.scores.isposinf().any()
        return 0 if waits else min(round(self.trim * self.s), self.s - self.task.k)

    def _probability(self, ranks: Tensor | None = None) -> Tensor:
        """P_j for each j of `ranks`, by default for 1, ..., n, with `trim` and `floor`."""
        at = None if ranks is None else ranks.numpy()
        n, s, q = self.task.n, self.s, self.task.k
        return torch.from_numpy(inclusion_probability(n, s, q, at, floor=self.floor, trim=self._dropped()))

    def _ranks(self) -> Tensor:
        """The rank, from 1, of every sample by score, ties in random order."""
        shuffled = torch.randperm(self.task.n, generator=self.rng)
        order = shuffled[self.scores[shuffled].argsort(descending=True, stable=True)]
        return torch.empty_like(order).index_put_((order,), torch.arange(1, self.task.n + 1))
