"""OrderDP's theorems as experiments: softmax regression on digits, in NumPy, seeded, a minute or two on one core.

Each experiment returns plain numbers, and a figure drawn from these alone. `run` writes all of them, with a page that
says what held; every number on the page comes from the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from dpbench import store, theory
from dpbench.theory import Floats, Ints
from dpbench.theory_page import page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = dict[str, Any]


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
    """Softmax regression with an L2 penalty: x (n, d) with a constant column, y (n, classes) one-hot."""

    x: Floats
    y: Floats
    penalty: float

    def losses(self, theta: Floats, rows: Ints | slice = slice(None)) -> tuple[Floats, Floats]:
        """The loss of each row, (b,), and its gradient by the logits, (b, classes)."""
        logits = self.x[rows] @ theta
        logits -= logits.max(1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(1, keepdims=True)
        losses = np.log(total[:, 0]) - (logits * self.y[rows]).sum(1)
        return losses, p / total - self.y[rows]

    def surrogate(self, theta: Floats, weights: Floats) -> tuple[float, Floats]:
        """L_q and its gradient; `weights` are gamma_j / q, hardest first."""
        losses, slopes = self.losses(theta)
        weight = np.empty_like(losses)
        weight[np.argsort(-losses)] = weights
        value = float(weight @ losses) + self.penalty / 2 * float((theta**2).sum())
        return value, self.x.T @ (weight[:, None] * slopes) + self.penalty * theta

    def minimise(self, weights: Floats, start: Floats | None = None) -> Floats:
        """The parameters that minimise L_q, by L-BFGS, begun anew while that helps: L_q has kinks where losses tie.

        Without `start` it begins at the minimum of the plain loss: at 0 all losses tie.
        """
        if start is None:
            zero = np.zeros((self.x.shape[1], self.y.shape[1]))
            start = zero if np.ptp(weights) == 0 else self.minimise(np.full(len(weights), 1 / len(weights)), zero)

        def flat(theta: Floats) -> tuple[float, Floats]:
            value, gradient = self.surrogate(theta.reshape(start.shape), weights)
            return value, gradient.ravel()

        at, value = start.ravel(), np.inf
        options = {"maxiter": 3000, "maxfun": 6000, "ftol": 1e-13, "gtol": 1e-9}
        while True:
            found = minimize(flat, at, jac=True, method="L-BFGS-B", options=options)
            if found.fun > value - 1e-7:
                return at.reshape(start.shape)
            at, value = found.x, found.fun

    def step(self, theta: Floats, rng: np.random.Generator, s: int, q: int) -> Floats:
        """OrderDP's subgradient: of s drawn samples the mean over the q of largest loss."""
        rows = rng.choice(len(self.x), s, replace=False, shuffle=False)
        losses, slopes = self.losses(theta, rows)
        top = np.argpartition(-losses, q - 1)[:q]
        return self.x[rows[top]].T @ slopes[top] / q + self.penalty * theta


