"""Static methods against BLAS, against DeepCore (DPBENCH_DEEPCORE), in memory, and scores per second; CPU time."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from dpbench.methods.deepcore import checkout, quietly, todays_numpy
from torch import Tensor

from dpbench import catalog, greedy, kernels
from dpbench.method import Signals, Task
from dpbench.training import ledger

Row = tuple[str, float, str, float]  # what, measured, unit, and the target: at most, or at least where negative

WIDTH, CLASSES, KEEP = 512, 10, 0.1
# the selection, and how many times the products that it cannot avoid it may take
SELECTIONS = {
    "k_center": 4.0,
    "herding": 3.0,
    "graph_cut[on=embedding]": 8.0,
    "facility_location[on=embedding]": 8.0,
}
OVER_EPOCHS = ["aum", "forgetting", "dyn_unc", "dual", "tdds"]
SCORES = ["el2n", "grand", "entropy", "least_confidence", "margin", *OVER_EPOCHS]
GUARDED = [
    *SELECTIONS,
    "facility_location",
    "graph_cut",
    "craig",
    "glister",
    "gradmatch",
    "log_determinant",
    "contextual_diversity",
    "cal",
    "d2",
    "infomax",
]
EPOCHS = 30


def cpu_seconds(function: Callable[[], object]) -> float:
    """One timing, of this process alone."""
    start = time.process_time()
    function()
    return time.process_time() - start


def embeddings(n: int) -> Tensor:
    """Ten clusters, as a trained network makes them: (n, WIDTH)."""
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, WIDTH, generator=rng)
    return torch.randn(n, WIDTH, generator=rng).mul_(0.5).add_(centres[torch.arange(n) % CLASSES])


def setup(name: str, n: int, keep: float) -> Any:
    """The method, set up."""
    method = catalog.load_method(name)
    labels = torch.arange(n) % CLASSES
    method.setup(Task(n, EPOCHS, 128, keep, labels=labels), torch.Generator().manual_seed(0))
    return method


def shown(name: str, n: int, keep: float, values: dict[str, Tensor]) -> Any:
    """The method with one pass taken in, ready to choose."""
    method = setup(name, n, keep)
    method.take(Signals(torch.arange(n), values, 0, 0))
    return method


def unavoidable(name: str, x: Tensor, k: int) -> float:
    """Seconds of the products that the selection needs: n x k, for herding one column at a time, or n x n."""
    columns = 1 if name == "herding" else 4 * greedy.AHEAD
    blocks = torch.arange(len(x) if name.startswith("facility") else k).split(columns)
    some = blocks[: max(1, 20 if columns > 1 else 100)]  # they cost the same each
    return cpu_seconds(lambda: [x @ x[rows].T for rows in some]) * len(blocks) / len(some)


@contextmanager
def timed_products() -> Iterator[list[float]]:
    """The CPU seconds of each product of factored gradients or embeddings."""
    seconds, products = [], kernels.Factored.products

    def timed(*args: object) -> Tensor:
        start = time.process_time()
        product = products(*args)  # type: ignore[arg-type]
        seconds.append(time.process_time() - start)
        return product

    with mock.patch.object(kernels.Factored, "products", timed):
        yield seconds


def in_fresh_process(function: Callable[..., Any], *arguments: object) -> Any:
    """The function's answer from a process whose memory nothing else has used."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def selection(n: int, name: str) -> list[Row]:
    """The selection as a multiple of its products, and its peak memory as a multiple of the embeddings."""
    torch.set_num_threads(1)
    x = embeddings(n)
    method = shown(name, n, KEEP, {"embedding": x, "logits": torch.zeros(n, CLASSES)})
    ledger.reset_peak_memory()
    before = ledger.peak_memory_mb()
    with timed_products() as multiplied:
        taken = cpu_seconds(method.choose)
    memory = 1 + (ledger.peak_memory_mb() - before) * 2**20 / (4 * x.numel())
    what = f"{name}, n = {n:,}, d = {WIDTH}, keep {KEEP:g}"
    limit = unavoidable(name, x, int(KEEP * n))
    rows = [
        (f"{what} ({taken:.3g} s) / its products in BLAS, time", taken / limit, "x", SELECTIONS[name]),
        (f"{what}: peak memory / embeddings", memory, "x", 4.0),
    ]
    if name.startswith("facility"):  # its kernel is computed several times, since it is never held
        rows.append((f"{what}: share of its time in matrix products", sum(multiplied) / taken, "", -0.7))
    return rows


def selections(n: int, names: list[str]) -> list[Row]:
    """Each selection in a process of its own."""
    return [row for name in names for row in in_fresh_process(selection, n, name)]


