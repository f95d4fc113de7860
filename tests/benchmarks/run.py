"""The performance benchmark: each figure beside its target, as a ratio of two timings of one run, median of five.

python tests/benchmarks/run.py [NAME ...]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import html_page
import image_files
import numpy as np
import scale
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from static import guards, in_fresh_process, large_selections, scores, static_selections
from torch import Tensor

from dpbench import catalog
from dpbench.images import ImageLoader, Images
from dpbench.method import Signals, Task
from dpbench.setting import Budget, Probe
from dpbench.spec import Recipe, RunSpec
from dpbench.training import ledger, loading, runner

REPEATS = 5
RECIPE = Recipe(epochs=3, batch_size=128, lr=0.05)
DATASET = "synthetic[n=8000,n_test=100,d=784]"
Row = tuple[str, float, str, float]  # what, measured, unit, and the target: at most, or at least where negative


def seconds(function: Callable[[], object]) -> float:
    """One timing."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def bare_epoch(data: Images, model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    """What anyone would write: shuffle, slice, normalise, forward, backward, step."""
    model.train()
    for rows in torch.randperm(len(data))[:count].split(RECIPE.batch_size):
        images = data.images[rows].float().mul_(1 / 50).add_(-2.5)
        loss = F.cross_entropy(model(images), data.labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def bare_loop(data: Images, backward: int) -> float:
    """Seconds of a plain PyTorch training that sends as many samples backward."""
    model = catalog.load_model("cnn", tuple(data.images.shape[1:]), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    counts = [len(data)] * (backward // len(data)) + [backward % len(data)] * (backward % len(data) > 0)
    return sum(seconds(lambda count=count: bare_epoch(data, model, optimizer, count)) for count in counts)  # type: ignore[misc]


def runner_against_bare_loop() -> list[Row]:
    """The runner's select, train and observe against a bare loop over as many samples."""
    data = catalog.load_dataset(DATASET).load().train
    rows = []
    for method, target in (("full", 1.03), ("orderdp", 1.05), ("infobatch", 1.05)):
        ratios = []
        for seed in range(REPEATS):
            spec = RunSpec(
                dataset=DATASET,
                model="cnn",
                method=method,
                keep=0.5,
                seed=seed,
                recipe=RECIPE,
                budget=Budget(),
                probe=Probe(every=0),
                data=loading.load_data(DATASET, None).fingerprint,
            )
            with tempfile.TemporaryDirectory() as home:
                os.environ["DPBENCH_HOME"] = home
                metrics = runner.run(spec)["metrics"]
            ratios.append(metrics["time_total_s"] / bare_loop(data, metrics["samples_backward"]))
        rows.append((f"runner, {method}, cnn, batch 128 / bare PyTorch loop, time", median(ratios), "x", target))
    return rows


def loader_against_torchvision() -> list[Row]:
    """Images per second of the in-memory loader against Dataset + DataLoader with the same augmentation, one core."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    n, batch = 4096, 128
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)
    split = Images(images, torch.randint(0, 10, (n,)))

    class Pictures(Dataset[tuple[Tensor, int]]):
        transform = transforms.Compose(
            [
                transforms.RandomCrop(32, 4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.25,) * 3),
            ]
        )
        arrays = images.permute(0, 2, 3, 1).contiguous().numpy()

        def __len__(self) -> int:
            return n

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return self.transform(Image.fromarray(self.arrays[index])), int(split.labels[index])

    loader = ImageLoader(split, images, torch.device("cpu"), "crop_flip", 4)

    def ours() -> None:
        loader.start_epoch(torch.Generator().manual_seed(0))
        for rows in torch.randperm(n).split(batch):
            loader.batch(rows)

    theirs = DataLoader(Pictures(), batch, shuffle=True)
    ours()
    ratios = [seconds(lambda: list(theirs)) / seconds(ours) for _ in range(REPEATS)]
    return [("in-memory loader / torchvision Dataset + DataLoader, images per second", median(ratios), "x", -10.0)]


def orderdp_select() -> list[Row]:
    """OrderDP's select against one argpartition of its candidates; peak memory a sample above the state before it."""
    return [row for n in (10**6, 10**7) for row in in_fresh_process(orderdp_select_of, n)]


def orderdp_select_of(n: int) -> list[Row]:
    """The same for n samples."""
    torch.set_num_threads(1)
    method = catalog.load_method("orderdp")
    method.setup(Task(n, 10, 128, 0.3), torch.Generator().manual_seed(0))
    losses = torch.rand(n)
    method.observe(Signals(torch.arange(n), {"loss": losses}, 0))
    ledger.reset_peak_memory()
    before = ledger.peak_memory_mb()
    method.select(1)
    used = (ledger.peak_memory_mb() - before) * 2**20 / n + 4  # and the scores it keeps
    candidates = losses[: int(0.8 * n)].numpy()
    kth = len(candidates) - int(0.3 * n)
    ratios = [
        seconds(lambda: method.select(1)) / seconds(lambda: np.argpartition(candidates, kth)) for _ in range(REPEATS)
    ]
    return [
        (f"OrderDP select / argpartition of its candidates, n = {n:.0e}, time", median(ratios), "x", 2.0),
        (f"OrderDP memory with its scores, n = {n:.0e}", used, "bytes a sample", 25.0),
    ]


def help_time() -> list[Row]:
    """`dpbench --help` as a whole process."""
    command = [str(Path(sys.executable).with_name("dpbench")), "--help"]
    times = [seconds(lambda: subprocess.run(command, capture_output=True, check=True)) for _ in range(REPEATS)]
    return [("dpbench --help", median(times), "s", 0.5)]


def unchanged_time() -> list[Row]:
    """Processor time of commands on a board where nothing has changed: no torch, no MLflow, no data."""
    program = str(Path(sys.executable).with_name("dpbench"))
    run = ["run", "--method", "uniform", "--dataset", "synthetic", "--model", "mlp", "--seeds", "1", "--name", "bench"]
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as home:
        for title, command in (("run", run), ("leaderboard quick", ["leaderboard", "quick"])):
            times = []
            for _ in range(REPEATS + 1):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run(
                    [program, *command], capture_output=True, check=True, env=os.environ | {"DPBENCH_HOME": home}
                )
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            found.append((f"dpbench {title}, nothing new, processor time", median(times[1:]), "s", 3))
    return found


BENCHMARKS = {
    "runner": runner_against_bare_loop,
    "loader": loader_against_torchvision,
    "images": image_files.against_image_folder,
    "select": orderdp_select,
    "help": help_time,
    "unchanged": unchanged_time,
    "html": html_page.filtering,
    "static": static_selections,
    "scores": scores,
    "guards": guards,
    "large": large_selections,
    "scale": scale.on_one,
    "scale_large": scale.on_one_large,
    "sharded": scale.on_ranks,
}
BY_NAME_ONLY = {"large", "scale", "scale_large", "sharded"}  # an hour; minutes, with 1e8 samples in up to 10 GB


def main(names: list[str]) -> None:
    """Run the benchmarks named, or all that take minutes, and print the table."""
    torch.set_num_threads(1)
    table = Table("benchmark", "measured", "target", "")
    for name in names or [name for name in BENCHMARKS if name not in BY_NAME_ONLY]:
        for what, measured, unit, target in BENCHMARKS[name]():
            met = measured <= target if target > 0 else measured >= -target
            aim = f"at most {target:g}" if target > 0 else f"at least {-target:g}"
            table.add_row(escape(what), f"{measured:.3g} {unit}", aim, "met" if met else "[bold red]MISSED[/]")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
