"""A grid whose process is killed, or stopped by Ctrl-C: nothing runs on, nothing is lost, the numbers are the same."""

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from dpbench import catalog, store
from dpbench.errors import UsageError
from dpbench.experiments import controls
from dpbench.experiments import grid as grids
from dpbench.experiments.progress import Running
from dpbench.grid_file import load_grid, read_grid
from dpbench.method import Proxy
from dpbench.spec import Recipe, RunSpec
from dpbench.training import account, loading, proxy, runner
from dpbench.training.ledger import Ledger

GRID = """\
datasets: ["synthetic[n=2000,n_test=100,d=64]"]
models: ["mlp[width=16]"]
methods: [full, uniform, orderdp, infobatch, "el2n[at_epoch=8]", selective_backprop]
keep: [0.4]
seeds: 2
recipe: {epochs: 8, batch_size: 16, lr: 0.05}
probe: {every: 4, samples: 64}
"""
CELLS = 12


def results(home: Path) -> dict[str, dict[str, Any]]:
    """The results that are there, by hash."""
    return {path.parent.name: store.read_json(path) for path in home.glob("runs/*/result.json")}


def done(home: Path) -> set[str]:
    return {path.parent.name for path in home.glob("runs/*/done")}


def numbers(result: dict[str, Any]) -> str:
    """What the seed decides."""
    known = {name: value for name, value in result["metrics"].items() if value is not None and math.isfinite(value)}
    metrics = {name: value for name, value in known.items() if "time" not in name and "memory" not in name}
    curves = [[record[name] for name in ("accuracy", "loss_train", "samples_backward")] for record in result["epochs"]]
    return json.dumps([metrics, curves, result["diagnostics"]])


def children(pid: int) -> list[int]:
    """The processes under `pid`, theirs too."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if int(fields["PPid"]) == pid and not fields["State"].startswith("Z"):
            found += [int(fields["Pid"]), *children(int(fields["Pid"]))]
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def start(home: Path) -> subprocess.Popen[str]:
    """`dpbench run` in the background, its output in a file."""
    with (home / "output").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "dpbench.cli", "run", "small.yaml", "--jobs", "2"],
            cwd=home,
            env=os.environ | {"DPBENCH_HOME": str(home)},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=hear_ctrl_c,
        )


def hear_ctrl_c() -> None:
    """A shell starts its background jobs deaf to Ctrl-C, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def small(tracked_home: Path) -> Path:
    """A home with the grid's file in it."""
    (tracked_home / "small.yaml").write_text(GRID)
    return tracked_home


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The numbers of all cells, run one after the other in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPBENCH_HOME", str(tmp_path_factory.mktemp("undisturbed")))
        grid = read_grid(GRID, "small.yaml", "small")
        cells = {spec.hash: spec for spec in grid.runs(loading.fingerprints(grid.datasets, None))}
        found = {key: runner.run(spec, torch.device("cpu")) for key, spec in cells.items()}
        found |= {key: runner.run(spec, torch.device("cpu")) for key, spec in controls.plan(cells, found).items()}
        assert len(found) > CELLS
        return {key: numbers(result) for key, result in found.items()}


def stop_in_the_middle(home: Path, how: signal.Signals, reached: Callable[[], Any]) -> tuple[int, list[int]]:
    """Run the grid until something is reached, then signal its process; return its exit code and its workers."""
    process = start(home)
    wait_until(lambda: reached() or process.poll() is not None)
    workers = children(process.pid)
    process.send_signal(how)
    code = process.wait()
    assert workers
    return code, workers


def test_kill_9_and_the_same_command_again(small: Path, undisturbed: dict[str, str]) -> None:
    _, workers = stop_in_the_middle(small, signal.SIGKILL, lambda: len(done(small)) >= 3)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 30)
    finished = done(small)
    assert 3 <= len(finished) < CELLS
    before = {key: (result["started"], numbers(result)) for key, result in results(small).items() if key in finished}
    files = {path: path.stat().st_mtime_ns for key in finished for path in (small / "runs" / key).iterdir()}
    assert start(small).wait() == 0, (small / "output").read_text()
    after = results(small)
    assert done(small) == after.keys() == undisturbed.keys()
    assert {key: (after[key]["started"], numbers(after[key])) for key in finished} == before
    assert {path: path.stat().st_mtime_ns for path in files} == files, "finished cells are not run again"
    assert {key: numbers(result) for key, result in after.items()} == undisturbed
    assert not list(small.glob("runs/*/checkpoint.pt"))
    assert not list(small.glob("runs/*/.*")), "no half-written files"


