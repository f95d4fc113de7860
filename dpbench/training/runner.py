"""One run from its spec to its row: proxy, select, train, pick, observe, evaluate, probes, ledger, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch
from filelock import Timeout
from torch import Tensor

from dpbench import catalog, isolation, shifts, store
from dpbench.data import Data
from dpbench.errors import Diverged, MethodFailed
from dpbench.method import PruningMethod, Signals, Task
from dpbench.rng import generator
from dpbench.scores import ScoreMethod
from dpbench.selections import Selections
from dpbench.setting import Budget
from dpbench.spec import RunSpec
from dpbench.training import account, embeddings, loading, probes, proxy, pulse, ranks, results
from dpbench.training import ledger as ledgers
from dpbench.training.answers import call
from dpbench.training.driver import Driver
from dpbench.training.ledger import Ledger
from dpbench.training.pace import Pace
from dpbench.training.ranks import ALONE, Ranks
from dpbench.training.results import EpochRecord, RunResult, final
from dpbench.training.rows import batches, mask, to_cpu
from dpbench.training.train import Learner, evaluate, evaluate_shifted, measure_all, predict, train_epoch
from dpbench.training.workload import workload

PROBE_BATCH = 512

OnEpoch: TypeAlias = Callable[[EpochRecord], None]


def default_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@isolation.strict()
def run(
    spec: RunSpec,
    device: torch.device | None = None,
    data_root: Path | None = None,
    checkpoint_s: float = 30.0,
    on_epoch: OnEpoch | None = None,
) -> RunResult:
    """Carry a run to its end, or continue it where it stopped; return its result, read again if it was done.

    A failure is a result too: status FAILED with a one-line reason, and the traceback in the run's folder; it is tried
    again. A training that diverged is final: status DIVERGED with its reason and the epochs up to there.
    A checkpoint is written at the end of an epoch when the last is `checkpoint_s` seconds old. Of several processes,
    as many as the run has devices, the first writes and returns the result; the others raise what fails them.
    """
    folder, group = store.run_folder(spec.hash), ranks.of(spec)
    with group.locked(folder / "lock"):
        finished = group.decided(lambda: final(spec.hash))
        if finished is not None:
            return finished
        result = account.blank(spec)
        records: list[EpochRecord] = []
        try:
            with group.joined(spec):
                training = _begin(spec, device or default_device(), data_root, folder, group)
                records = training.records
                result |= training.train(checkpoint_s, on_epoch)
            why = training.diverged()
            result |= {"status": "DIVERGED", "reason": why} if why else {"status": "FINISHED"}
        except Diverged as error:
            result |= {"status": "DIVERGED", "reason": account.reason(error), "epochs": records}
        except Exception as error:
            if not group.first:
                raise
            result |= account.failed(spec.hash, error)
        result["ended"] = time.time()
        if group.first:
            results.write(result)
            (folder / pulse.FILE).unlink(missing_ok=True)
        if group.first and result["status"] != "FAILED":
            store.write(folder / "done", lambda file: file.touch())
            (folder / "checkpoint.pt").unlink(missing_ok=True)
            (folder / "traceback.txt").unlink(missing_ok=True)
        return result


def lost(spec: RunSpec, error: BaseException) -> RunResult:
    """Write down that a run's worker died; return the result, which is the finished one where it was just written."""
    folder = store.run_folder(spec.hash)
    result = account.blank(spec) | {"status": "FAILED", "reason": account.reason(error)}
    try:
        with store.locked(folder / "lock", timeout=0):
            finished = final(spec.hash)
            if finished is not None:
                return finished
            result |= account.failed(spec.hash, error)
            results.write(result)
            (folder / pulse.FILE).unlink(missing_ok=True)
    except Timeout:
        pass  # another process carries the run out by now; what it writes counts
    return result


def _begin(spec: RunSpec, device: torch.device, data_root: Path | None, folder: Path, group: Ranks) -> _Run:
    """Set a run up, and take it to its checkpoint if there is one; a damaged one is set aside."""
    device = group.device(device)
    begun = _Run(spec, device, data_root, folder, group)
    path, resumed = folder / "checkpoint.pt", False
    if group.first and path.is_file():
        try:
            resumed = begun.resume(path)
        except Exception as error:  # torch and methods raise what they like
            store.set_aside(path, error)
            begun = _Run(spec, device, data_root, folder, group)  # the other has taken in a part of it
    if group.agreed(resumed) and not group.first:
        begun.resume(path)
    return begun


def fixed_scores(method: PruningMethod) -> Tensor | None:
    """The scores (n,) by which a static method has chosen, None where it has none."""
    return call(method, "scores", method.scores) if isinstance(method, ScoreMethod) else None


