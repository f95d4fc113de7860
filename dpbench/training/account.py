"""What the runner puts into a result: environment, metrics, stability, diagnostics, and why a run failed."""

from __future__ import annotations

import platform
import subprocess
import time
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import dpbench
from dpbench import store
from dpbench.data import Data
from dpbench.errors import MethodFailed, RunFailed, UsageError, one_line
from dpbench.predictions import Predictions
from dpbench.spec import RunSpec, identity_hash
from dpbench.training import ledger as ledgers
from dpbench.training import probes
from dpbench.training.ledger import Ledger
from dpbench.training.measures import MEASURES
from dpbench.training.results import VERSION, Diagnostics, EpochRecord, Failure, RunResult
from dpbench.training.rows import mask

REASON = 500  # characters of a failure's message in a result; the whole is in traceback.txt


def blank(spec: RunSpec) -> RunResult:
    """The part of a result that does not depend on how the run goes; it has failed until it says otherwise."""
    identity = spec.identity
    return {
        "version": VERSION,
        "hash": identity_hash(identity),
        "spec": identity["spec"],
        "status": "FAILED",
        "identity": identity,
        "started": time.time(),
        "environment": environment(),
    }


@cache
def environment() -> dict[str, str | int]:
    """Versions, machine and commit that a result was made with."""
    root = Path(dpbench.__file__).resolve().parent.parent
    git = ["git", "-C", str(root)]
    inside = (root / ".git").exists()
    commit = (
        subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip() if inside else ""
    )
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout if inside else ""
    return {
        "dpbench": dpbench.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "commit": commit + ("-dirty" if changed.strip() else "") if commit else "unknown",
    }


def reason(error: BaseException) -> str:
    """One line for people; the type is named where the message is not ours."""
    text = one_line(error)
    return text if isinstance(error, RunFailed | UsageError) else f"{type(error).__name__}: {text}"


def failed(run_hash: str, error: BaseException) -> Failure:
    """Write a failure's traceback; return status, reason (cut where long), and whether other seeds fail alike."""
    path = store.run_folder(run_hash) / "traceback.txt"
    report, text = "".join(traceback.format_exception(error)), reason(error)
    store.write(path, lambda file: file.write_text(report, encoding="utf-8", errors="replace"))
    if len(text) > REASON:
        text = f"{text[:REASON]}... (the whole is in {path.relative_to(store.home())})"
    return {"status": "FAILED", "reason": text, "repeats": isinstance(error, MethodFailed | UsageError)}


def stability(selections: Sequence[Tensor], n: int) -> dict[str, float]:
    """How much the last epoch's selection shares with that of the epoch before."""
    if len(selections) < 2:
        return {}
    a, b = selections[-2:]
    return {
        "jaccard_epochs": probes.jaccard(mask(a, n), mask(b, n)),
        "jaccard_epochs_chance": probes.jaccard_chance(len(a), len(b), n),
    }


def metrics(
    records: Sequence[EpochRecord], ledger: Ledger, n: int, epochs: int, device: torch.device
) -> dict[str, float]:
    """The numbers of a run on n samples that was planned for `epochs` epochs; docs/numbers.md says what each means."""
    seconds, last = ledger.seconds, records[-1]
    found = {
        "accuracy": last["accuracy"],
        "accuracy_best_epoch": max(record["accuracy"] for record in records),
        "accuracy_validation": last["accuracy_validation"],
        "loss_test": last["loss_test"],
        "prune_ratio": ledgers.saving(ledger.backward, n, epochs),
        "forward_saving": ledgers.saving(ledger.forward, n, epochs),
        "samples_forward": ledger.forward,
        "samples_backward": ledger.backward,
        "samples_proxy": ledger.proxy_backward,
        "samples_proxy_forward": ledger.proxy_forward,
        "optimizer_steps": ledger.steps,
        "epochs": len(records),
        **{f"time_{phase}_s": seconds[phase] for phase in ("select", "observe", "train", "eval", "probe", "proxy")},
        "time_total_s": sum(seconds[phase] for phase in ("select", "observe", "train", "proxy")),
        "peak_memory_mb": ledgers.peak_memory_mb(),
    }
    if device.type == "cpu" and np.isfinite(ledger.on_cpu):  # a thread that waits for a GPU is on the CPU
        found["time_on_cpu"] = ledger.on_cpu / sum(seconds.values())
    if device.type == "cuda":
        found["peak_device_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    norms = [record["gradient_norm"] for record in records if "gradient_norm" in record]
    if norms:
        found["gradient_norm"] = norms[-1]
    for name in (measure.name for measure in MEASURES if measure.by_epoch == "mean"):
        values = [record[name] for record in records if np.isfinite(record.get(name, np.nan))]
        if values:
            found[name] = float(np.mean(values))
    return found


def diagnostics(selections: Sequence[Tensor], data: Data, epochs: int, predictions: Predictions) -> Diagnostics:
    """Which samples were used, how the classes fared, and how well the test's probabilities are calibrated."""
    n = len(data.train)
    uses = torch.zeros(n, dtype=torch.int64)
    coverage = []
    for selection in selections:
        uses[selection] += 1
        coverage.append(int(uses.count_nonzero()) / n)
    accuracy = _by_class(torch.from_numpy(predictions.correct), data.test.labels, data.classes)
    noisy, origins = data.noisy, data.positions
    chosen = [selection.unique_consecutive() for selection in selections]
    distinct = sum(len(origins[rows].unique()) for rows in chosen) if len(origins.unique()) < n else None
    return {
        "kept_per_class": _by_class(uses / epochs, data.train.labels, data.classes),
        "accuracy_per_class": accuracy,
        "accuracy_worst_class": min(value for value in accuracy if value is not None),
        "calibration_error": predictions.calibration_error(),
        "noisy_share": None if noisy is None else float(uses[noisy].sum() / uses.sum()),
        "duplicate_share": None if distinct is None else 1 - distinct / max(1, sum(map(len, chosen))),
        "coverage": coverage,
        "uses": {"min": int(uses.min()), "median": float(uses.double().median()), "max": int(uses.max())},
        "never_used": int((uses == 0).count_nonzero()),
        "uses_histogram": torch.bincount(uses).tolist(),
    }


def _by_class(values: Tensor, labels: Tensor, classes: int) -> list[float | None]:
    """The mean of the values in each class, None for a class without a sample."""
    sums, counts = torch.bincount(labels, values.double(), classes), torch.bincount(labels, minlength=classes)
    return [total / count if count else None for total, count in zip(sums.tolist(), counts.tolist(), strict=True)]