def test_kill_9_during_the_proxy(small: Path, undisturbed: dict[str, str]) -> None:
    _, workers = stop_in_the_middle(small, signal.SIGKILL, lambda: list(small.glob("proxy/*/cost-0000.json")))
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 30)
    assert not list(small.glob("proxy/*/cost-0007.json")), "no proxy has come to its end"
    assert not list(small.glob("proxy/*/pass-*.npy")), "nor to what is wanted of it"
    assert start(small).wait() == 0, (small / "output").read_text()
    assert {key: numbers(result) for key, result in results(small).items()} == undisturbed
    assert {len(list(folder.glob("cost-*"))) for folder in small.glob("proxy/*")} == {8}


def test_ctrl_c_stops_cleanly(small: Path, undisturbed: dict[str, str]) -> None:
    code, workers = stop_in_the_middle(small, signal.SIGINT, lambda: len(done(small)) >= 3)
    output = (small / "output").read_text()
    assert code == 130, output
    assert "stopped; finished runs are kept, the same command continues" in output
    assert "Traceback" not in output
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 30)
    finished = results(small)
    assert {key: numbers(result) for key, result in finished.items()}.items() <= undisturbed.items()


# the grid's bookkeeping


def run_here(monkeypatch: pytest.MonkeyPatch, ran: list[Any]) -> None:
    """Let jobs run in this process, and write them down."""

    def run_all(do: Callable[[Any], Any], jobs: list[Any], workers: int, threads: int, timeout_s: float) -> Any:
        for job in jobs:
            ran.append(job.work)
            yield job, do(job)

    monkeypatch.setattr(grids, "run_all", run_all)


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_proxies_go_first_are_merged_and_only_missing_cells_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    run_here(monkeypatch, ran)
    text = GRID.replace("n=2000", "n=100").replace("selective_backprop", "'el2n[at_epoch=3]'")
    grid = read_grid(text, "small.yaml", "small")
    cells = grids.run_grid(grid, quiet(), jobs=1, device=torch.device("cpu"))
    proxies = [work for work in ran if not isinstance(work, RunSpec)]
    assert [len(requests) for requests in proxies] == [2, 2], "one training a seed serves both"
    assert ran[:2] == proxies
    assert [spec.method.startswith("el2n") for spec in ran[2:14]] == [False] * 8 + [True] * 4
    assert {spec.hash for spec in ran[2:]} == cells.keys()
    added = [spec for spec in ran[14:] if isinstance(spec, RunSpec)]
    ran.clear()
    [gone, *_] = [key for key, spec in cells.items() if spec.method == "uniform"]
    shutil.rmtree(store.run_folder(gone))
    assert grids.run_grid(grid, quiet(), device=torch.device("cpu")) == cells
    assert [spec.hash for spec in ran] == [gone]
    read, listed, at_cost, _ = grids.read_manifest("small")
    assert (read, listed | at_cost) == (grid, cells)
    assert at_cost == {spec.hash: spec for spec in added}
    mean = np.mean(
        [r["metrics"]["prune_ratio"] for r in grids.results(cells).values() if r["spec"]["method"] == "infobatch"]
    )
    assert {spec.keep for spec in added} == {round(1 - mean, 2)}, "it forwards what it sends backward"
    assert {(spec.method, spec.seed) for spec in added} == {("uniform_epoch", 0), ("uniform_epoch", 1)}
    assert grids.results(listed | at_cost).keys() == cells.keys()
    assert grids.write_manifest(grid, listed).controls == at_cost, "they stay while their cells run again"
    other = grid.model_copy(update={"recipe": grid.recipe.model_copy(update={"epochs": 3})})
    assert grids.write_manifest(other, {})[:3] == (other, {}, {}), "with another recipe they are no controls"


