"""Bring the runs and grids of other results folders and of bundles into this one; ours are kept where they disagree."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dpbench import claims, store
from dpbench.errors import UsageError, one_line
from dpbench.experiments import bundle, history
from dpbench.experiments import grid as grids
from dpbench.setting import Setting
from dpbench.spec import RunSpec
from dpbench.training.results import RunResult, check, check_predictions, check_selections, is_done, read_result

VARYING = re.compile(r"time_|peak_")  # metrics that differ between runs of equal results
OPTIONAL = ("accuracy_cifar_c",)  # those that a run has only where its machine has their files


@dataclass
class Merged:
    """How many runs were added, took the place of an unfinished one, or were here already; and what disagrees."""

    added: int = 0
    completed: int = 0
    duplicates: int = 0
    conflicts: list[str] = field(default_factory=list)


def merge(sources: list[Path]) -> Merged:
    """Merge results folders (each holds runs/ and grids/) and bundles (files) in the order given.

    Their content is a stranger's: it is read bounded, links and special files are refused, and a run counts only as
    what its own content says that it is.
    """
    for folder in sources:
        if folder.is_file():
            with bundle.opened(folder):
                continue
        if not (folder / "runs").is_dir():
            raise UsageError(f"{folder} is no results folder: it has no runs/ in it")
        if folder.resolve() == store.home():
            raise UsageError(f"{folder} is this results folder itself")
        for part in (folder / "runs", folder / "grids"):
            if part.is_symlink():
                raise UsageError(f"{part} is a link; links are not followed")
    merged = Merged()
    for place in sources:
        taken: dict[str, str] = {}
        replaced = merged.completed
        try:
            if place.is_file():
                with bundle.opened(place) as found:
                    for key in found.runs():
                        _merge_run(key, partial(found.run, key), merged, taken)
                    _merge_grid(place.stem, found.manifest, merged)
            else:
                for run in sorted((place / "runs").iterdir()):
                    if store.HASH.fullmatch(run.name):
                        _merge_run(run.name, partial(_files, run), merged, taken)
                for path in sorted((place / "grids").glob("*.json")):
                    _merge_grid(path.stem, partial(_manifest, path), merged)
        finally:  # what was taken before Ctrl-C is not our own either
            if taken:
                _log(place, taken, merged.completed - replaced)
    return merged


def _log(place: Path, taken: dict[str, str], replaced: int) -> None:
    told = {"file": str(place), "runs": taken, "replaced": replaced}
    if place.is_file():
        history.add("merged", sha256=history.sha256(place), **told)
    else:
        history.add("merged", **told)
        history.take_over(place)


def checked(files: dict[str, bytes], key: str) -> RunResult:
    """The result among a run's files, if all of them are of the run that the hash names; ValueError."""
    result = check(store.load_json(files["result.json"]), key)
    if "identity" not in result:
        raise ValueError("it does not say of what its hash is; it was made by an older version")
    if "selections.npz" in files:
        check_selections(files["selections.npz"], result)
    if "predictions.npz" in files:
        check_predictions(files["predictions.npz"], result)
    return result


def _merge_run(key: str, read: Callable[[], dict[str, bytes]], merged: Merged, taken: dict[str, str]) -> None:
    """Take a run that is not here, or is not finished here; tell whether one that is agrees."""
    try:
        files = read()
        if "result.json" not in files:
            return  # it has only begun
        new = checked(files, key)
    except (*store.BAD, OSError) as error:
        merged.conflicts.append(f"run {key}: not taken: {store.brief(error)}")
        return
    old = read_result(key)
    if old is None:
        merged.added += 1
    elif "done" not in files or new["status"] == "FAILED":
        merged.duplicates += 1  # a failure is no news
        return
    elif is_done(key):
        differing = _differing(old, new)
        if differing:
            merged.conflicts.append(f"run {key} ({new['spec']['method']}): {', '.join(differing)}")
        else:
            merged.duplicates += 1
        return
    else:
        merged.completed += 1
    ours = store.run_folder(key)
    taken[key] = history.result_hash(files["result.json"])
    for name, content in files.items():  # `done` is the last
        store.write(ours / name, lambda file: file.write_bytes(content))  # noqa: B023
    if "done" in files:
        with store.told(ours):
            (ours / "traceback.txt").unlink(missing_ok=True)


