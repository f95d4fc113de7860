"""How SGD with OrderDP converges: Theorem 3, and beyond it a network, momentum and batch size, as experiments."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from dpbench.inclusion import Floats
from dpbench.orderdp import theory
from dpbench.orderdp.problem import MOMENTA, Effort, Network, Numbers, descent, digits, exponent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZES = ((64, 64), (64, 16), (256, 16))  # (s, q) of one step
BATCHES = ((16, 4), (64, 16), (256, 64))  # the same with one q / s


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
        slope = exponent(horizons, gaps)
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


def draw_theorem_3(axes: Axes, found: Numbers) -> None:
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
        curves.append(curve | {"slope": exponent(horizons, best), "slope_of_mean": exponent(horizons, mean)})
    return {"n": len(problem.x), "curves": curves, "held": all(curve["slope"] <= -0.5 for curve in curves)}


def draw_network(axes: Axes, found: Numbers) -> None:
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
                {"s": s, "q": q, "momentum": of_one, "T": horizons, "gap": gap, "slope": exponent(horizons, gap)}
            )
    return {"curves": curves, "held": all(curve["slope"] <= -0.5 for curve in curves)}


def draw_momentum(axes: Axes, found: Numbers) -> None:
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
    slopes = [exponent([q for _, q in BATCHES], [row["gap"] for row in rows if row["momentum"] == m]) for m in MOMENTA]
    return {
        "rate": rate,
        "steps": steps,
        "rows": rows,
        "slopes": slopes,
        "held": all(abs(slope + 1) <= 0.25 for slope in slopes)
        and all(abs(row["to_none"] - 1) <= 0.25 for row in rows),
    }


def draw_noise(axes: Axes, found: Numbers) -> None:
    for of_one, slope in zip(MOMENTA, found["slopes"], strict=True):
        rows = [row for row in found["rows"] if row["momentum"] == of_one]
        at, gaps, errors = ([row[name] for row in rows] for name in ("q", "gap", "gap_se"))
        axes.errorbar(at, gaps, [2 * e for e in errors], fmt="o-", label=f"momentum {of_one:g}: slope {slope:.2f}")
    axes.set(xlabel="q, with s = 4 q", ylabel="$L_q$ above its minimum", xscale="log", yscale="log", title="Noise left")