def test_thirty_static_methods_share_one_proxy_a_seed(
    home: Path, spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = {text: catalog.load_method(text) for text in load_grid("static_quick").methods}
    methods = [text for text, method in loaded.items() if shared(method.requires().proxy)]
    assert len(methods) >= 30
    tiny = spec()
    changes = {"datasets": [tiny.dataset], "models": [tiny.model], "methods": methods, "keep": [0.2, 0.4, 0.6]}
    recipe = Recipe(epochs=2, batch_size=16, lr=0.1)
    grid = load_grid("static_quick").model_copy(update=changes | {"recipe": recipe, "seeds": 3})
    trainings = []
    train = proxy._train
    monkeypatch.setattr(proxy, "_train", lambda wanted, *rest: (trainings.append(wanted[0].hash), train(wanted, *rest)))
    # the proxy's part of a run: all that it takes from the record, without the training that follows
    monkeypatch.setattr(runner, "run", lambda spec, device, root: select(spec, device))
    run_here(monkeypatch, [])
    cells = grids.run_grid(grid, quiet(), 1)
    assert len(cells) == 3 * 3 * len(methods)
    assert len(trainings) == len(set(trainings)) == 3


def shared(proxy: Proxy | None) -> bool:
    """Whether a proxy is the plain one that others ask for too: one run on all of the training samples."""
    return proxy is not None and (proxy.seeds, proxy.share, proxy.data) == (1, 1.0, "train")


def select(spec: RunSpec, device: torch.device) -> dict[str, Any]:
    data = loading.load_data(spec.dataset, None)
    method = runner.prepare(spec, data, device, Ledger()).method
    chosen = method.select(0).indices
    assert len(chosen.unique()) == len(chosen) == method.task.k
    return {"status": "FINISHED", "hash": spec.hash}


def test_a_run_that_diverges_is_told_and_is_done(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    run_here(monkeypatch, ran)
    grid = read_grid(GRID.replace("n=2000", "n=100").replace("lr: 0.05", "lr: 1e30"), "small.yaml", "small")
    grid = grid.model_copy(update={"methods": ["full"], "seeds": 1})
    told = Console(file=io.StringIO(), width=300)
    for _ in range(2):
        cells = grids.run_grid(grid, told, jobs=1, device=torch.device("cpu"))
        assert len(ran) == 1, "the second time nothing is left to do"
    assert [result["status"] for result in grids.results(cells).values()] == ["DIVERGED"]
    text = told.file.getvalue()  # type: ignore[attr-defined]
    assert "DIVERGED full keep=1 seed=0: the training loss became" in text
    assert "small, 1 diverged" in text


def test_a_method_stops_after_the_seed_that_its_code_has_failed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, int]] = []
    bad: dict[str, Any] = {"broken": {"reason": "B.select raised X: x", "repeats": True}, "unlucky": {"reason": "disk"}}
    bad["some"] = {"reason": "S.select raised Y: y", "repeats": True}

    def run(spec: RunSpec, *_: Any) -> dict[str, Any]:
        tried.append((spec.method, spec.seed))
        fails = spec.method in bad and (spec.method != "some" or spec.seed == 1)
        return {"hash": spec.hash, "status": "FAILED", **bad[spec.method]} if fails else {**done, "hash": spec.hash}

    done = {"status": "FINISHED"}
    monkeypatch.setattr(grids, "run_all", lambda do, jobs, *_: ((job, run(job.work)) for job in jobs))
    monkeypatch.setattr(RunSpec, "hash", property(lambda spec: f"{len(spec.method):08x}{spec.seed:08x}"))
    monkeypatch.setattr(account, "blank", lambda spec: {"hash": spec.hash})
    monkeypatch.setattr(proxy, "requests", lambda spec: [])
    grid = read_grid(GRID, "small.yaml", "small").model_copy(update={"seeds": 3})
    specs = [spec for spec in grid.runs(dict.fromkeys(grid.datasets, "")) if spec.method == "full"]
    cells = [spec.model_copy(update={"method": name}) for name in ["broken", "unlucky", "some"] for spec in specs]
    console = Console(file=io.StringIO(), width=300)
    for _ in range(2):
        progress = Running("g", console)
        grids._run(
            {str(i): spec for i, spec in enumerate(cells)},
            progress,
            1,
            1,
            torch.device("cpu"),
            None,
            9.0,
            grids.run_all,
        )
        progress.stop()
        assert tried == [("broken", 0), *((name, seed) for name in ("unlucky", "some") for seed in range(3))]
        tried.clear()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("not run: seed 0 failed by its own code: B.select raised X: x") == 2, "once a command"
    assert "g, 7 failed" in text
    left_out = store.read_json(store.run_folder(cells[2].hash) / "result.json")
    assert left_out is not None
    assert (left_out["status"], left_out["reason"][:8]) == ("FAILED", "not run:")


