"""OrderDP's theorems as experiments: softmax regression and a small network on digits, in NumPy, seeded, on one core.

Each experiment returns plain numbers, and a figure drawn from these alone. `run` writes all of them, with a page that
says what held; every number on the page comes from the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from dpbench import store
from dpbench.orderdp import theory, two_forms
from dpbench.orderdp.page import page
from dpbench.orderdp.theory import Floats, Ints
from dpbench.training.results import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = dict[str, Any]
SIZES = ((64, 64), (64, 16), (256, 16))  # (s, q) of one step
BATCHES = ((16, 4), (64, 16), (256, 64))  # the same with one q / s
MOMENTA = (0.0, 0.5, 0.9)
EPOCHS, BINS = 30, 20  # of the staleness runs, and of the ranks


@dataclass(frozen=True)
class Effort:
    """How long the experiments take."""

    draws: int = 40_000  # Monte-Carlo draws of one pair (s, q)
    steps: int = 30_000  # the longest SGD run; the shortest is a thousandth
    seeds: int = 5
    splits: int = 10  # into training and test samples
    largest: int = 1_000_000  # n of the Beta limit


FULL = Effort()
QUICK = Effort(draws=4_000, steps=3_000, seeds=2, splits=3, largest=10_000)


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
    from sklearn.datasets import load_digits

    data = load_digits()
    x = np.column_stack([data.data / 16, np.ones(len(data.data))])
    return kind(x[rows], np.eye(10)[data.target][rows], penalty)


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


# Theorem 1: the expected gradient is that of the surrogate loss, not that of the plain loss


def theorem_1(effort: Effort) -> Numbers:
    """Distances of the Monte-Carlo gradient, relative to the plain gradient's norm, and a test of unbiasedness.

    `error` is the squared distance to the surrogate's gradient over the variance of the mean: 1 if unbiased.
    """
    rng = np.random.default_rng(1)
    n, blocks = 500, 20
    size = effort.draws // blocks
    problem = digits(rng.permutation(1797)[:n], penalty=0.0)
    theta = np.zeros(problem.size)
    for _ in range(30):
        theta -= problem.surrogate(theta, np.full(n, 1 / n))[1]
    losses, slopes = problem.losses(theta)
    order: Ints = np.argsort(-losses)  # from here on a sample is its rank
    x, slopes = problem.x[order], slopes[order]
    gram = (x @ x.T) * (slopes @ slopes.T)  # inner products of the samples' gradients

    def norm(coefficients: Floats) -> float:
        return max(0.0, float(coefficients @ gram @ coefficients)) ** 0.5

    rows: list[Numbers] = []
    for q in (25, 150):
        for s in (q, round(1.5 * q), 2 * q, 3 * q, n):
            weights, plain = theory.surrogate_weight(n, s, q), np.full(n, 1 / n)
            means, spread = [], 0.0
            for _ in range(blocks):
                drawn = np.sort(rng.random((size, n)).argpartition(s - 1)[:, :s], axis=1)[:, :q]
                kept = np.zeros((len(drawn), n))
                np.put_along_axis(kept, drawn, 1 / q, axis=1)
                means.append(kept.mean(0))
                kept -= weights
                spread += float(((kept @ gram) * kept).sum(1).mean()) / blocks
            errors = [norm(mean - weights) ** 2 * size / spread for mean in means if s < n]
            found = np.mean(means, axis=0)
            rows.append(
                {
                    "s": s,
                    "q": q,
                    "distance_to_surrogate": norm(found - weights) / norm(plain),
                    "distance_to_plain": norm(found - plain) / norm(plain),
                    "bias": norm(weights - plain) / norm(plain),
                    "error": float(np.mean(errors)) if errors else None,  # s = n leaves nothing to chance
                    "error_se": float(np.std(errors, ddof=1) / blocks**0.5) if errors else None,
                    "loss_gap": theory.surrogate_gap(losses, s, q),
                }
            )
    held = all(row["error"] is None or abs(row["error"] - 1) <= 3.5 * row["error_se"] for row in rows)
    return {"n": n, "draws": effort.draws, "rows": rows, "held": held}


def _draw_theorem_1(axes: Axes, found: Numbers) -> None:
    for q in sorted({row["q"] for row in found["rows"]}):
        rows = [row for row in found["rows"] if row["q"] == q]
        at = [row["s"] / found["n"] for row in rows]
        (line,) = axes.plot(at, [row["distance_to_plain"] for row in rows], "o-", label=f"to the plain loss, q = {q}")
        to_surrogate = [row["distance_to_surrogate"] for row in rows if row["error"] is not None]
        axes.plot(at[: len(to_surrogate)], to_surrogate, "x:", color=line.get_color(), label=f"to $L_q$, q = {q}")
    axes.set(xlabel="$s/n$", ylabel="distance of the mean gradient / plain norm", yscale="log", title="Theorem 1")


# Proposition 2: n gamma_j tends to a Beta curve for fixed (s, q), and to a steeper one when s grows with n


def proposition_2(effort: Effort) -> Numbers:
    """The largest distance of n gamma_j / s to the curve, over n; and the variance of the cut over the Beta's."""
    sizes = [n for n in (100, 316, 1000, 3162, 10_000, 31_623, 100_000, 316_228, 1_000_000) if n <= effort.largest]
    fixed: list[Numbers] = []
    growing: list[Numbers] = []
    for n in sizes:
        for rows, s, q in ((fixed, 20, 8), (growing, n // 2, n // 5)):
            kept = theory.inclusion_probability(n, s, q) * (n / s)  # P[cut >= j], from 1 down to 0
            j = np.arange(1, n + 1)
            limit = theory.beta_limit(j / n, s, q) / s
            mean = kept.sum()
            variance = float(2 * (j * kept).sum() - mean - mean**2) / n**2
            share = q / s
            beta = share * (1 - share) / (s + 1) if s > q else 0.0
            rows.append(
                {
                    "n": n,
                    "s": s,
                    "q": q,
                    "distance": float(np.abs(kept - limit).max()),
                    "variance_ratio": variance / beta,
                }
            )
    slope = _slope(sizes, [row["distance"] for row in fixed])
    ends = (fixed[-1]["variance_ratio"], growing[-1]["variance_ratio"])
    held = abs(slope + 1) < 0.05 and abs(ends[1] - 0.5) < 0.02
    return {"fixed": fixed, "growing": growing, "slope": slope, "held": held}


def _draw_proposition_2(axes: Axes, found: Numbers) -> None:
    for name, label in (("fixed", "s = 20, q = 8"), ("growing", "s = n / 2, q = n / 5")):
        axes.plot([row["n"] for row in found[name]], [row["distance"] for row in found[name]], "o-", label=label)
    axes.set(
        xlabel="n", ylabel=r"$\max_j |n\gamma_j - \gamma(j/n)| / s$", xscale="log", yscale="log", title="Proposition 2"
    )


# Theorem 3: on a convex problem the best iterate is within O(1 / sqrt T) of the surrogate's minimum


def theorem_3(effort: Effort) -> Numbers:
    """Suboptimality of the best of T iterates, with the constant step D / (G sqrt T) of the proof."""
    problem = digits()
    n = len(problem.x)
    horizons = _horizons(effort.steps)
    curves: list[Numbers] = []
    for s, q in SIZES:
        weights, _, least, distance, steepest = _minimum(s, q)
        gaps = []
        for horizon in horizons:
            rng, start = np.random.default_rng([3, s, q, horizon]), np.zeros((effort.seeds, problem.size))
            path = descent(problem, start, rng, s, q, distance / (steepest * horizon**0.5), _looks(0, horizon))
            values = [problem.surrogate(theta, weights)[0] for theta in path]
            gaps.append(float(np.min(values, axis=0).mean()) - least)
        bound = [distance * steepest / horizon**0.5 for horizon in horizons]
        slope = _slope(horizons, gaps)
        curves.append({"s": s, "q": q, "least": least, "T": horizons, "gap": gaps, "bound": bound, "slope": slope})
    held = all(
        curve["slope"] <= -0.5 and all(gap <= most for gap, most in zip(curve["gap"], curve["bound"], strict=True))
        for curve in curves
    )
    return {"n": n, "curves": curves, "held": held}


@cache
def _minimum(s: int, q: int) -> tuple[Floats, Floats, float, float, float]:
    """L_q's weights, where it is least, its least value, that place's distance from 0, and the gradients' bound."""
    problem = digits()
    weights = theory.surrogate_weight(len(problem.x), s, q)
    optimum = problem.minimise(weights)
    distance = float(np.linalg.norm(optimum))
    steepest = float(np.sqrt(2) * np.linalg.norm(problem.x, axis=1).max() + problem.penalty * distance)
    return weights, optimum, float(problem.surrogate(optimum, weights)[0]), distance, steepest


def _horizons(steps: int, decades: int = 3) -> list[int]:
    """Numbers of steps up to `steps`, evenly spread over decades."""
    return np.unique(np.geomspace(max(1, steps / 10**decades), steps, 2 * decades + 1).round().astype(int)).tolist()


def _looks(first: int, last: int) -> list[int]:
    """Up to 40 numbers of steps, evenly spread, both ends among them."""
    return np.unique(np.linspace(first, last, 40).round().astype(int)).tolist()


def _draw_theorem_3(axes: Axes, found: Numbers) -> None:
    for curve in found["curves"]:
        label = f"s = {curve['s']}, q = {curve['q']}: slope {curve['slope']:.2f}"
        (line,) = axes.plot(curve["T"], curve["gap"], "o-", label=label)
        axes.plot(curve["T"], curve["bound"], ":", color=line.get_color())
    axes.set(
        xlabel="T",
        ylabel="$L_q$ above its minimum (dotted: $DG/\\sqrt{T}$)",
        xscale="log",
        yscale="log",
        title="Theorem 3",
    )


# Beyond the paper: the same where L_q is not convex. There only its gradient can be asked to vanish


def network(effort: Effort) -> Numbers:
    """Squared norm of L_q's exact gradient in a small network, with steps 3 / sqrt(T), over T.

    `best` is that of the best of up to 40 iterates, as in Theorem 3, `mean` that of all of them; means over seeds.
    """
    problem = digits(penalty=1e-3, kind=Network)
    horizons = _horizons(effort.steps // 3)
    curves: list[Numbers] = []
    for s, q in SIZES:
        weights = theory.surrogate_weight(len(problem.x), s, q)
        best, mean, losses = [], [], []
        for horizon in horizons:
            rng = np.random.default_rng([6, s, q, horizon])
            start = rng.normal(size=(effort.seeds, problem.size)) / 4
            path = descent(problem, start, rng, s, q, 3 / horizon**0.5, _looks(0, horizon))
            values, gradients = zip(*(problem.surrogate(theta, weights) for theta in path), strict=True)
            norms = np.square(gradients).sum(-1)  # (looks, seeds)
            best.append(float(norms.min(0).mean()))
            mean.append(float(norms.mean()))
            losses.append(float(values[-1].mean()))
        curve: Numbers = {"s": s, "q": q, "T": horizons, "best": best, "mean": mean, "last_loss": losses}
        curves.append(curve | {"slope": _slope(horizons, best), "slope_of_mean": _slope(horizons, mean)})
    return {"n": len(problem.x), "curves": curves, "held": all(curve["slope"] <= -0.5 for curve in curves)}


def _draw_network(axes: Axes, found: Numbers) -> None:
    for curve in found["curves"]:
        label = f"s = {curve['s']}, q = {curve['q']}, best: slope {curve['slope']:.2f}"
        (line,) = axes.plot(curve["T"], curve["best"], "o-", label=label)
        axes.plot(curve["T"], curve["mean"], "x:", color=line.get_color(), label=f"mean: {curve['slope_of_mean']:.2f}")
    axes.set(xlabel="T", ylabel="squared norm of $L_q$'s gradient", xscale="log", yscale="log", title="A network")


# Beyond the paper: momentum and batch size, at equal effective rates and equal shares q / s


def momentum(effort: Effort) -> Numbers:
    """Theorem 3's suboptimality over T, for momenta and batch sizes; momenta share their draws."""
    problem = digits()
    horizons = _horizons(effort.steps // 3, decades=2)
    curves: list[Numbers] = []
    for s, q in BATCHES:
        weights, _, least, distance, steepest = _minimum(s, q)
        gaps = []
        for horizon in horizons:
            start = np.zeros((len(MOMENTA), effort.seeds, problem.size))
            rate, rng = distance / (steepest * horizon**0.5), np.random.default_rng([7, s, horizon])
            path = descent(problem, start, rng, s, q, rate, _looks(0, horizon), np.reshape(MOMENTA, (-1, 1, 1)))
            values = [problem.surrogate(theta, weights)[0] for theta in path]
            gaps.append(np.min(values, axis=0).mean(-1) - least)
        for of_one, gap in zip(MOMENTA, np.transpose(gaps).tolist(), strict=True):
            curves.append(
                {"s": s, "q": q, "momentum": of_one, "T": horizons, "gap": gap, "slope": _slope(horizons, gap)}
            )
    return {"curves": curves, "held": all(curve["slope"] <= -0.5 for curve in curves)}


def _draw_momentum(axes: Axes, found: Numbers) -> None:
    for mark, size in zip("o^s", BATCHES, strict=True):
        for line, of_one in zip(("-", "--", ":"), MOMENTA, strict=True):
            for curve in found["curves"]:
                if (curve["s"], curve["q"], curve["momentum"]) == (*size, of_one):
                    label = f"s = {size[0]}, momentum {of_one:g}: slope {curve['slope']:.2f}"
                    axes.plot(curve["T"], curve["gap"], line + mark, label=label, alpha=0.8)
    axes.set(xlabel="T", ylabel="$L_q$ above its minimum", xscale="log", yscale="log", title="Momentum and batch size")


def noise(effort: Effort) -> Numbers:
    """How far above its minimum a constant rate keeps L_q, begun there, for momenta and batch sizes.

    `shift` is the total variation between the weights of L_q and those of the smallest batch's: L_q itself moves.
    """
    problem, rate, steps = digits(), 0.1, effort.steps // 6
    first = theory.surrogate_weight(len(problem.x), *BATCHES[0])
    rows: list[Numbers] = []
    for s, q in BATCHES:
        weights, optimum, least, *_ = _minimum(s, q)
        start = np.tile(optimum, (len(MOMENTA), effort.seeds, 1))
        rng, looks = np.random.default_rng([8, s]), _looks(steps // 3, steps)
        path = descent(problem, start, rng, s, q, rate, looks, np.reshape(MOMENTA, (-1, 1, 1)))
        gaps = np.mean([problem.surrogate(theta, weights)[0] for theta in path], axis=0) - least  # (momenta, seeds)
        errors = gaps.std(1, ddof=1) / effort.seeds**0.5
        shift = float(np.abs(weights - first).sum() / 2)
        for i, of_one in enumerate(MOMENTA):
            found = {
                "gap": float(gaps[i].mean()),
                "gap_se": float(errors[i]),
                "to_none": float((gaps[i] / gaps[0]).mean()),
            }
            rows.append({"s": s, "q": q, "momentum": of_one, "shift": shift, "least": least} | found)
    slopes = [_slope([q for _, q in BATCHES], [row["gap"] for row in rows if row["momentum"] == m]) for m in MOMENTA]
    return {
        "rate": rate,
        "steps": steps,
        "rows": rows,
        "slopes": slopes,
        "held": all(abs(slope + 1) <= 0.25 for slope in slopes)
        and all(abs(row["to_none"] - 1) <= 0.25 for row in rows),
    }


def _draw_noise(axes: Axes, found: Numbers) -> None:
    for of_one, slope in zip(MOMENTA, found["slopes"], strict=True):
        rows = [row for row in found["rows"] if row["momentum"] == of_one]
        at, gaps, errors = ([row[name] for row in rows] for name in ("q", "gap", "gap_se"))
        axes.errorbar(at, gaps, [2 * e for e in errors], fmt="o-", label=f"momentum {of_one:g}: slope {slope:.2f}")
    axes.set(xlabel="q, with s = 4 q", ylabel="$L_q$ above its minimum", xscale="log", yscale="log", title="Noise left")


# Theorem 4: the generalisation gap, beside what is computable of its bound


def theorem_4(effort: Effort) -> Numbers:
    """Test loss less training loss of the surrogate's minimiser, over random splits; keep is q / n."""
    n, rows = 600, []
    for keep in (0.1, 0.3):
        for explore in (keep, 1.25 * keep, 1.5 * keep, 2 * keep, 3 * keep, 1.0):
            q, s = round(keep * n), round(explore * n)
            weights = theory.surrogate_weight(n, s, q)
            found: dict[str, list[float]] = {"plain": [], "surrogate": [], "correction": [], "test": []}
            for split in range(effort.splits):
                order = np.random.default_rng([4, split]).permutation(1797)
                train, test = digits(order[:n], 1e-3), digits(order[n:], 1e-3)
                theta = train.minimise(weights)
                losses, tested = train.losses(theta)[0], float(test.losses(theta)[0].mean())
                found["test"].append(tested)
                found["plain"].append(tested - float(losses.mean()))
                found["surrogate"].append(tested - float(np.sort(losses)[::-1] @ weights))
                found["correction"].append(theory.surrogate_gap(losses, s, q))
            means = {name: float(np.mean(values)) for name, values in found.items()}
            errors = {
                f"{name}_se": float(np.std(values, ddof=1) / len(values) ** 0.5) for name, values in found.items()
            }
            rows.append({"s": s, "q": q, **means, **errors, "bias_factor": theory.bias_term(n, s)})
    surrogate, plain = ([row[name] for row in rows] for name in ("surrogate", "plain"))
    factor = [row["bias_factor"] for row in rows]
    return {
        "n": n,
        "rows": rows,
        "correlation_surrogate": _rank_correlation(factor, surrogate),
        "correlation_plain": _rank_correlation(factor, plain),
        "held": None,  # the bound's constants are not known, so it cannot be refuted
    }


def _draw_theorem_4(axes: Axes, found: Numbers) -> None:
    for q in sorted({row["q"] for row in found["rows"]}):
        rows = [row for row in found["rows"] if row["q"] == q]
        for name, mark in (("plain", "o-"), ("surrogate", "x:")):
            errors = [2 * row[f"{name}_se"] for row in rows]
            label = f"less {'the plain' if name == 'plain' else '$L_q$ on'} training loss, q = {q}"
            axes.errorbar(
                [row["s"] / found["n"] for row in rows], [row[name] for row in rows], errors, fmt=mark, label=label
            )
    axes.set(xlabel="$s/n$", ylabel="test loss", title="Theorem 4")


# Staleness: the released code ranks by the loss that each sample had when it was last trained on


def staleness(effort: Effort) -> Numbers:
    """How far the inclusion probability by true rank moves from theory when only trained samples get new scores."""
    rows = [
        _kept_shares(effort, keep, explore, start, rate)
        for keep, explore in ((0.3, 0.4), (0.3, 0.8), (0.3, 1.0), (0.7, 0.9))
        for start in ("fresh", "first", 3.0, 1.0)
        for rate in (0.05, 0.5)
    ]
    fresh, stale = ([r["distance"] for r in rows if (r["scores"] == "fresh") is kind] for kind in (True, False))
    return {"epochs": EPOCHS, "bins": BINS, "rows": rows, "held": max(stale) <= 2 * max(fresh)}


def _kept_shares(
    effort: Effort,
    keep: float,
    explore: float,
    start: str | float,
    rate: float,
    batch: int = 32,
    momentum: float = 0.0,
) -> Numbers:
    """What is kept by true rank in SGD with OrderDP's selection once an epoch; `rate` is the effective one.

    `distance` is the total variation between the kept share by true rank (in bins) and P_j; `top_10` is the share of
    the kept that is among the hardest tenth by the true loss.
    """
    problem = digits(penalty=0.0)
    n = len(problem.x)
    q, s = round(keep * n), round(explore * n)
    edges = np.linspace(0, n, BINS + 1).round().astype(int)
    expected = np.add.reduceat(theory.inclusion_probability(n, s, q), edges[:-1]) / q
    shares, correlations = np.zeros(BINS), []
    for seed in range(effort.seeds):
        rng, theta, velocity = np.random.default_rng([5, q, s, seed]), np.zeros(problem.size), np.zeros(problem.size)
        scores = np.full(n, np.inf if isinstance(start, str) else start)
        for epoch in range(EPOCHS):
            true = problem.losses(theta)[0]
            scores = true if start == "fresh" else scores
            candidates = rng.choice(n, s, replace=False)  # in random order, so that ties break at random
            kept = rng.permutation(candidates[np.argsort(-scores[candidates], kind="stable")[:q]])
            if epoch >= EPOCHS // 3:  # afterwards most samples were seen
                place = np.argsort(np.argsort(-true))
                shares += np.histogram(place[kept], edges)[0] / q
                correlations.append(_rank_correlation(np.minimum(scores, 1e9), true))
            scores = scores.copy()
            for rows in np.array_split(kept, max(1, q // batch)):
                losses, slopes = problem.losses(theta, rows)
                scores[rows] = losses
                velocity = momentum * velocity + problem.gradient(theta, rows, slopes / len(rows))
                theta = theta - rate * (1 - momentum) * velocity
    shares /= shares.sum()
    return {
        "keep": keep,
        "explore": explore,
        "scores": start,
        "rate": rate,
        "batch": batch,
        "momentum": momentum,
        "distance": float(np.abs(shares - expected).sum() / 2),
        "distance_of_uniform": float(np.abs(np.diff(edges) / n - expected).sum() / 2),
        "top_10": float(shares[: BINS // 10].sum()),
        "top_10_theory": float(expected[: BINS // 10].sum()),
        "rank_correlation": float(np.mean(correlations)),
        "shares": shares.tolist(),
        "expected": expected.tolist(),
    }


def _draw_staleness(axes: Axes, found: Numbers) -> None:
    rows = [row for row in found["rows"] if (row["keep"], row["explore"], row["rate"]) == (0.3, 0.8, 0.5)]
    at = (np.arange(found["bins"]) + 0.5) / found["bins"]
    axes.plot(at, rows[0]["expected"], color="0.4", linestyle="--", label="theory")
    for row in rows:
        start = {"fresh": "true losses", "first": "stale, unseen first"}.get(
            row["scores"], f"stale, start at {row['scores']}"
        )
        axes.plot(at, row["shares"], "o-", markersize=3, label=start)
    axes.set(
        xlabel="true rank $j/n$, hardest first",
        ylabel="share of the kept samples",
        title="Staleness, keep 0.3, explore 0.8",
    )


def stale_momentum(effort: Effort) -> Numbers:
    """The same for momenta and batch sizes, first at one effective rate a sample, then at one effective rate a step."""
    rows = [
        _kept_shares(effort, 0.3, 0.8, "first", rate, batch, of_one) | {"scaled": scaled}
        for scaled in (True, False)
        for batch in (8, 32, 128)
        for rate in [0.1 * (batch / 32 if scaled else 1)]
        for of_one in MOMENTA
    ]
    distances = [row["distance"] for row in rows if row["scaled"]]
    return {"rows": rows, "held": max(distances) <= 1.25 * min(distances)}


def _draw_stale_momentum(axes: Axes, found: Numbers) -> None:
    for scaled, line in ((True, "o-"), (False, "x:")):
        for of_one in MOMENTA:
            rows = [row for row in found["rows"] if (row["scaled"], row["momentum"]) == (scaled, of_one)]
            label = f"one rate a {'sample' if scaled else 'step'}, momentum {of_one:g}"
            axes.plot([row["batch"] for row in rows], [row["distance"] for row in rows], line, label=label)
    axes.set(
        xlabel="batch size",
        ylabel="distance of the kept shares to $P_j$",
        xscale="log",
        ylim=(0, None),
        title="Staleness",
    )


# The whole

STUDIES: dict[str, tuple[Callable[[Effort], Numbers], Callable[[Axes, Numbers], None]]] = {
    "theorem_1": (theorem_1, _draw_theorem_1),
    "proposition_2": (proposition_2, _draw_proposition_2),
    "theorem_3": (theorem_3, _draw_theorem_3),
    "theorem_4": (theorem_4, _draw_theorem_4),
    "network": (network, _draw_network),
    "momentum": (momentum, _draw_momentum),
    "noise": (noise, _draw_noise),
    "staleness": (staleness, _draw_staleness),
    "stale_momentum": (stale_momentum, _draw_stale_momentum),
}


def run(
    folder: Path,
    effort: Effort,
    told: Callable[[str], None] = lambda name: None,
    results: Collection[RunResult] = (),
) -> Numbers:
    """Do every study; write theory.json, a figure for each, and the page README.md. Return the numbers.

    `results` are those of the grid that compares OrderDP's two forms, if it was run.
    """
    numbers, drawings = {}, {}
    for name, (study, draw) in STUDIES.items():
        told(name)
        with threadpool_limits(1):  # small matrices: threads only wait for each other
            numbers[name] = study(effort)
        drawings[name] = figure(draw, numbers[name])
    if compared := two_forms.compare(results):
        numbers["forms"] = compared
        drawings["forms"] = figure(two_forms.draw, compared)
    for name, drawing in drawings.items():
        store.write(folder / f"{name}.png", lambda file: drawing.savefig(file, format="png", dpi=120))  # noqa: B023
    store.write_json(folder / "theory.json", {"effort": vars(effort)} | numbers)
    store.write(folder / "README.md", lambda file: file.write_text(page(numbers)))
    return numbers


def figure(draw: Callable[[Axes, Numbers], None], found: Numbers) -> Figure:
    """One study's figure."""
    import seaborn as sns
    from matplotlib.figure import Figure

    with sns.axes_style("whitegrid"), sns.color_palette("deep"):
        drawing = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = drawing.subplots()
        draw(axes, found)
    axes.legend(fontsize="small")
    sns.despine(ax=axes)
    return drawing


def _slope(x: Any, y: Any) -> float:
    """The exponent of a power law fitted to positive values."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _rank_correlation(x: Any, y: Any) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)
