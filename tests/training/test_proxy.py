"""The proxy record: made once, shared, complete or not there, replayed as it was, and its cost booked."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import Tensor

from dpbench import optim, store
from dpbench.errors import RunFailed
from dpbench.images import ImageLoader
from dpbench.rng import derive, generator
from dpbench.spec import Recipe, RunSpec
from dpbench.training import loading, proxy, runner
from dpbench.training.ledger import Epoch, Ledger
from dpbench.training.pace import Pace
from dpbench.training.rows import batches, order
from dpbench.training.train import Learner, Recorder, measure_all, train_epoch
from dpbench.training.workload import workload

Spec = Callable[..., RunSpec]
CPU = torch.device("cpu")
N, HELD_OUT = 90, 10


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs of each proxy training that is made."""
    made: list[int] = []
    train = proxy._train

    def count(wanted: list[proxy.Request], *rest: Any) -> None:
        made.append(max(request.epochs[-1] for request in wanted) + 1)
        train(wanted, *rest)

    monkeypatch.setattr(proxy, "_train", count)
    return made


def record(spec: RunSpec) -> list[proxy.Request]:
    """Make what a run asks for."""
    wanted = proxy.requests(spec)
    for request in wanted:
        proxy.record([request], loading.load_data(spec.dataset, None), CPU)
    return wanted


class Slowing(Pace):
    """The recipe's schedule over its epochs."""

    def __init__(self, recipe: Recipe, epoch: int) -> None:
        self.recipe, self.epoch = recipe, epoch

    def at(self, share: float, done: Epoch) -> optim.Step | None:
        return optim.schedule(self.recipe, (self.epoch + share) / self.recipe.epochs)


def reference(
    spec: RunSpec, run: int, epochs: int, on: str = "train", rows: Tensor | None = None
) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """The proxy training by hand: for each epoch the signals of its steps and of a pass after it, in data order."""
    data, seed, names = (
        loading.load_data(spec.dataset, None),
        derive(spec.seed, "proxy", run),
        frozenset({"loss", "margin"}),
    )
    learner = Learner(spec.model, spec.recipe, workload(data, spec.recipe), data.shape, seed, CPU)
    loader = ImageLoader(data.train if on == "train" else data.validation, data.train.images, CPU)
    recorded, n = ImageLoader(data.train, data.train.images, CPU), len(loader)
    found = []
    for epoch in range(epochs):
        loader.start_epoch(generator(seed, "augment", epoch))
        trained = torch.arange(n) if rows is None else rows
        parts = batches(order(trained, n, generator(seed, "order", epoch)), spec.recipe.batch_size)

        steps, guide = {name: torch.empty(n) for name in names}, Recorder(names)
        train_epoch(learner, loader, parts, Slowing(spec.recipe, epoch), guide)
        for seen, values in guide.passed:
            for name in names:
                steps[name][seen] = values[name]
        found.append((steps, measure_all(learner, recorded, torch.arange(len(recorded)), names)[1]))
    return found


@pytest.fixture
def replayed(home: Path, spec: Spec) -> Callable[..., list[tuple[int, int, Tensor, Tensor]]]:
    """What a method saw: (run, epoch, indices, values)."""

    def see(**params: Any) -> list[tuple[int, int, Tensor, Tensor]]:
        text = ",".join(f"{key}={value}" for key, value in params.items())
        inner = runner._Run(spec(f"made:Replayed[{text}]"), CPU, None, home)
        return inner.method.shown

    return see


# what is replayed


@pytest.mark.parametrize(("at", "epochs"), [("end", [2]), ("epochs", [0, 1, 2]), ("steps", [0, 1, 2])])
def test_what_was_seen_is_replayed(spec: Spec, replayed: Any, at: str, epochs: list[int]) -> None:
    shown = replayed(at=at, upto=3)
    expected = reference(spec(), 0, 3)
    assert [(run, epoch) for run, epoch, _, _ in shown] == [(0, epoch) for epoch in epochs]
    for _, epoch, indices, values in shown:
        assert indices.tolist() == list(range(N))
        steps, after = expected[epoch]
        assert torch.equal(values, (steps if at == "steps" else after)["loss"])


def test_a_proxy_on_held_out_data_trains_there_and_measures_the_training_samples(spec: Spec, replayed: Any) -> None:
    shown = replayed(at="end", upto=2, data="holdout")
    assert torch.equal(shown[0][3], reference(spec(), 0, 2, on="validation")[1][1]["loss"])
    assert len(shown[0][3]) == N
    assert not torch.equal(shown[0][3], replayed(at="end", upto=2)[0][3])