def digits(rows: Ints | slice = slice(None), penalty: float = 1e-2) -> Problem:
    """Softmax regression on the digits at `rows`."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = np.column_stack([data.data / 16, np.ones(len(data.data))])
    return Problem(x[rows], np.eye(10)[data.target][rows], penalty)


# Theorem 1: the expected gradient is that of the surrogate loss, not that of the plain loss


def theorem_1(effort: Effort) -> Numbers:
    """Distances of the Monte-Carlo gradient, relative to the plain gradient's norm, and a test of unbiasedness.

    `error` is the squared distance to the surrogate's gradient over the variance of the mean: 1 if unbiased.
    """
    rng = np.random.default_rng(1)
    n, blocks = 500, 20
    size = effort.draws // blocks
    problem = digits(rng.permutation(1797)[:n], penalty=0.0)
    theta = np.zeros((65, 10))
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
    horizons = np.unique(np.geomspace(max(1, effort.steps / 1000), effort.steps, 7).round().astype(int))
    curves = []
    for s, q in ((64, 64), (64, 16), (256, 16)):
        weights = theory.surrogate_weight(n, s, q)
        optimum = problem.minimise(weights)
        least = problem.surrogate(optimum, weights)[0]
        distance = float(np.linalg.norm(optimum))
        steepest = float(np.sqrt(2) * np.linalg.norm(problem.x, axis=1).max() + problem.penalty * distance)
        gaps = []
        for horizon in horizons:
            looks = set(np.unique(np.linspace(0, horizon, 40).round().astype(int)))
            best = []
            for seed in range(effort.seeds):
                rng, theta, values = np.random.default_rng([3, s, q, horizon, seed]), np.zeros_like(optimum), []
                for t in range(horizon + 1):
                    if t in looks:
                        values.append(problem.surrogate(theta, weights)[0])
                    theta = theta - distance / (steepest * horizon**0.5) * problem.step(theta, rng, s, q)
                best.append(min(values) - least)
            gaps.append(float(np.mean(best)))
        bound = [distance * steepest / horizon**0.5 for horizon in horizons]
        slope = _slope(horizons, gaps)
        curves.append(
            {"s": s, "q": q, "least": least, "T": horizons.tolist(), "gap": gaps, "bound": bound, "slope": slope}
        )
    held = all(
        curve["slope"] <= -0.5 and all(gap <= most for gap, most in zip(curve["gap"], curve["bound"], strict=True))
        for curve in curves
    )
    return {"n": n, "curves": curves, "held": held}


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
    """How far the inclusion probability by true rank moves from theory when only trained samples get new scores.

    `distance` is the total variation between the kept share by true rank (in 20 bins) and P_j; `top_10` is the share
    of the kept that is among the hardest tenth by the true loss.
    """
    problem, epochs, batch, bins = digits(penalty=0.0), 30, 32, 20
    n = len(problem.x)
    rows = []
    for keep, explore in ((0.3, 0.4), (0.3, 0.8), (0.3, 1.0), (0.7, 0.9)):
        q, s = round(keep * n), round(explore * n)
        edges = np.linspace(0, n, bins + 1).round().astype(int)
        expected = np.add.reduceat(theory.inclusion_probability(n, s, q), edges[:-1]) / q
        for start in ("fresh", "first", 3.0, 1.0):
            for rate in (0.05, 0.5):
                shares = np.zeros(bins)
                correlations = []
                for seed in range(effort.seeds):
                    rng, theta = np.random.default_rng([5, q, s, seed]), np.zeros((problem.x.shape[1], 10))
                    scores = np.full(n, np.inf if isinstance(start, str) else start)
                    for epoch in range(epochs):
                        true = problem.losses(theta)[0]
                        scores = true if start == "fresh" else scores
                        candidates = rng.choice(n, s, replace=False)  # in random order, so that ties break at random
                        kept = rng.permutation(candidates[np.argsort(-scores[candidates], kind="stable")[:q]])
                        if epoch >= epochs // 3:  # afterwards most samples were seen
                            place = np.argsort(np.argsort(-true))
                            shares += np.histogram(place[kept], edges)[0] / q
                            correlations.append(_rank_correlation(np.minimum(scores, 1e9), true))
                        scores = scores.copy()
                        for rows_of_batch in np.array_split(kept, max(1, q // batch)):
                            losses, slopes = problem.losses(theta, rows_of_batch)
                            scores[rows_of_batch] = losses
                            theta = theta - rate * problem.x[rows_of_batch].T @ slopes / len(rows_of_batch)
                shares /= shares.sum()
                rows.append(
                    {
                        "keep": keep,
                        "explore": explore,
                        "scores": start,
                        "rate": rate,
                        "distance": float(np.abs(shares - expected).sum() / 2),
                        "distance_of_uniform": float(np.abs(np.diff(edges) / n - expected).sum() / 2),
                        "top_10": float(shares[: bins // 10].sum()),
                        "top_10_theory": float(expected[: bins // 10].sum()),
                        "rank_correlation": float(np.mean(correlations)),
                        "shares": shares.tolist(),
                        "expected": expected.tolist(),
                    }
                )
    fresh, stale = ([r["distance"] for r in rows if (r["scores"] == "fresh") is kind] for kind in (True, False))
    return {"n": n, "epochs": epochs, "bins": bins, "rows": rows, "held": max(stale) <= 2 * max(fresh)}


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


# The whole

STUDIES: dict[str, tuple[Callable[[Effort], Numbers], Callable[[Axes, Numbers], None]]] = {
    "theorem_1": (theorem_1, _draw_theorem_1),
    "proposition_2": (proposition_2, _draw_proposition_2),
    "theorem_3": (theorem_3, _draw_theorem_3),
    "theorem_4": (theorem_4, _draw_theorem_4),
    "staleness": (staleness, _draw_staleness),
}


def run(folder: Path, effort: Effort, told: Callable[[str], None] = lambda name: None) -> Numbers:
    """Do every study; write theory.json, a figure for each, and the page README.md. Return the numbers."""
    numbers = {}
    for name, (study, draw) in STUDIES.items():
        told(name)
        with threadpool_limits(1):  # small matrices: threads only wait for each other
            numbers[name] = study(effort)
        drawing = figure(draw, numbers[name])
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
