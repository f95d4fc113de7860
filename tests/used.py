"""Boards with made-up selections in this home: which samples each run used is given, nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from synthetic_board import RECIPE, result
from torch import Tensor

from dpbench import store
from dpbench.analysis.board import Board
from dpbench.analysis.overlap import Overlap
from dpbench.selections import Selections
from dpbench.spec import Grid, RunSpec
from dpbench.training import loading

NOISY = "synthetic[n=100,n_test=50,d=16,classes=4,label_noise=0.1]"
N = 90  # training samples of these; 10 are held out
Epochs = Sequence[Iterable[int]]


def flat() -> str:
    """The same without wrong labels."""
    return NOISY.replace(",label_noise=0.1", "")


def store_run(key: str, epochs: Epochs, scores: Tensor | None, n: int = N) -> None:
    """Write a run's selections."""
    rows = [torch.tensor(sorted(epoch), dtype=torch.int64) for epoch in epochs]
    selections = Selections(rows, n, {"hash": key}, torch.arange(n), None, scores)
    selections.write(store.run_folder(key) / "selections.npz")


def board_of(
    methods: Mapping[str, Sequence[Epochs]],
    scores: Mapping[str, Tensor] | None = None,
    dataset: str | None = None,
) -> Board:
    """A board of what each seed of a method used, epoch by epoch."""
    dataset = dataset or flat()
    data = loading.load_data(dataset, None)
    n, cells, results = len(data.train), {}, {}
    for method, seeds in methods.items():
        for seed, epochs in enumerate(seeds):
            key = f"{len(cells):016x}"
            fields = {"dataset": dataset, "model": "cnn", "method": method, "keep": 0.3, "seed": seed}
            cells[key] = RunSpec(**fields, recipe=RECIPE, data=data.fingerprint)
            results[key] = result(cells[key], key, 0.9 + seed / 100, {})
            results[key]["samples"]["train"] = n
            results[key]["epochs"] = [results[key]["epochs"][0]] * len(epochs)
            store_run(key, epochs, (scores or {}).get(method), n)
    names = {"datasets": [dataset], "models": ["cnn"], "methods": list(methods), "keep": [0.3]}
    grid = Grid(name="made", **names, seeds=max(map(len, methods.values())), recipe=RECIPE)
    return Board(grid, cells, results, Overlap())
