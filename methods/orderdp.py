"""OrderDP: a random candidate set, of which the samples of highest score are trained on."""

import torch
from torch import Tensor

from dpbench.draws import others, sample, top
from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, param


class OrderDP(PruningMethod):
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

    explore: float = param(0.8, low=0.05, high=1.0, at_least_keep=True)
    score: str = param("loss", choices=("loss", "error_norm", "entropy", "grad_norm", "margin", "prob_y", "correct"))
    ema: float = param(0.0, low=0.0, high=0.99)
    order: str = param("high", choices=("high", "low"))
    unseen: str | float = param("first", choices=("first", 1.0, 3.0))
    trim: float = param(0.0, low=0.0, high=0.5)
    floor: float = param(0.0, low=0.0, high=0.9)
    correct: str = param("surrogate", choices=("surrogate", "full"))

    paper = "Jin et al., OrderDP: a theoretically guaranteed lossless dynamic data pruning framework (ICLR 2026)"

    def requires(self) -> Requires:
        return Requires({self.score})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.sign = 1.0 if self.order == "high" else -1.0
        start = float("inf") if self.unseen == "first" else self.sign * float(self.unseen)
        self.scores = torch.full((task.n,), start)
        self.past = self.scores  # the scores before `epoch`, for the running score
        self.epoch = -1

    def select(self, epoch: int) -> Selection:
        n, q = self.task.n, self.task.k
        s, m, t = self._sizes()
        place = self.scores if self.correct == "surrogate" else -self._ranks()
        candidates = sample(n, s, self.rng)
        chosen = candidates.index_select(0, top(place.index_select(0, candidates), q - m + t, self.rng))
        if t:
            chosen = chosen[others(len(chosen), top(place[chosen], t, self.rng))]
        if m:
            rest = others(n, chosen)
            chosen = torch.cat([chosen, rest[sample(len(rest), m, self.rng)]])
        if self.correct == "surrogate":
            return Selection(chosen)
        return Selection(chosen, (q / (n * self._probability()[-place[chosen] - 1])).float())

    def observe(self, signals: Signals) -> None:
        i, score = signals.indices, self.sign * signals[self.score].float()
        if self.ema:
            if signals.epoch != self.epoch:  # each epoch counts once, however often it shows a sample
                self.past, self.epoch = self.scores.clone(), signals.epoch
            past = self.past[i]
            score = torch.where(past.isfinite(), self.ema * past + (1 - self.ema) * score, score)
        self.scores[i] = score

    def surrogate(self) -> Tensor:
        """P_j / q for rank j (Theorem 1), with `correct="full"` 1 / n where P_j > 0; equals share theirs."""
        probability = self._probability()
        of_rank = probability / self.task.k if self.correct == "surrogate" else (probability > 0) / self.task.n
        order = self.scores.argsort(descending=True)
        _, equals, sizes = self.scores[order].unique_consecutive(return_inverse=True, return_counts=True)
        shared = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, equals, of_rank.double()) / sizes
        return torch.empty_like(shared[equals]).index_put_((order,), shared[equals])

    def _sizes(self) -> tuple[int, int, int]:
        """How many are candidates, how many of the q are drawn uniformly, and how many candidates are dropped."""
        n, q = self.task.n, self.task.k
        s = max(q, round(self.explore * n))
        t = 0 if self.trim == 0 or self.scores.isposinf().any() else min(round(self.trim * s), s - q)
        return s, round(self.floor * q), t

    def _probability(self) -> Tensor:
        """P_j for j = 1, ..., n, with `trim` and `floor`."""
        n, q = self.task.n, self.task.k
        s, m, t = self._sizes()
        by_order = inclusion(n, s, q - m + t) - inclusion(n, s, t)
        return by_order + (1 - by_order) * m / max(1, n - q + m)

    def _ranks(self) -> Tensor:
        """The rank, from 1, of every sample by score, ties in random order."""
        shuffled = torch.randperm(self.task.n, generator=self.rng)
        order = shuffled[self.scores[shuffled].argsort(descending=True, stable=True)]
        return torch.empty_like(order).index_put_((order,), torch.arange(1, self.task.n + 1))


def inclusion(n: int, s: int, q: int) -> Tensor:
    """P_j for j = 1, ..., n: that the sample of rank j is among the q first of s candidates drawn from n. O(n).

    P_j - P_{j+1} is proportional to C(j-1, q-1) C(n-1-j, s-1-q): q - 1 candidates before j, s - 1 - q after j + 1.
    The logarithms of its ratios from one j to the next are summed up, then the differences from the far end.
    """
    if q in (0, s):
        return torch.full((n,), q / n, dtype=torch.float64)
    j = torch.arange(q, n - s + q, dtype=torch.float64)  # P_j = s / n before, 0 after
    ratio = j / (j + 1 - q) * (n - s + q - j) / (n - 1 - j)
    step = torch.cat([j.new_zeros(1), ratio.log().cumsum(0)])
    tail = (step - step.max()).exp().flip(0).cumsum(0).flip(0)
    return torch.cat([j.new_ones(q - 1), tail / tail[0], j.new_zeros(s - q)]) * s / n
