"""Bundles: what is written can be merged and verified; what was altered is named; what is malicious is refused."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from dpbench import catalog, npz, source, store
from dpbench.analysis import board as boards
from dpbench.cli import bundle as commands
from dpbench.errors import UsageError
from dpbench.experiments import bundle, gang, history, verify
from dpbench.experiments import grid as grids
from dpbench.experiments.merge import merge
from dpbench.predictions import ARRAYS
from dpbench.spec import Grid, Recipe, RunSpec
from dpbench.training import results

Members = dict[str, bytes]
QUIET = Console(file=io.StringIO())
GRID = Grid(
    name="tiny",
    datasets=["synthetic[n=100,n_test=50,d=16,classes=4]"],
    models=["mlp[width=8,depth=1]"],
    methods=["full", "uniform"],
    keep=[0.5],
    seeds=2,
    recipe=Recipe(epochs=2, batch_size=16, lr=0.1),
)


def here(work: Callable[[Any], Any], jobs: Iterator[Any], *_: Any) -> Iterator[tuple[Any, Any]]:
    """Do the jobs in this process."""
    for job in jobs:
        yield job, work(job)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the grid's runs."""
    folder = tmp_path_factory.mktemp("finished")
    with store.moved_home(folder):
        grids.run_grid(GRID, QUIET, device=torch.device("cpu"), executor=here)
    return folder


@pytest.fixture(scope="module")
def written(finished: Path) -> Path:
    """The grid's bundle."""
    with store.moved_home(finished):
        told = bundle.write("tiny", finished / "tiny.zip")
    assert vars(told) == {"runs": 4, "missing": 0, "without_source": []}
    return finished / "tiny.zip"


@pytest.fixture
def file(written: Path, home: Path, tmp_path: Path) -> Path:
    """A copy of the bundle; $DPBENCH_HOME is empty."""
    return Path(shutil.copy(written, tmp_path))


def members(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path: Path, content: Members, listing: bool = True) -> None:
    """Write a bundle of this content, with a listing that fits unless the old one shall stay."""
    if listing:
        listed = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in content.items()
            if name != "MANIFEST.json"
        }
        content = content | {"MANIFEST.json": json.dumps({"version": 1, "members": listed}).encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def check(path: Path, cells: int = 4) -> verify.Verified:
    return verify.verify(path, cells, 0, QUIET, executor=here)


def result_of(content: Members, seed: int, method: str = "full") -> str:
    """The member with the result of a method's seed."""
    found = [name for name, data in content.items() if name.endswith("result.json")
             and (spec := json.loads(data)["spec"])["method"] == method and spec["seed"] == seed]  # fmt: skip
    return found[0]


def alter(content: Members, name: str, change: Callable[[Any], Any]) -> None:
    value = json.loads(content[name])
    change(value)
    content[name] = json.dumps(value).encode()


def test_runs_are_made_again_with_as_many_threads_and_devices(spec: Callable[..., RunSpec]) -> None:
    alone, wide, strange, together = (spec(seed=seed, devices=1 + (seed == 3)) for seed in range(4))
    cells = {str(one.seed): one for one in (alone, wide, strange, together)}
    threads = {"0": 1, "1": 4, "2": 10**9, "3": 1}
    results: Any = {key: {"environment": {"threads": count}} for key, count in threads.items()}
    found = {how: sorted(part) for how, part in verify._alike(cells, results).items()}
    assert found == {(1, 1): ["0"], (4, 1): ["1"], (verify.THREADS, 1): ["2"], (1, 2): ["3"]}


def test_no_more_processes_are_started_than_the_machine_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gang, "cores", lambda: 32)
    assert verify._most_devices() == 32
    monkeypatch.setattr(gang, "cores", lambda: 1)
    assert verify._most_devices() == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert verify._most_devices() == 2


def test_merging_the_bundle_after_deleting_all_runs_gives_the_same_board(
    file: Path, finished: Path, home: Path
) -> None:
    shutil.copytree(finished, home)
    before = boards.load("tiny")
    shutil.rmtree(home)
    history.add("submitted", grid="tiny", file=str(file), sha256=history.sha256(file))  # as `dpbench submit` does
    assert vars(merge([file])) == {"added": 4, "completed": 0, "duplicates": 0, "conflicts": []}
    after = boards.load("tiny")
    assert after.table.equals(before.table)
    assert boards.pack(after) == boards.pack(before)
    assert all(results.read_predictions(result) for result in after.results.values())
    assert merge([file]).duplicates == 4
    again = file.with_name("again.zip")
    bundle.write("tiny", again)
    assert members(again) == members(file)


def test_a_bundle_has_the_source_of_all(file: Path) -> None:
    with bundle.opened(file) as opened:
        named = {key for key, _ in opened.sources()}
        assert named == {"methods/full", "methods/uniform", "datasets/synthetic", "models/mlp"}
        assert all(opened.digest_of(members) == digest for (_, digest), members in opened.sources().items())


def test_the_digest_of_given_files_is_that_of_the_module() -> None:
    module = catalog.module_of("methods", "el2n")
    contents = [(path.name, path.read_bytes()) for path in source.files(module)]
    assert source.digest_of(contents) == source.digest(module)
    assert source.digest_of([(name, content + b"\nx = 1") for name, content in contents]) != source.digest(module)


