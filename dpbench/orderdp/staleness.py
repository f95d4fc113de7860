"""Staleness as an experiment: the released code ranks by the loss that each sample had when it was last trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dpbench.inclusion import inclusion_probability
from dpbench.orderdp.problem import MOMENTA, Effort, Numbers, digits, rank_correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EPOCHS, BINS = 30, 20  # of a run, and of the ranks


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
    expected = np.add.reduceat(inclusion_probability(n, s, q), edges[:-1]) / q
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
                correlations.append(rank_correlation(np.minimum(scores, 1e9), true))
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


def draw_staleness(axes: Axes, found: Numbers) -> None:
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


def draw_stale_momentum(axes: Axes, found: Numbers) -> None:
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