def test_a_grid_that_was_never_run(home: Path) -> None:
    with pytest.raises(UsageError, match=r"no grid 'small' was run under .*; try: dpbench run small"):
        grids.read_manifest("small")
    grid = read_grid(GRID, "other.yaml", "other")
    grids.write_manifest(grid, {spec.hash: spec for spec in grid.runs()})
    with pytest.raises(UsageError, match="grids that were: other"):
        grids.read_manifest("small")
    with pytest.raises(UsageError, match=r"did you mean other\?"):
        grids.read_manifest("othr")
    with pytest.raises(UsageError, match="try: dpbench run figure4"):
        grids.read_manifest("figure4")


def test_missing_files_are_told_before_any_work(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    run_here(monkeypatch, ran)
    text = GRID.replace('"synthetic[n=2000,n_test=100,d=64]"', "digits, fashion_mnist")
    with pytest.raises(UsageError, match="no train-images"):
        grids.run_grid(read_grid(text, "g.yaml", "g"), quiet(), data_root=tmp_path)
    assert ran == []
    assert not (home / "grids").exists()


# the manifest


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"grid": 1, "cells": 2}',
        b'{"grid": {"name": "bad"}, "cells": {}}',
    ],
)
def test_a_garbled_manifest_is_set_aside(home: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    grid = read_grid(GRID, "good.yaml", "good")
    cells = {spec.hash: spec for spec in grid.runs()}
    grids.write_manifest(grid, cells)
    bad = grids.manifest_path("bad")
    for act in (grids.last, lambda: grids.read_manifest("bad")):
        bad.write_bytes(content)
        os.utime(bad, (2**32, 2**32))
        if act is grids.last:
            assert act() == "good", "the newest that can be read"
        else:
            with pytest.raises(UsageError, match=r"no grid 'bad' was run under .*; grids that were: good"):
                act()
    bad.write_bytes(content)
    grids.write_manifest(grid.model_copy(update={"name": "bad"}), cells)
    assert grids.read_manifest("bad").cells == cells
    told = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" ")[2] for line in told] == [f"bad.json.bad-{number}" for number in (1, 2, 3)]


def test_cells_of_other_versions_are_left_out(home: Path) -> None:
    grid = read_grid(GRID, "g.yaml", "g")
    cells = {spec.hash: spec for spec in grid.runs()}
    grids.write_manifest(grid, cells)
    content = store.read_json(grids.manifest_path("g"))
    [first, *others] = content["cells"]
    content["cells"][first] = {"renamed": True}
    store.write_json(grids.manifest_path("g"), content)
    assert list(grids.read_manifest("g").cells) == others
    store.write_json(grids.manifest_path("g"), content | {"cells": {first: {}}})
    with pytest.raises(UsageError, match="the grid 'g' was run by another version of dpbench"):
        grids.read_manifest("g")


def test_several_commands_on_one_grid_lose_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = read_grid(GRID, "g.yaml", "g")
    cells = {spec.hash: spec for spec in grid.runs()}
    read = store.read_json
    monkeypatch.setattr(store, "read_json", lambda *args: (read(*args), time.sleep(0.02))[0])  # let others in between
    parts = [{key: cells[key]} for key in cells]
    threads = [threading.Thread(target=grids.write_manifest, args=(grid, part)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grids.read_manifest("g").cells == cells


def test_controls_are_of_all_that_is_listed_by_then(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = read_grid(GRID, "g.yaml", "g")
    [first, second, *_] = ((spec.hash, spec) for spec in grid.runs())
    grids.write_manifest(grid, dict([first]))
    grids.write_manifest(grid, dict([second]))
    planned: list[Any] = []
    monkeypatch.setattr(controls, "plan", lambda cells, results: planned.append(set(cells)) or {})
    grids.list_controls("g", grids.all_controls)
    assert planned == [{first[0], second[0]}]
    assert set(grids.read_manifest("g").cells) == {first[0], second[0]}


def test_a_cell_of_a_changed_recipe_fits_its_grid() -> None:
    grid = read_grid(
        "datasets: [digits]\nmodels: [cnn, mlp]\nmethods: [full]\nkeep: [0.5]\nseeds: 1\n"
        "recipe: {epochs: 2, batch_size: 16, lr: 0.1}\nrecipe_by_model: {mlp: {lr: 0.3}}\n",
        "g.yaml",
        "g",
    )
    cnn, mlp = grid.runs()
    assert (cnn.recipe.lr, mlp.recipe.lr) == (0.1, 0.3)
    assert all(grids._fits(spec, grid, {}) for spec in (cnn, mlp))
    stale = mlp.model_copy(update={"recipe": cnn.recipe})
    assert not grids._fits(stale, grid, {}), "made before the change"