def against_deepcore() -> list[Row]:
    """Our time against DeepCore's own functions on the same n and k: six minutes of theirs."""
    checkout()
    tools = importlib.import_module("deepcore.methods.methods_utils")
    methods = importlib.import_module("deepcore.methods")
    centre = importlib.import_module("deepcore.methods.kcentergreedy")
    args = Namespace(print_freq=10**9)

    def submodular(function: str, x: np.ndarray, k: int) -> None:
        every = np.arange(len(x))
        value = getattr(tools, function)(index=every, similarity_kernel=lambda a, b: tools.cossim_np(x[a], x[b]))
        tools.LazyGreedy(args, every, k).select(value.calc_gain, value.update_state)

    herd = Namespace(args=args, metric=tools.euclidean_dist)
    theirs: dict[str, tuple[int, int, Callable[[Tensor, int], object]]] = {
        "k_center": (20000, 2000, lambda x, k: centre.k_center_greedy(x, k, tools.euclidean_dist, "cpu", 0, None, [])),
        "herding": (20000, 2000, lambda x, k: methods.Herding.herding(herd, x, k)),
        "graph_cut[on=embedding]": (20000, 2000, lambda x, k: submodular("GraphCut", x.numpy(), k)),
        "facility_location[on=embedding]": (20000, 2000, lambda x, k: submodular("FacilityLocation", x.numpy(), k)),
    }
    rows = []
    for name, (n, k, function) in theirs.items():
        x = embeddings(n)
        method = shown(name, n, k / n, {"embedding": x, "logits": torch.zeros(n, CLASSES)})
        ours = cpu_seconds(method.choose)
        with quietly(), todays_numpy():
            peer = cpu_seconds(lambda: function(x, k))  # noqa: B023
        what = f"DeepCore's {peer:.3g} s / {name}, n = {n:,}, k = {k}, time"
        rows.append((what, peer / ours, "x", -10.0))
    return rows


def static_selections() -> list[Row]:
    """The selections of 20,000 samples, beside DeepCore where a checkout is named."""
    return selections(20000, list(SELECTIONS)) + (against_deepcore() if "DPBENCH_DEEPCORE" in os.environ else [])


def guards() -> list[Row]:
    """What the guard predicts of each selection against what it takes: the larger of the two over the smaller."""
    n, rows = 10000, []
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(n, CLASSES, generator=rng)
    logits[torch.arange(n), torch.arange(n) % CLASSES] += 3.0
    signals = {"embedding": embeddings(n), "logits": logits, "error_norm": torch.rand(n, generator=rng)}
    for name in GUARDED:
        predicted = 0.0

        def predict(what: str, products: float, floats: float) -> None:
            nonlocal predicted
            predicted += products / greedy.SPEED

        method = setup(name, n, KEEP)
        with mock.patch.object(sys.modules[type(method).__module__], "guard", predict):
            start = time.process_time()
            method.take(Signals(torch.arange(n), signals, 0, 0))
            method.choose()
            seconds = time.process_time() - start
        off = max(predicted / seconds, seconds / predicted)
        rows.append((f"{name}: {seconds:.2g} s, predicted {predicted:.2g} s", off, "x off", 3.0))
    return rows


def large_selections() -> list[Row]:
    """The selections of 200,000 samples: an hour, of which facility location takes most."""
    return selections(200000, list(SELECTIONS))


def scores() -> list[Row]:
    """Millions a second from a record on disk, its pages cached, to the selection; values are (sample, epoch) pairs."""
    rows, n = [], 10**6
    rng = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        files = {"vector": [Path(folder, f"vector{e}.npy") for e in range(EPOCHS)]}
        files["logits"] = [Path(folder, f"logits{e}.npy") for e in range(3)] * (EPOCHS // 3)
        for name, width in (("vector", ()), ("logits", (CLASSES,))):
            for path in set(files[name]):
                np.save(path, torch.randn(n, *width, generator=rng).abs().numpy())
        for name in SCORES:
            (need,) = catalog.load_method(name).requires().signals
            epochs = EPOCHS if name in OVER_EPOCHS else 1
            series = files["logits" if need == "logits" else "vector"][:epochs]

            def score(name: str = name, need: str = need, series: list[Path] = series) -> object:
                method = setup(name, n, KEEP)
                for epoch, path in enumerate(series):
                    value = torch.from_numpy(np.load(path, mmap_mode="c"))
                    method.observe(Signals(torch.arange(n), {need: value}, epoch, 0))
                return method.select(0)

            score()
            rate = n * epochs / cpu_seconds(score) / 1e6
            what = f"{name}, {need}{f' of {epochs} epochs' if epochs > 1 else ''}, one core"
            rows.append((what, rate, "M values/s" if epochs > 1 else "M samples/s", -10.0))
    return rows