def test_an_unaltered_bundle_agrees_exactly_and_leaves_nothing_here(file: Path) -> None:
    found = check(file)
    assert found.faults == []
    assert [(one.agrees, one.why) for one in found.verdicts] == [(True, "exactly")] * 4
    assert not store.home().exists()
    with bundle.opened(file) as opened:
        hashes = {key: history.digest(opened.run(key)) for key in opened.runs()}
    assert found.results == {"verified": hashes, "contradicted": {}}


def test_the_log_tells_which_results_were_verified(file: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "run_all", here)
    commands.verify(file, cells=1, seed=0)
    [entry] = history.entries()
    with bundle.opened(file) as opened:
        [drawn] = entry["runs"]
        assert len(entry["verified"]) == 2, "both seeds of the row"
        assert entry["verified"][drawn] == history.digest(opened.run(drawn))
    merge([file])
    assert sorted(history.origins(entry["verified"]).values()) == ["verified"] * 2
    assert set(boards.load("tiny").table["status"]) == {"verified", "self-reported"}


def test_an_altered_number_names_the_cell(file: Path) -> None:
    content = members(file)
    name = result_of(content, 1)
    alter(content, name, lambda value: value["metrics"].update(loss_test=0.5))
    rewrite(file, content, listing=False)
    found = check(file, 0)
    [told] = found.faults
    assert told.startswith(f"full keep=1 seed=1 ({name[5:21]}): ")
    assert "not the file whose sha256 the bundle lists" in told or "bytes" in told
    assert found.sound == 3


def test_what_was_altered_with_its_sha256_is_found_by_running_again(file: Path, tmp_path: Path) -> None:
    content = members(file)
    changes: dict[tuple[str, int], Callable[[Any], Any]] = {
        ("full", 0): lambda value: value["metrics"].update(loss_test=0.5),
        ("full", 1): lambda value: [
            value["environment"].update(torch="0.4"),
            value["epochs"][1].update(loss_train=0.5),
        ],
        ("uniform", 0): lambda value: value.update(status="DIVERGED", reason="it did"),
    }
    for (method, seed), change in changes.items():
        alter(content, result_of(content, seed, method), change)
    name = result_of(content, 1, "uniform").replace("result.json", "predictions.npz")
    arrays = npz.read(content[name], ARRAYS)
    losses = arrays["losses"].copy()
    losses[3] += 1
    npz.write(tmp_path / "other.npz", arrays | {"losses": losses})
    content[name] = (tmp_path / "other.npz").read_bytes()
    rewrite(file, content)
    found = check(file)
    assert found.faults == []
    assert {one.agrees for one in found.verdicts} == {False}
    why = {one.title.partition(" (")[0]: one.why for one in found.verdicts}
    assert why["full keep=1 seed=0"].startswith("metrics.loss_test 0.5 in the bundle, ")
    assert why["full keep=1 seed=1"].startswith("epochs.1.loss_train 0.5 in the bundle, ")
    assert "made with torch 0.4 there" in why["full keep=1 seed=1"]
    assert why["uniform keep=0.5 seed=0"] == "status DIVERGED in the bundle, FINISHED here"
    assert why["uniform keep=0.5 seed=1"] == "predictions of 1 test samples"


def test_a_measure_of_files_that_are_not_here_is_left_out_and_told(file: Path) -> None:
    content = members(file)
    alter(content, result_of(content, 0), lambda value: value["metrics"].update(accuracy_cifar_c=0.5))
    alter(content, result_of(content, 1), lambda value: value["metrics"].update(accuracy_shifted=0.5))
    rewrite(file, content)
    found = {one.title.partition(" (")[0]: one for one in check(file).verdicts}
    assert found["full keep=1 seed=0"].agrees
    assert found["full keep=1 seed=0"].why == "exactly, but for accuracy_cifar_c, which only one of the two has"
    assert found["full keep=1 seed=1"].agrees is False


def test_on_a_gpu_an_interval_is_asked(file: Path) -> None:
    content = members(file)
    for seed, accuracy in ((0, None), (1, 0.0)):

        def change(value: Any, accuracy: float | None = accuracy) -> None:
            value["environment"]["device"] = "a GPU"
            value["metrics"]["accuracy"] = value["metrics"]["accuracy"] if accuracy is None else accuracy

        name = result_of(content, seed)
        alter(content, name, change)
        if accuracy is not None:
            del content[name.replace("result.json", "predictions.npz")]
    rewrite(file, content)
    found = {one.title.partition(" (")[0]: one for one in check(file).verdicts}
    assert "within an interval, not exactly" in found["full keep=1 seed=0"].why
    assert found["full keep=1 seed=0"].agrees
    assert found["uniform keep=0.5 seed=0"].why == "exactly"


