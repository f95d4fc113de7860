"""What is kept, and what that minimises: Theorem 1 and Proposition 2 as experiments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dpbench.inclusion import Floats, Ints, inclusion_probability
from dpbench.orderdp import theory
from dpbench.orderdp.problem import Effort, Numbers, digits, exponent

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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


def draw_theorem_1(axes: Axes, found: Numbers) -> None:
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
            kept = inclusion_probability(n, s, q) * (n / s)  # P[cut >= j], from 1 down to 0
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
    slope = exponent(sizes, [row["distance"] for row in fixed])
    ends = (fixed[-1]["variance_ratio"], growing[-1]["variance_ratio"])
    held = abs(slope + 1) < 0.05 and abs(ends[1] - 0.5) < 0.02
    return {"fixed": fixed, "growing": growing, "slope": slope, "held": held}


def draw_proposition_2(axes: Axes, found: Numbers) -> None:
    for name, label in (("fixed", "s = 20, q = 8"), ("growing", "s = n / 2, q = n / 5")):
        axes.plot([row["n"] for row in found[name]], [row["distance"] for row in found[name]], "o-", label=label)
    axes.set(
        xlabel="n", ylabel=r"$\max_j |n\gamma_j - \gamma(j/n)| / s$", xscale="log", yscale="log", title="Proposition 2"
    )