def _files(run: Path) -> dict[str, bytes]:
    """The files of a run that are taken, in the order of FILES; ValueError for what is no plain file or too large."""
    if run.is_symlink() or not run.is_dir():
        raise ValueError("a link or no folder")
    there = {path.name for path in run.iterdir()}
    return {name: store.read_stranger(run / name, most) for name, most in bundle.FILES.items() if name in there}


def _differing(ours: RunResult, theirs: RunResult) -> list[str]:
    """The status, or two metrics, that should be equal and are not, accuracy first."""
    a, b = ({"status": one["status"]} | one.get("metrics", {}) for one in (ours, theirs))
    names = sorted({*a, *b}, key=lambda name: (name != "status", name != "accuracy", name))
    names = [name for name in names if name not in one_sided(ours, theirs)]
    unequal = [name for name in names if not VARYING.match(name) and a.get(name) != b.get(name)]
    return [f"{name} {a.get(name)} here, {b.get(name)} there" for name in unequal[:2]]


def one_sided(*results: RunResult) -> list[str]:
    """The metrics that only one of two runs has, since the other's machine has not their files."""
    return [name for name in OPTIONAL if len({name in one.get("metrics", {}) for one in results}) == 2]


def _manifest(path: Path) -> grids.Manifest:
    return grids.parse_manifest(store.load_json(store.read_stranger(path, store.MOST_JSON)))


def _merge_grid(name: str, read: Callable[[], grids.Manifest], merged: Merged) -> None:
    """Add a grid's cells to ours of that name; one cell made with two sources of a method stays ours."""
    try:
        manifest = read()
    except (*store.BAD, OSError) as error:
        merged.conflicts.append(f"grid {name}: cannot be read: {one_line(error, 200)}")
        return
    manifest = manifest._replace(claims=claims.readable(manifest.claims))
    with grids.locked(manifest.grid.name):
        _join(manifest, merged)


def _join(manifest: grids.Manifest, merged: Merged) -> None:
    """Add the cells to those of our grid of that name, if we have one."""
    theirs = manifest.grid
    cells, controls = (_own(theirs.name, part, merged) for part in (manifest.cells, manifest.controls))
    mine = grids.find_manifest(theirs.name)
    if mine is None or not mine.cells:
        grids.Manifest(theirs, cells, controls, manifest.claims).save()
        return
    ours, old, ours_controls, ours_claims = mine
    settings = ("recipe", "recipe_by_dataset", "recipe_by_model", "tuned", *Setting.model_fields)
    changed = [name for name in settings if getattr(ours, name) != getattr(theirs, name)]
    changed += ["looks"] * bool(ours.looks and theirs.looks and ours.looks != theirs.looks)
    if changed:
        merged.conflicts.append(f"grid {ours.name}: another {' and '.join(changed)} there; its cells are not added")
        return
    data = {spec.dataset: spec.data for spec in old.values()}
    differing = sorted({spec.dataset for spec in cells.values() if data.get(spec.dataset, spec.data) != spec.data})
    if differing:
        text = f"grid {ours.name}: other data of {', '.join(differing)} there; its cells are not added"
        merged.conflicts.append(text)
        return
    keys = {spec: key for key, spec in old.items()}
    other = [spec for key, spec in cells.items() if keys.get(spec, key) != key]
    if other:
        text = f"grid {ours.name}: {len(other)} cells have another source of their method, such as {other[0].title}"
        merged.conflicts.append(text)
    old |= {key: spec for key, spec in cells.items() if spec not in keys}
    lists = {
        name: list(dict.fromkeys(getattr(ours, name) + getattr(theirs, name)))
        for name in ("datasets", "models", "methods", "keep")
    }
    others = {"seeds": max(ours.seeds, theirs.seeds), "looks": ours.looks or theirs.looks}
    both = ours.model_copy(update=lists | others)
    grids.Manifest(both, old, ours_controls | controls, claims.merged(ours_claims, manifest.claims)).save()


def _own(grid: str, cells: dict[str, RunSpec], merged: Merged) -> dict[str, RunSpec]:
    """The cells that are what their runs say they are."""
    found = grids.results(cells)
    swapped = [key for key in cells if key not in found and read_result(key) is not None]
    if swapped:
        merged.conflicts.append(f"grid {grid}: {len(swapped)} cells are other runs than it says, such as {swapped[0]}")
    return {key: spec for key, spec in cells.items() if key not in swapped}
