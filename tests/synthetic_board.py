"""Boards whose results are written down, not trained: accuracies are given, the rest follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpbench.analysis.board import Board
from dpbench.analysis.overlap import Overlap
from dpbench.spec import Grid, Recipe, RunSpec

RECIPE = Recipe(epochs=4, batch_size=10, lr=0.1)
N, TESTED = 100, 1000
Seed = float | str | tuple[str, str] | None
SPREAD = [0.0, 0.002, -0.001, 0.001, -0.002]  # what the seeds share


def around(mean: float, noise: float = 0.0, seeds: int = 5) -> list[float]:
    """Accuracies of paired seeds: the seeds' own part, and `noise` points that differ by sign from seed to seed."""
    return [mean + SPREAD[seed] + noise / 100 * (1, -1, 0, 2, -2)[seed] for seed in range(seeds)]


def result(spec: RunSpec, key: str, accuracy: float, metrics: dict[str, float]) -> dict[str, Any]:
    """A finished run that reached its accuracy in equal steps, on k new samples each epoch."""
    epochs, k = spec.recipe.epochs, round(spec.keep * N)
    coverage = [min(1.0, spec.keep * epoch) for epoch in range(1, epochs + 1)]
    records = [
        {
            "epoch": epoch,
            "accuracy": accuracy - 0.01 * (epochs - 1 - epoch),
            "gradient_norm": 1.0 - 0.1 * epoch,
            "gradient_cosine": 0.9,
            **({"gradient_cosine_surrogate": 0.8} if spec.method == "orderdp" else {}),
            "time_select_s": 0.0,
            "time_train_s": spec.keep,
            "time_observe_s": 0.0,
        }
        for epoch in range(epochs)
    ]
    found = {
        "accuracy": accuracy,
        "accuracy_best_epoch": accuracy,
        "prune_ratio": 1 - k / N,
        "forward_saving": 1 - k / N,
        "samples_forward": k * epochs,
        "samples_backward": k * epochs,
        "samples_proxy": 0,
        "samples_proxy_forward": 0,
        "optimizer_steps": k * epochs // 10,
        "epochs": epochs,
        "time_select_s": 0.0,
        "time_observe_s": 0.0,
        "time_proxy_s": 0.0,
        "time_total_s": spec.keep * epochs,
        "peak_memory_mb": 100.0,
        "jaccard_epochs": 0.5,
        "jaccard_epochs_chance": 0.3,
        "gradient_cosine": 0.9,
    }
    return {
        "hash": key,
        "spec": spec.model_dump(),
        "status": "FINISHED",
        "kind": "epoch",
        "started": 0.0,
        "ended": 1.0,
        "environment": {"dpbench": "0", "torch": "0", "device": "cpu"},
        "hyperparameters": {},
        "samples": {"train": N, "validation": 10, "test": TESTED},
        "metrics": found | metrics,
        "epochs": records,
        "diagnostics": {
            "accuracy_worst_class": accuracy - 0.1,
            "noisy_share": None,
            "kept_per_class": [spec.keep, spec.keep],
            "coverage": coverage,
            "never_used": round((1 - coverage[-1]) * N),
            "uses_histogram": [round((1 - coverage[-1]) * N), round(coverage[-1] * N)],
        },
    }


def make(
    accuracies: Mapping[tuple[str, float], Sequence[Seed]],
    metrics: dict[str, dict[str, float]] | None = None,
    datasets: tuple[str, ...] = ("digits",),
    delta: float = 0.5,
    overlap: Overlap | None = None,
    controls: dict[float, list[float]] | None = None,
) -> Board:
    """A board from the accuracy of each seed: a text is the reason of a failure, a pair ("diverged", reason) a run that
    diverged, None one that was not made.

    `controls` are the accuracies of random per epoch at a realised cost, on every dataset.
    """
    cells, results, at_cost = {}, {}, {}
    for dataset in datasets:
        for (method, keep), values in accuracies.items():
            for seed, value in enumerate(values):
                key = f"{len(cells):016x}"
                spec = RunSpec(dataset=dataset, model="cnn", method=method, keep=keep, seed=seed, recipe=RECIPE)
                cells[key] = spec
                if isinstance(value, str):
                    results[key] = result(spec, key, 0.0, {}) | {"status": "FAILED", "reason": value, "metrics": {}}
                elif isinstance(value, tuple):
                    status, reason = value
                    results[key] = result(spec, key, 0.0, {}) | {
                        "status": status.upper(),
                        "reason": reason,
                        "metrics": {},
                    }
                elif value is not None:
                    results[key] = result(spec, key, value, (metrics or {}).get(method, {}))
        for keep, values in (controls or {}).items():
            for seed, value in enumerate(values):
                key = f"c{len(at_cost):015x}"
                spec = RunSpec(
                    dataset=dataset, model="cnn", method="uniform_epoch", keep=keep, seed=seed, recipe=RECIPE
                )
                at_cost[key] = result(spec, key, value, {})
    grid = Grid(
        name="made",
        description="For the tests.",
        datasets=list(datasets),
        models=["cnn"],
        methods=list(dict.fromkeys(method for method, _ in accuracies)),
        keep=sorted({keep for _, keep in accuracies}),
        seeds=max(map(len, accuracies.values())),
        delta=delta,
        recipe=RECIPE,
    )
    return Board(grid, cells, results, overlap or Overlap(), controls=at_cost)


def joined(*boards: Board) -> Board:
    """One board of several, that differ in their datasets; the grid has all of them and is the first one's else."""
    cells, results, at_cost = {}, {}, {}
    for i, board in enumerate(boards):
        for made, found in ((results, board.results), (at_cost, board.controls)):
            made |= {f"{i}{key[1:]}": one | {"hash": f"{i}{key[1:]}"} for key, one in found.items()}
        cells |= {f"{i}{key[1:]}": spec for key, spec in board.cells.items()}
    datasets = list(dict.fromkeys(spec.dataset for spec in cells.values()))
    grid = boards[0].grid.model_copy(update={"datasets": datasets})
    return Board(grid, cells, results, Overlap(), controls=at_cost)


def costing(share: float) -> dict[str, float]:
    """Metrics of a run that costs this share of full training: all is forwarded once, the rest goes backward."""
    return {"samples_forward": 4 * N, "samples_backward": round((3 * share - 1) / 2 * 4 * N)}


def usual(**options: Any) -> Board:
    """Full, random and four methods at two keeps: one better than random, one worse, one like it, one that failed."""
    accuracies: dict[tuple[str, float], list[float | str | None]] = {("full", 1.0): [*around(0.95)]}
    for keep, mean in ((0.3, 0.90), (0.5, 0.92)):
        accuracies[("uniform", keep)] = [*around(mean)]
        accuracies[("orderdp", keep)] = [*around(mean + 0.02, noise=0.1)]
        accuracies[("el2n", keep)] = [*around(mean - 0.02, noise=0.1)]
        accuracies[("infobatch", keep)] = [*around(mean, noise=0.4)]
        accuracies[("small_loss", keep)] = [*around(mean, seeds=3), "small_loss.select failed", None]
    return make(accuracies, **options)