def test_a_proxy_on_a_share_trains_on_its_members_and_measures_all(spec: Spec, replayed: Any) -> None:
    members = [values.nonzero().squeeze(1) for *_, values in replayed(signal="member", share=0.6, runs=2)]
    assert [len(rows) for rows in members] == [54, 54]
    assert not torch.equal(*members)
    for (run, _, _, values), rows in zip(replayed(share=0.6, runs=2), members, strict=True):
        assert torch.equal(values, reference(spec(), run, 2, rows=rows)[1][1]["loss"])
    assert replayed(signal="member")[0][3].eq(1).all()
    assert replayed(signal="member", data="holdout")[0][3].eq(0).all()


def test_proxy_runs_are_independent(spec: Spec, replayed: Any) -> None:
    shown = replayed(runs=2)
    assert [run for run, *_ in shown] == [0, 1]
    for run, _, _, values in shown:
        assert torch.equal(values, reference(spec(), run, 2)[1][1]["loss"])
    assert not torch.equal(shown[0][3], shown[1][3])


def test_no_more_epochs_than_the_recipe_has(replayed: Any) -> None:
    assert [epoch for _, epoch, _, _ in replayed(at="epochs", upto=100)] == [0, 1, 2, 3]


def test_wide_signals_are_recorded_too(replayed: Any) -> None:
    assert replayed(signal="embedding")[0][3].shape == (N, 8)
    assert replayed(signal="logits", at="steps")[0][3].shape == (N, 4)


# made once


def test_a_record_is_made_once_and_shared(home: Path, spec: Spec, run: Any, trainings: list[int]) -> None:
    results = [
        run(spec("el2n[at_epoch=2]", keep=0.3)),
        run(spec("el2n[at_epoch=2]", keep=0.5)),
        run(spec("made:Replayed[signal=error_norm]", keep=0.7)),
    ]
    assert trainings == [2]
    assert {result["metrics"]["samples_proxy"] for result in results} == {2 * N}, "each pays as if it were alone"


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"lr": 0.2}, {"model": "mlp[width=9,depth=1]"}, {"dataset": "synthetic[n=100,classes=4]"}],
    ids=str,
)
def test_another_training_has_its_own_record(home: Path, spec: Spec, trainings: list[int], change: Any) -> None:
    record(spec("el2n[at_epoch=1]"))
    record(spec("el2n[at_epoch=1]", **change))
    assert trainings == [1, 1]


def test_one_training_serves_the_union_of_requests(home: Path, spec: Spec, trainings: list[int]) -> None:
    texts = ["el2n[at_epoch=2]", "made:Replayed[at=steps,upto=3]", "made:Replayed[at=epochs,upto=1,signal=margin]"]
    wanted = [request for text in texts for request in proxy.requests(spec(text))]
    assert len({request.hash for request in wanted}) == 1
    proxy.record(wanted, loading.load_data(wanted[0].dataset, None), CPU)
    assert trainings == [3]
    assert not any(request.missing() for request in wanted)
    expected = reference(spec(), 0, 3)
    assert torch.equal(next(proxy.replay(wanted[2]))["margin"], expected[0][1]["margin"])
    for signals, (steps, _) in zip(proxy.replay(wanted[1]), expected, strict=True):
        assert torch.equal(signals["loss"], steps["loss"])


def test_what_is_missing_is_recorded_and_the_rest_stays_equal(home: Path, spec: Spec, trainings: list[int]) -> None:
    [first] = record(spec("made:Replayed[upto=2,at=epochs]"))
    before = [signals["loss"].clone() for signals in proxy.replay(first)]
    [other] = record(spec("made:Replayed[upto=2,at=epochs,signal=entropy]"))
    [longer] = record(spec("made:Replayed[upto=3,at=epochs]"))
    record(spec("made:Replayed[upto=1,at=epochs]"))
    assert trainings == [2, 2, 3], "what is there is not made again"
    assert first.folder == other.folder == longer.folder
    for signals, values in zip(proxy.replay(first), before, strict=True):
        assert torch.equal(signals["loss"], values)
    assert torch.equal([*proxy.replay(longer)][1]["loss"], before[1]), "a shorter training is a prefix of a longer one"


