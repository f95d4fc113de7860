"""What OrderDP's theorems are tried on: softmax regression and a small network on digits, in NumPy, seeded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import minimize

from dpbench.inclusion import Floats, Ints

Numbers = dict[str, Any]
MOMENTA = (0.0, 0.5, 0.9)


@dataclass(frozen=True)
class Effort:
    """How long the experiments take."""

    draws: int = 40_000  # Monte-Carlo draws of one pair (s, q)
    steps: int = 30_000  # the longest SGD run; the shortest is a thousandth
    seeds: int = 5
    splits: int = 10  # into training and test samples
    largest: int = 1_000_000  # n of the Beta limit


@dataclass(frozen=True)
class Problem:
    """Softmax regression with an L2 penalty: x (n, d) with a constant column, y (n, classes) one-hot.

    Parameters `theta` are (..., size) and rows (..., b); leading axes are replicas.
    """

    x: Floats
    y: Floats
    penalty: float

    @property
    def size(self) -> int:
        """The number of parameters."""
        return self.x.shape[1] * self.y.shape[1]

    def logits(self, theta: Floats, rows: Ints | slice) -> Floats:
        """The logits of the rows, (..., b, classes)."""
        return self.x[rows] @ theta.reshape(*theta.shape[:-1], self.x.shape[1], self.y.shape[1])

    def gradient(self, theta: Floats, rows: Ints | slice, slopes: Floats) -> Floats:
        """The gradient by theta, its shape, for slopes (..., b, classes) by the rows' logits, with the penalty's."""
        return (np.swapaxes(self.x[rows], -1, -2) @ slopes).reshape(theta.shape) + self.penalty * theta

    def losses(self, theta: Floats, rows: Ints | slice = slice(None)) -> tuple[Floats, Floats]:
        """The loss of each row, (..., b), and its gradient by the logits, (..., b, classes)."""
        logits = self.logits(theta, rows)
        logits -= logits.max(-1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(-1, keepdims=True)
        losses = np.log(total[..., 0]) - (logits * self.y[rows]).sum(-1)
        return losses, p / total - self.y[rows]

    def surrogate(self, theta: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """L_q, (...), and its gradient, theta's shape; `weights` are gamma_j / q, hardest first."""
        losses, slopes = self.losses(theta)
        weight = np.empty_like(losses)
        np.put_along_axis(weight, np.argsort(-losses), np.broadcast_to(weights, losses.shape), axis=-1)
        value = (weight * losses).sum(-1) + self.penalty / 2 * (theta**2).sum(-1)
        return value, self.gradient(theta, slice(None), weight[..., None] * slopes)

    def minimise(self, weights: Floats, start: Floats | None = None) -> Floats:
        """The parameters that minimise L_q, by L-BFGS, begun anew while that helps: L_q has kinks where losses tie.

        Without `start` it begins at the minimum of the plain loss: at 0 all losses tie.
        """
        if start is None:
            zero = np.zeros(self.size)
            start = zero if np.ptp(weights) == 0 else self.minimise(np.full(len(weights), 1 / len(weights)), zero)
        at, value = start, np.inf
        options = {"maxiter": 3000, "maxfun": 6000, "ftol": 1e-13, "gtol": 1e-9}
        while True:
            found = minimize(self.surrogate, at, (weights,), jac=True, method="L-BFGS-B", options=options)
            if found.fun > value - 1e-7:
                return at
            at, value = found.x, found.fun

    def step(self, theta: Floats, rng: np.random.Generator, s: int, q: int) -> Floats:
        """OrderDP's subgradient: of s drawn samples the mean over the q of largest loss.

        Replicas along the last axis but one draw for themselves; axes before it share their draws.
        """
        rows = rng.random((*theta.shape[-2:-1], len(self.x))).argpartition(s - 1)[..., :s]
        losses, slopes = self.losses(theta, rows)
        top = np.argpartition(-losses, q - 1)[..., :q]
        kept = np.take_along_axis(np.broadcast_to(rows, losses.shape), top, axis=-1)
        return self.gradient(theta, kept, np.take_along_axis(slopes, top[..., None], axis=-2) / q)


@dataclass(frozen=True)
class Network(Problem):
    """The same with a hidden layer of `width` tanh units, so that L_q is not convex; theta holds both layers."""

    width: int = 16

    @property
    def size(self) -> int:
        """The number of parameters."""
        return (self.x.shape[1] + self.y.shape[1]) * self.width

    def layers(self, theta: Floats) -> tuple[Floats, Floats]:
        """The weights (..., d, width) and (..., width, classes)."""
        first, second = np.split(theta, [self.x.shape[1] * self.width], axis=-1)
        lead = theta.shape[:-1]
        return first.reshape(*lead, -1, self.width), second.reshape(*lead, self.width, -1)

    def logits(self, theta: Floats, rows: Ints | slice) -> Floats:
        """The logits of the rows, (..., b, classes)."""
        first, second = self.layers(theta)
        return np.tanh(self.x[rows] @ first) @ second

    def gradient(self, theta: Floats, rows: Ints | slice, slopes: Floats) -> Floats:
        """The gradient by theta, its shape, for slopes (..., b, classes) by the rows' logits, with the penalty's."""
        first, second = self.layers(theta)
        hidden = np.tanh(self.x[rows] @ first)
        back = (slopes @ np.swapaxes(second, -1, -2)) * (1 - hidden**2)
        parts = (np.swapaxes(self.x[rows], -1, -2) @ back, np.swapaxes(hidden, -1, -2) @ slopes)
        flat = [part.reshape(*theta.shape[:-1], -1) for part in parts]
        return np.concatenate(flat, axis=-1) + self.penalty * theta


def digits(rows: Ints | slice = slice(None), penalty: float = 1e-2, kind: type[Problem] = Problem) -> Problem:
    """The digits at `rows` as a problem."""
    x, y = _digits()
    return kind(x[rows], y[rows], penalty)


@cache
def _digits() -> tuple[Floats, Floats]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.column_stack([data.data / 16, np.ones(len(data.data))]), np.eye(10)[data.target]


def descent(
    problem: Problem,
    theta: Floats,
    rng: np.random.Generator,
    s: int,
    q: int,
    rate: float,
    looks: Sequence[int],
    momentum: float | Floats = 0.0,
) -> Iterator[Floats]:
    """SGD by OrderDP's subgradients; yield theta, (..., replicas, size), after each of the ascending numbers of steps.

    `rate` is the effective one: a step is rate (1 - momentum) times the velocity, so that long runs go as far.
    """
    velocity = np.zeros_like(theta)
    for t in range(looks[-1] + 1):
        if t in looks:
            yield theta
        velocity = momentum * velocity + problem.step(theta, rng, s, q)
        theta = theta - rate * (1 - momentum) * velocity


def exponent(x: Any, y: Any) -> float:
    """The exponent of a power law fitted to positive values."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def rank_correlation(x: Any, y: Any) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)