def test_other_source_is_named_and_not_run(file: Path) -> None:
    content = members(file)
    [name] = [name for name in content if name.startswith("source/methods/uniform/") and name.endswith("uniform.py")]
    content[name] += b"\nraise SystemExit('run')\n"
    rewrite(file, content)
    found = check(file)
    assert found.faults == ["source of methods/uniform: the bundle's code is not that which its runs were made by"]
    why = {one.title.split()[0]: (one.agrees, one.why) for one in found.verdicts}
    assert why["full"] == (True, "exactly")
    assert why["uniform"] == (None, "the bundle gives another source of methods/uniform than made it")


def test_a_run_of_other_code_than_is_installed_is_named_and_not_run(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpbench import spec

    real = spec.source_digests
    changed = lambda *names: {key: "0" * 16 if key == "methods/full" else one for key, one in real(*names).items()}  # noqa: E731
    monkeypatch.setattr(spec, "source_digests", changed)
    verdicts = {one.title.split()[0]: one for one in check(file).verdicts}
    assert verdicts["full"].agrees is None
    assert verdicts["full"].why.startswith("the source of methods/full differs from what is installed here")
    assert verdicts["uniform"].agrees


def test_a_cell_that_names_a_file_is_not_imported() -> None:
    spec = GRID.runs()[0].model_copy(update={"method": "/tmp/evil.py:Method"})
    assert "names a file of code" in verify._foreign(spec, {}, set())  # type: ignore[typeddict-item]


def member(name: str, mode: int = stat.S_IFREG) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (mode | 0o644) << 16
    return info


RUN = f"runs/{'0' * 16}"


@pytest.mark.parametrize(
    ("info", "data", "reason"),
    [
        (member("../evil"), b"", "leads out of the bundle"),
        (member("/etc/passwd"), b"", "leads out of the bundle"),
        (member("runs/../../evil"), b"", "leads out of the bundle"),
        (member("runs\\..\\evil"), b"", "leads out of the bundle"),
        (member("C:evil"), b"", "leads out of the bundle"),
        (member("source/methods/../" + "0" * 16 + "/0-x.py"), b"", "leads out of the bundle"),
        (member(f"{RUN}/result.json", stat.S_IFLNK), b"/etc/passwd", "a link or no regular file"),
        (member(f"{RUN}/result.json", stat.S_IFIFO), b"", "a link or no regular file"),
        (member(f"{RUN}/checkpoint.pt"), pickle.dumps(print), "is nothing that a bundle has"),
        (member("runs/"), b"", "is nothing that a bundle has"),
        (member("evil.pkl"), pickle.dumps(print), "is nothing that a bundle has"),
        (member(f"{RUN}/done"), b"x", "has 1 bytes; at most 0 fit"),
        (member("source/methods/x/" + "0" * 16 + "/0-x.py"), b"#" * (2**20 + 1), "at most 1,048,576 fit"),
        (member(f"{RUN}/result.json"), b" " * 2**24, "a compression bomb"),
        (member(f"{RUN}/done"), b"", "in the bundle or in its list, not in both"),
    ],
)  # fmt: skip
def test_a_malicious_bundle_is_refused_in_one_line(file: Path, info: zipfile.ZipInfo, data: bytes, reason: str) -> None:
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    for taking in (check, lambda path: merge([path])):
        with pytest.raises(UsageError, match=reason) as refused:
            taking(file)
        assert len(str(refused.value).splitlines()) == 1


def test_overlapping_members_are_refused(file: Path) -> None:
    content = members(file)
    content[f"{RUN}/selections.npz"] = bytes(range(256)) * 4000
    rewrite(file, content)
    data = bytearray(file.read_bytes())
    start = data.rindex(f"{RUN}/selections.npz".encode()) - 46  # its entry in the directory at the end
    for place in (20, 24):  # its sizes, packed and not
        data[start + place : start + place + 4] = (2 * len(data)).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(UsageError, match="its members overlap"):
        check(file)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"PK\x03\x04" + bytes(100), pickle.dumps([1])])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UsageError, match="is no bundle"):
        check(tmp_path / "x.zip")


@pytest.mark.parametrize(
    "listing", [b"[]", b"{}", b'{"version": 9, "members": {}}', b"[" * 10**5, b'{"version": 1, "members": 3}']
)
def test_a_bad_list_is_refused(file: Path, listing: bytes) -> None:
    rewrite(file, members(file) | {"MANIFEST.json": listing}, listing=False)
    with pytest.raises(UsageError, match="is refused"):
        check(file)


def test_arrays_with_pickles_are_no_selections(file: Path) -> None:
    content = members(file)
    name = result_of(content, 0).replace("result.json", "selections.npz")
    with zipfile.ZipFile(file.with_name("evil.npz"), "w") as archive:
        header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
        archive.writestr(
            "indices.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pickle.dumps(print)
        )
    content[name] = file.with_name("evil.npz").read_bytes()
    rewrite(file, content)
    [told] = check(file, 0).faults
    assert told.startswith("full keep=1 seed=0 (")
    assert "not a file of selections" in told


def test_a_grid_without_results_has_no_bundle(home: Path) -> None:
    grids.Manifest(GRID, {"0" * 16: GRID.runs()[0]}, {}).save()
    with pytest.raises(UsageError, match="has a result yet"):
        bundle.write("tiny", home / "x.zip")
