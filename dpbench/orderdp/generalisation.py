"""Theorem 4 as an experiment: the generalisation gap, beside what is computable of its bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dpbench.orderdp import theory
from dpbench.orderdp.problem import Effort, Numbers, digits, rank_correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def theorem_4(effort: Effort) -> Numbers:
    """Test loss less training loss of the surrogate's minimiser, over random splits; keep is q / n."""
    n, rows, splits = 600, [], []
    for split in range(effort.splits):
        order = np.random.default_rng([4, split]).permutation(1797)
        train, test = digits(order[:n], 1e-3), digits(order[n:], 1e-3)
        splits.append((train, test, train.minimise(np.full(n, 1 / n))))  # that of the plain loss
    for keep in (0.1, 0.3):
        for explore in (keep, 1.25 * keep, 1.5 * keep, 2 * keep, 3 * keep, 1.0):
            q, s = round(keep * n), round(explore * n)
            weights = theory.surrogate_weight(n, s, q)
            found: dict[str, list[float]] = {"plain": [], "surrogate": [], "correction": [], "test": []}
            for train, test, least in splits:
                theta = train.minimise(weights, None if s == q else least)
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
        "correlation_surrogate": rank_correlation(factor, surrogate),
        "correlation_plain": rank_correlation(factor, plain),
        "held": None,  # the bound's constants are not known, so it cannot be refuted
    }


def draw_theorem_4(axes: Axes, found: Numbers) -> None:
    for q in sorted({row["q"] for row in found["rows"]}):
        rows = [row for row in found["rows"] if row["q"] == q]
        for name, mark in (("plain", "o-"), ("surrogate", "x:")):
            errors = [2 * row[f"{name}_se"] for row in rows]
            label = f"less {'the plain' if name == 'plain' else '$L_q$ on'} training loss, q = {q}"
            axes.errorbar(
                [row["s"] / found["n"] for row in rows], [row[name] for row in rows], errors, fmt=mark, label=label
            )
    axes.set(xlabel="$s/n$", ylabel="test loss", title="Theorem 4")
