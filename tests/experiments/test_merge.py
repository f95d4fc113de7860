"""Merging results folders: nothing is lost, nothing is counted twice, and what disagrees is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_board import around, costing
from synthetic_board import make as made_up

from dpbench import store
from dpbench.analysis import board as boards
from dpbench.analysis.board import Board
from dpbench.errors import UsageError
from dpbench.experiments import grid as grids
from dpbench.experiments.merge import merge
from dpbench.spec import PROTOCOL, RunSpec, identity_hash
from dpbench.tuned import Tuned


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty results folder; $DPBENCH_HOME is another."""
    monkeypatch.setenv("DPBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "other"


def identified(result: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
    """A result with the hash that it has by its content."""
    spec = RunSpec.model_validate(result["spec"]).model_dump(mode="json")
    identity = {"spec": spec, "protocol": PROTOCOL, "sources": sources}
    return result | {"spec": spec, "identity": identity, "hash": identity_hash(identity)}


def make(*values: Any, **options: Any) -> Board:
    """A board whose runs have the hashes that they have by their content."""
    board = made_up(*values, **options)
    found = {key: identified(result, {}) for key, result in board.results.items()}
    controls = [identified(result, {"control": ""}) for result in board.controls.values()]
    return replace(
        board,
        cells={found[key]["hash"]: spec for key, spec in board.cells.items()},
        results={result["hash"]: result for result in found.values()},
        controls={result["hash"]: result for result in controls},
    )


def fill(folder: Path, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a board's runs and manifest into a results folder."""
    with monkeypatch.context() as patch:
        patch.setenv("DPBENCH_HOME", str(folder))
        for key, result in (board.results | board.controls).items():
            store.write_json(store.run_folder(key) / "result.json", result)
            store.write(store.run_folder(key) / "checkpoint.pt", lambda file: file.write_bytes(b"a pickle"))
            if result["status"] == "FINISHED":
                store.write(store.run_folder(key) / "done", lambda file: file.touch())
        controls = {key: RunSpec.model_validate(result["spec"]) for key, result in board.controls.items()}
        grids.Manifest(board.grid, board.cells, controls).save()


def test_runs_and_grid_are_added(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make({("full", 1.0): around(0.9)})
    fill(other, board, monkeypatch)
    assert vars(merge([other])) == {"added": 5, "completed": 0, "duplicates": 0, "conflicts": []}
    assert boards.load("made").table.equals(board.table)
    assert not list(store.home().rglob("checkpoint.pt"))


def test_a_second_merge_finds_duplicates(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(other, make({("full", 1.0): around(0.9)}), monkeypatch)
    merge([other])
    assert vars(merge([other, other])) == {"added": 0, "completed": 0, "duplicates": 10, "conflicts": []}


def test_seeds_of_two_machines_make_one_grid(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make({("full", 1.0): around(0.9), ("uniform", 0.5): around(0.8)})
    for folder, seeds in ((store.home(), {0, 1}), (other, {2, 3, 4})):
        cells = {key: spec for key, spec in whole.cells.items() if spec.seed in seeds}
        results = {key: whole.results[key] for key in cells}
        fill(folder, Board(whole.grid, cells, results, whole.overlap), monkeypatch)
    assert merge([other]).added == 6
    assert boards.load("made").table.equals(whole.table)


def test_controls_at_cost_come_with_their_grid(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make({("a", 0.5): around(0.9)}, {"a": costing(0.7)}, controls={0.7: around(0.8)})
    fill(store.home(), replace(board, controls=dict(list(board.controls.items())[:2])), monkeypatch)
    fill(other, board, monkeypatch)
    assert merge([other]).added == 3
    assert boards.load("made").table.equals(board.table)


def test_times_may_differ_and_accuracies_may_not(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = make({("full", 1.0): [0.9, 0.9]})
    theirs = make({("full", 1.0): [0.9, 0.8]}, {"full": {"time_total_s": 99.0, "peak_memory_mb": 1.0}})
    fill(store.home(), ours, monkeypatch)
    fill(other, theirs, monkeypatch)
    merged = merge([other])
    assert merged.duplicates == 1
    assert merged.conflicts == [
        f"run {list(ours.cells)[1]} (full): accuracy 0.9 here, 0.8 there, accuracy_best_epoch 0.9 here, 0.8 there"
    ]
    assert boards.load("made").table.equals(ours.table)


def test_a_measure_for_which_one_machine_has_no_files_is_no_conflict(
    other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store.home(), make({("full", 1.0): [0.9]}), monkeypatch)
    fill(other, make({("full", 1.0): [0.9]}, {"full": {"accuracy_cifar_c": 0.5}}), monkeypatch)
    assert vars(merge([other])) == {"added": 0, "completed": 0, "duplicates": 1, "conflicts": []}


def test_a_finished_run_takes_the_place_of_a_failed_one(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = make({("full", 1.0): [0.9]})
    bad = make({("full", 1.0): ["it broke"]})
    fill(store.home(), bad, monkeypatch)
    fill(other, good, monkeypatch)
    assert merge([other]).completed == 1
    assert boards.load("made").table["seeds"].tolist() == [1]
    fill(other, bad, monkeypatch)
    (other / "runs" / next(iter(bad.cells)) / "done").unlink()
    assert merge([other]).duplicates == 1  # a failure takes nobody's place
    assert boards.load("made").table["seeds"].tolist() == [1]


def test_another_recipe_is_another_grid(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make({("full", 1.0): [0.9]})
    fill(store.home(), board, monkeypatch)
    recipe = board.grid.recipe.model_copy(update={"epochs": 9})
    fill(other, Board(board.grid.model_copy(update={"recipe": recipe}), board.cells, {}, board.overlap), monkeypatch)
    (other / "runs").mkdir(parents=True, exist_ok=True)
    assert merge([other]).conflicts == ["grid made: another recipe there; its cells are not added"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tuned", [Tuned(method="full", recipe={"lr": 0.3}, trials=5)]),
        ("recipe_by_dataset", {"digits": {"lr": 0.3}}),
        ("recipe_by_model", {"cnn": {"lr": 0.3}}),
        ("shifts", True),
        ("devices", 2),
    ],
)
def test_a_grid_that_asks_for_other_runs_is_another_grid(
    other: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    board = make({("full", 1.0): [0.9]})
    fill(store.home(), board, monkeypatch)
    (spec,) = board.cells.values()
    cells = {"f" * 16: spec.model_copy(update={"recipe": spec.recipe.changed({"lr": 0.3})})}
    fill(other, Board(board.grid.model_copy(update={name: value}), cells, {}, board.overlap), monkeypatch)
    (other / "runs").mkdir(parents=True, exist_ok=True)
    assert merge([other]).conflicts == [f"grid made: another {name} there; its cells are not added"]
    assert boards.load("made").table["seeds"].tolist() == [1]


def test_a_grid_of_other_data_is_another_grid(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make({("full", 1.0): [0.9]})
    fill(store.home(), board, monkeypatch)
    (spec,) = board.cells.values()
    cells = {"f" * 16: spec.model_copy(update={"data": "of another machine"})}
    fill(other, Board(board.grid, cells, {}, board.overlap), monkeypatch)
    (other / "runs").mkdir(parents=True, exist_ok=True)
    assert merge([other]).conflicts == ["grid made: other data of digits there; its cells are not added"]
    assert list(boards.load("made").cells) == list(board.cells)


def test_one_cell_with_two_sources_stays_ours(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make({("full", 1.0): [0.9]})
    fill(store.home(), board, monkeypatch)
    (key,) = board.cells
    theirs = identified(board.results[key], {"methods/full": "changed"})
    cells = {theirs["hash"]: board.cells[key]}
    fill(other, Board(board.grid, cells, {theirs["hash"]: theirs}, board.overlap), monkeypatch)
    merged = merge([other])
    assert "another source of their method, such as full keep=1 seed=0" in merged.conflicts[0]
    assert list(boards.load("made").cells) == [key]


def test_a_folder_without_runs_is_refused_before_anything_is_done(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(other, make({("full", 1.0): [0.9]}), monkeypatch)
    with pytest.raises(UsageError, match="no results folder"):
        merge([other, other / "runs"])
    assert not (store.home() / "runs").exists()


def test_strangers_files_are_left_where_they_are(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make({("full", 1.0): [0.9]})
    fill(other, board, monkeypatch)
    (other / "runs" / "..evil").mkdir()
    (other / "runs" / next(iter(board.cells)) / "more.bin").touch()
    (other / "grids" / "broken.json").write_text("{}")
    merged = merge([other])
    assert merged.conflicts[0].startswith("grid broken: cannot be read")
    assert sorted(path.name for path in store.home().rglob("[!.]*") if path.is_file()) == [
        "done",
        "log.jsonl",
        "made.json",
        "result.json",
    ]


def hostile(run: Path, another: Path) -> dict[str, Callable[[], Any]]:
    """What a stranger may have done to a run's folder, by the reason for which the run is not taken."""
    secret = run.parent.parent / "secret.json"
    result, done, chosen = (run / name for name in ("result.json", "done", "selections.npz"))

    def link(path: Path, target: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    def pipe(path: Path) -> None:
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    def edit(path: Path, old: str, new: str, count: int = -1) -> None:
        path.write_text(path.read_text().replace(old, new, count))

    secret.write_bytes(result.read_bytes())
    return {
        "a link or no folder": lambda: link(run, another),
        "a link or no regular file": lambda: link(result, secret),
        "a link or no regular file ": lambda: link(done, Path("/etc/passwd")),
        "a link or no regular file  ": lambda: pipe(chosen),
        f"it is the result of the run {another.name}": lambda: shutil.copyfile(another / "result.json", result),
        "what it says of itself is not": lambda: edit(result, '"method": "full"', '"method": "uniform"', 1),
        "what it says of itself is not what": lambda: edit(result, '"seed": 0', '"seed": 5'),
        "it was made by an older version": lambda: edit(result, '"identity": {', '"ident": {'),
        "more than 0 bytes": lambda: done.write_text("x"),
        "not a file of predictions": lambda: (run / "predictions.npz").write_bytes(b"junk"),
        "not a file of selections": lambda: chosen.write_bytes(b"junk"),
        "metrics.accuracy": lambda: edit(result, '"accuracy": 0.9', '"accuracy": "x"'),
        "codec can't decode": lambda: result.write_bytes(b"\xff\xff"),
    }


@pytest.mark.parametrize("case", range(13))
def test_what_is_no_plain_run_is_refused(other: Path, monkeypatch: pytest.MonkeyPatch, case: int) -> None:
    board = make({("full", 1.0): [0.9, 0.9]})
    fill(other, board, monkeypatch)
    one, another = board.cells
    reason, act = list(hostile(other / "runs" / one, other / "runs" / another).items())[case]
    act()
    merged = merge([other])
    assert merged.added == 1
    [told] = merged.conflicts
    assert told.startswith(f"run {one}: not taken: ")
    assert reason.strip() in told
    assert not store.run_folder(one).exists()
    assert boards.load("made").table["missing"].tolist() == [1]


def test_linked_parts_and_names_that_lead_elsewhere_are_refused(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(other, make({("full", 1.0): [0.9]}), monkeypatch)
    manifest = other / "grids" / "made.json"
    content = store.read_json(manifest)
    content["cells"] = {"../../x": next(iter(content["cells"].values()))}
    store.write_json(manifest, content)
    assert "'../../x' is no hash of a run" in merge([other]).conflicts[0]
    content["grid"]["name"] = "../../x"
    store.write_json(manifest, content)
    assert merge([other]).conflicts[0].startswith("grid made: cannot be read")
    manifest.unlink()
    manifest.symlink_to("/etc/passwd")
    assert "a link or no regular file" in merge([other]).conflicts[0]
    shutil.rmtree(other / "grids")
    (other / "grids").symlink_to(other.parent)
    with pytest.raises(UsageError, match="grids is a link; links are not followed"):
        merge([other])


def test_a_cell_that_is_another_run_is_not_added(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make({("full", 1.0): [0.9], ("uniform", 0.5): [0.8]})
    fill(other, board, monkeypatch)
    [a, b] = board.cells
    content = store.read_json(other / "grids" / "made.json")
    content["cells"][b] = content["cells"][a] | {"seed": 1}
    store.write_json(other / "grids" / "made.json", content)
    assert merge([other]).conflicts == [f"grid made: 1 cells are other runs than it says, such as {b}"]
    assert list(grids.read_manifest("made").cells) == [a]