def test_a_crash_leaves_no_half_file_and_is_made_good(home: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = spec("made:Replayed[upto=3,at=epochs]")
    save, saved = np.save, []

    def crash(stream: Any, values: np.ndarray) -> None:
        stream.write(b"half")
        if len(saved) == 1:
            raise KeyboardInterrupt
        stream.seek(0)
        save(stream, values)
        saved.append(stream)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", crash)
        with pytest.raises(KeyboardInterrupt):
            record(wanted)
    [request] = proxy.requests(wanted)
    names = ["cost-0000.json", "cost-0001.json", "lock", "pass-0000-loss.npy", "sums-0000.json", "training.json"]
    assert sorted(path.name for path in request.folder.iterdir()) == names
    assert request.missing()
    (request.folder / ".123.pass-0001-loss.npy").write_bytes(b"left by a killed process")
    record(wanted)
    assert not request.missing()
    expected = reference(spec(), 0, 3)
    for signals, (_, after) in zip(proxy.replay(request), expected, strict=True):
        assert torch.equal(signals["loss"], after["loss"])


def test_kill_9_leaves_a_usable_record(home: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = spec("aum[proxy_epochs=150]", epochs=150)
    [request] = proxy.requests(wanted)
    code = (
        "import sys, torch; from dpbench.training import loading, proxy, runner; from dpbench.spec import RunSpec\n"
        "wanted = RunSpec.model_validate_json(sys.argv[1])\n"
        "proxy.record(proxy.requests(wanted), loading.load_data(wanted.dataset, None), torch.device('cpu'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, wanted.model_dump_json()])
    while not (request.folder / "cost-0010.json").is_file():
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert request.missing(), "it was killed in the middle"
    left = [np.load(path) for path in request.folder.glob("[!.]*.npy")]
    assert len(left) >= 10
    assert {values.shape for values in left} == {(N,)}
    record(wanted)
    mine = [signals["margin"].clone() for signals in proxy.replay(request)]
    monkeypatch.setenv("DPBENCH_HOME", str(home.with_name("undisturbed")))
    record(wanted)
    for values, signals in zip(mine, proxy.replay(request), strict=True):
        assert torch.equal(values, signals["margin"])


def noise(values: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).random(values.shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("pass-0001-loss.npy", noise),
        ("pass-0001-loss.npy", lambda values: np.full_like(values, np.nan)),
        ("pass-0000-loss.npy", lambda values: values[:10]),
        ("cost-0000.json", b'{"backward": 1, "train_s": 1, "pass": {"s": 1, "forward": 1, "backward": 1}}'),
        ("cost-0001.json", b"[]"),
        ("sums-0001.json", b"{null"),
        ("sums-0000.json", b'{"pass-0000-loss.npy": [0]}'),
        ("sums-0000.json", None),
        ("cost-0001.json", None),
    ],
)
def test_a_damaged_record_is_made_again(
    home: Path, spec: Spec, trainings: list[int], capsys: pytest.CaptureFixture[str], name: str, damage: Any
) -> None:
    [request] = record(spec("made:Replayed[upto=2,at=epochs]"))
    before = {path.name: path.read_bytes() for path in request.folder.glob("pass-*")}
    path = request.folder / name
    if damage is None:
        path.unlink()
    elif isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        np.save(path, damage(np.load(path)))
    ledger = Ledger()
    passes = proxy.obtain(request, loading.load_data(request.dataset, None), CPU, ledger)
    assert trainings == [2, 2]
    assert ledger.proxy_backward == 2 * N
    for signals, (_, after) in zip(passes, reference(spec(), 0, 2), strict=True):
        assert torch.equal(signals["loss"], after["loss"])
    assert {path.name: path.read_bytes() for path in request.folder.glob("pass-*.npy")} == before
    told = capsys.readouterr().err.splitlines()
    assert [f"{name}.bad-1" in line for line in told] == [True] * (damage is not None)


def test_records_are_listed_with_their_trainings_and_sizes(home: Path, spec: Spec) -> None:
    assert proxy.records() == []
    [small] = record(spec("made:Replayed[upto=2,at=epochs]"))
    [large] = record(spec("made:Replayed[signal=embedding]", seed=5))
    found = proxy.records()
    assert [entry.folder for entry in found] == [large.folder, small.folder]
    assert [(entry.epochs, entry.signals) for entry in found] == [(2, ("embedding",)), (2, ("loss",))]
    assert found[0].training == json.loads(json.dumps(large.training))
    assert found[0].training["seed"] == 5
    assert found[0].size > N * 8 * 4
    assert found[1].size > 2 * N * 4


def test_strange_files_in_a_record_end_in_one_line(home: Path, spec: Spec) -> None:
    [request] = record(spec("made:Replayed"))
    (request.folder / "x.npy").touch()
    (request.folder / "y.npy").mkdir()
    (request.folder / "training.json").write_text("[[")
    [entry] = proxy.records()
    assert (entry.signals, entry.training) == (("loss",), {})
    with pytest.raises(RunFailed, match=r"y\.npy could not be written"):
        proxy.remove(entry)


def test_a_record_in_use_is_not_removed(home: Path, spec: Spec, trainings: list[int]) -> None:
    [request] = record(spec("made:Replayed"))
    [entry] = proxy.records()
    with FileLock(request.folder / "lock"):
        assert not proxy.remove(entry)
    assert not request.missing()
    assert proxy.remove(entry)
    assert proxy.records() == []
    record(spec("made:Replayed"))
    assert trainings == [2, 2]


# the cost


@pytest.mark.parametrize(
    ("params", "backward", "passes"),
    [("upto=2", 2 * N, 1), ("upto=2,at=epochs", 2 * N, 2), ("upto=2,at=steps", 2 * N, 0),
     ("upto=3,data=holdout", 3 * HELD_OUT, 1), ("upto=2,share=0.6", 2 * 54, 1), ("upto=2,runs=2", 4 * N, 2)],
)  # fmt: skip
def test_the_cost_is_that_of_a_record_of_ones_own(
    home: Path, spec: Spec, params: str, backward: int, passes: int
) -> None:
    record(spec("made:Replayed[upto=4,at=epochs]"))
    ledger = Ledger()
    for request in record(spec(f"made:Replayed[{params}]")):
        proxy.book(request, ledger)
    assert ledger.proxy_backward == backward
    assert ledger.proxy_forward == backward + passes * N
    assert ledger.seconds["proxy"] > 0
    assert ledger.on_cpu > 0
    assert (ledger.forward, ledger.backward, ledger.steps) == (0, 0, 0)


def test_a_record_of_before_does_not_know_whether_the_machine_was_shared(home: Path, spec: Spec) -> None:
    [request] = record(spec("made:Replayed[upto=1]"))
    file = request.folder / "cost-0000.json"
    cost = json.loads(file.read_text())
    del cost["on_cpu_s"]
    file.write_text(json.dumps(cost))
    ledger = Ledger()
    proxy.book(request, ledger)
    assert ledger.seconds["proxy"] > 0
    assert np.isnan(ledger.on_cpu)


@pytest.mark.parametrize("apart", [True, False])
def test_a_costly_signal_is_booked_to_who_wants_it(home: Path, spec: Spec, apart: bool) -> None:
    plain, costly = proxy.requests(spec("made:Replayed")) + proxy.requests(spec("made:Replayed[signal=deepfool]"))
    data = loading.load_data(plain.dataset, None)
    for wanted in [[plain], [costly]] if apart else [[plain, costly]]:
        proxy.record(wanted, data, CPU)
    last = store.read_json(plain.folder / "cost-0001.json")
    trained = store.read_json(plain.folder / "cost-0000.json")["train_s"] + last["train_s"]
    for request, own in ((plain, last["pass"]), (costly, last["deepfool"])):
        ledger = Ledger()
        proxy.book(request, ledger)
        assert ledger.seconds["proxy"] == pytest.approx(trained + own["s"])
        assert ledger.proxy_forward == 2 * N + own["forward"]
        assert ledger.proxy_backward == 2 * N + own["backward"]
        assert own["s"] > 0
    assert (last["pass"]["forward"], last["pass"]["backward"]) == (N, 0)
    rounds = last["deepfool"]["forward"] - N  # samples, over rounds, after the pass's own forward
    assert rounds >= 2 * N, "a step and a look at what it did"
    assert last["deepfool"]["backward"] == data.classes * rounds


def test_the_learning_rate_is_that_of_the_last_step(spec: Spec, replayed: Any) -> None:
    steps = -(-N // spec().recipe.batch_size)
    for _, epoch, _, rates in replayed(at="epochs", upto=3, signal="learning_rate"):
        last = optim.schedule(spec().recipe, (epoch + (steps - 1) / steps) / spec().recipe.epochs).learning_rate
        assert rates.tolist() == pytest.approx([last] * N)