def prepare(spec: RunSpec, data: Data, device: torch.device, ledger: Ledger) -> Driver:
    """Set the run's method up and replay the proxy it asks for, which is recorded unless it is there."""
    method = catalog.load_method(spec.method)
    method.ready()
    n = len(data.train)
    recipe = spec.recipe.at(spec.keep)
    task = Task(n, recipe.epochs, recipe.batch_size, spec.keep, data.train.labels.clone(), spec.data)
    with ledger.time("select"):
        driver = Driver(method, task, spec.seed)
    requests = proxy.requests(spec)
    given = {}
    if "embedding" in method.beside:
        with ledger.time("proxy"):
            given = {"embedding": embeddings.given(method, data, device)}
        if not requests:
            driver.replay(Signals(torch.arange(n), given, 0, proxy_run=0))
    for request in requests:
        try:
            passes = proxy.obtain(request, data, device, ledger)
        except Diverged as error:
            raise Diverged(f"in the proxy {error}") from error
        with ledger.time("observe"):
            for signals in passes:
                driver.replay(replace(signals, values=signals.values | given) if given else signals)
    return driver


class _Run:
    """The state of one run."""

    def __init__(
        self, spec: RunSpec, device: torch.device, data_root: Path | None, folder: Path, group: Ranks = ALONE
    ) -> None:
        ledgers.reset_peak_memory()
        self.spec, self.recipe, self.device, self.folder = spec, spec.recipe.at(spec.keep), device, folder
        self.ranks = group
        self.data = loading.data_of(spec, data_root)
        self.n = len(self.data.train)
        self.ledger = Ledger()
        self.records: list[EpochRecord] = []
        self.selections: list[Tensor] = []  # the samples sent backward, sorted, by epoch
        self.driver = prepare(spec, self.data, device, self.ledger)
        self.method, self.epochs = self.driver.method, self.driver.epochs
        self.pace = self._pace()
        recipe, train = self.recipe, self.data.train
        self.workload = workload(self.data, recipe)
        self.learner = Learner(spec.model, recipe, self.workload, self.data.shape, spec.seed, device, group)
        self.loader = train.loader(train, recipe, device, augment=True)
        self.validation, self.test = (
            split.loader(train, recipe, device, augment=False) for split in (self.data.validation, self.data.test)
        )
        self.shifted = shifts.tests(spec.dataset, self.test, data_root) if spec.shifts else {}
        picked = recipe.batch_size * self.driver.pool  # what `pick` is shown at once
        parts = probes.draw(
            self.n, spec.probe.samples, picked if self.driver.picks else 1, generator(spec.seed, "probe")
        )
        self.probed = [part.to(device) for part in parts]

    def _pace(self) -> Pace:
        """The budget in what it counts; a method may ask for a budget of samples, keep of those of full training."""
        recipe, budget, samples = self.recipe, self.spec.budget, self.n * self.recipe.epochs
        share = 1.0
        if budget.unit == "epochs" and self.driver.requires.budget == "samples":
            budget, share = Budget(unit="samples"), self.method.task.keep
        steps = math.ceil(len(batches(torch.arange(self.n), recipe.batch_size)) / recipe.accumulate) * recipe.epochs
        return Pace(recipe, self.epochs, budget, share * samples, budget.iterations or steps, self.ledger, self.ranks)

    def train(self, checkpoint_s: float, on_epoch: OnEpoch | None) -> results.Trained:
        """Train to the end of the budget; return metrics, per-epoch records and diagnostics."""
        saved = time.monotonic()
        beat = pulse.Beat(self.folder, self.epochs)
        while self.pace.progress(len(self.records)) < 1 - 1e-9:
            epoch = len(self.records)
            if self.ranks.first:
                beat(epoch)
            with self.ranks.seeded(self.spec.seed, epoch, self.device):
                self.records.append(self._epoch(epoch))
            if on_epoch is not None:
                on_epoch(self.records[-1])
            if self.ranks.first and time.monotonic() - saved >= checkpoint_s:
                store.write(self.folder / "checkpoint.pt", self._save)
                saved = time.monotonic()
        config = {"hash": self.spec.hash} | self.spec.model_dump(mode="json")
        scores = None if self.driver.asked is None else fixed_scores(self.method)
        selections = Selections(self.selections, self.n, config, self.data.positions, self._fixed_weights(), scores)
        metrics = account.metrics(self.records, self.ledger, self.n, self.recipe.epochs, self.device)
        predictions = predict(self.learner, self.test)
        if self.ranks.first:
            selections.write(self.folder / "selections.npz")
            predictions.write(self.folder / "predictions.npz")
        return {
            "kind": self.method.kind(),
            "hyperparameters": self.method.hyperparameters(),
            "samples": {"train": self.n, "validation": len(self.data.validation), "test": len(self.data.test)},
            "metrics": metrics | evaluate_shifted(self.learner, self.shifted),
            "epochs": self.records,
            "diagnostics": account.diagnostics(self.selections, self.data, self.recipe.epochs, predictions),
        }

    def diverged(self) -> str | None:
        """Why the training, which has reached its end, counts as diverged."""
        last, trained = self.records[-1], self.data.train.labels[self.selections[-1]]
        return self.workload.unlearnt(last["accuracy"], self.data.test.labels, last["loss_train"], trained)

    def _fixed_weights(self) -> Tensor | None:
        """The weights of a static method's selection, in the order in which its samples are stored."""
        chosen = self.driver.answer
        if self.method.kind() != "static" or chosen.weights is None:
            return None
        return chosen.weights[chosen.indices.argsort()]

    def _epoch(self, epoch: int) -> EpochRecord:
        """One epoch; returns its record."""
        spec, driver, ledger, device = self.spec, self.driver, self.ledger, self.device
        before = dict(ledger.seconds)
        start = self.pace.progress(epoch)
        end = start + 1 / self.epochs if self.pace.budget.unit == "epochs" else start
        with ledger.time("select"):
            selection = driver.start(epoch, end)
        probe = {}
        if self.ranks.first and spec.probe.every and epoch % spec.probe.every == 0:
            with ledger.time("probe", device):
                probe = self._probe(epoch)
        with ledger.time("train", device):
            self.pace.start(epoch, selection.lr_scale)
            self.loader.start_epoch(generator(spec.seed, "augment", epoch))
            order = self.ranks.checked(driver.order(), epoch)
            parts = batches(order.to(device), self.recipe.batch_size * driver.pool)
            done = train_epoch(self.learner, self.loader, parts, self.pace, driver, self._weights())
            self.ranks.first_buffers(self.learner.network, self.learner.average)
        if driver.needs and selection.refresh is not None and len(selection.refresh):
            with ledger.time("train", device):
                refreshed = measure_all(self.learner, self.loader, selection.refresh, driver.needs)
            done.forward += len(selection.refresh)
            driver.observe(*refreshed)
        with ledger.time("observe"):
            driver.tell()
        if done.steps == 0 and self.pace.budget.unit in ("steps", "samples"):
            raise MethodFailed(
                f"{type(driver.method).__name__} trained on nothing in epoch {epoch}: its budget is never spent"
            )
        ledger.add(done)
        self.selections.append(torch.cat(done.trained).cpu().sort().values if done.trained else torch.arange(0))
        with ledger.time("eval", device):
            accuracy, loss = evaluate(self.learner, self.test)
            validation, _ = evaluate(self.learner, self.validation)
        return {
            "epoch": epoch,
            "accuracy": accuracy,
            "accuracy_validation": validation,
            "loss_test": loss,
            "loss_train": done.loss,
            "samples_forward": done.forward,
            "samples_backward": done.backward,
            "optimizer_steps": done.steps,
            "prune_ratio": ledgers.saving(done.backward, self.n, 1),
            **account.stability(self.selections, self.n),
            **probe,
            **{f"time_{phase}_s": seconds - before.get(phase, 0.0) for phase, seconds in ledger.seconds.items()},
        }

    def _weights(self) -> Tensor | None:
        """The epoch's weights as (n,) on the device."""
        weights = self.driver.weights()
        return None if weights is None else weights.to(self.device)

    def _probe(self, epoch: int) -> dict[str, float]:
        """Compare the gradient of what is trained on with that of all data, on the probed samples."""
        chosen = mask(self.driver.selection.indices, self.n).to(self.device)
        weights = self._weights()
        weights = chosen.float() if weights is None else weights
        rng = generator(self.spec.seed, "probe pick", epoch)

        def of_rows(rows: Tensor) -> tuple[Tensor, int]:
            trained = chosen[rows]
            if not self.driver.picks:
                return weights[rows], int(trained.count_nonzero())
            with torch.no_grad():
                _, values = self.learner.measure(*self.loader.batch(rows, augment=False), self.driver.needs)
            positions, picked = self.driver.pick(rows, values, rng)
            result = torch.zeros(len(rows), device=self.device)
            result[positions] = 1.0 if picked is None else picked
            return result * weights[rows], int(trained[positions].count_nonzero())

        picks = self.driver.picks
        chunk = self.recipe.batch_size * self.driver.pool if picks else PROBE_BATCH
        state = self.method.state_dict() if picks else None
        weighted = self.driver.surrogate()
        surrogate = None if weighted is None else weighted.float().to(self.device)
        found = probes.probe_gradient(self.learner, self.loader, self.probed, of_rows, chunk, surrogate)
        if state is not None:  # `pick` may have changed it
            self.method.load_state_dict(state)
        return found.measures(surrogate is not None)

    def _save(self, path: Path) -> None:
        state = {
            "hash": self.spec.hash,
            "learner": self.learner.state_dict(),
            "driver": self.driver.state_dict(),
            "ledger": self.ledger.state_dict(),
            "records": self.records,
            "selections": self.selections,
        }
        store.save_state(path, state)

    def resume(self, path: Path) -> bool:
        """Continue from a checkpoint, true; any exception if it is damaged, or another run's."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["hash"] != self.spec.hash or len(state["records"]) != len(state["selections"]):
            raise ValueError("the checkpoint of another run")
        self.learner.load_state_dict(state["learner"])
        self.driver.load_state_dict(state["driver"])
        self.ledger.load_state_dict(state["ledger"])
        self.records[:] = state["records"]
        self.selections = to_cpu(state["selections"])
        return True
