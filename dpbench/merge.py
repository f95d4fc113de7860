"""Bring the runs and grids of other machines' results folders into this one; ours are kept where they disagree."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpbench import grid as grids
from dpbench import store
from dpbench.errors import UsageError
from dpbench.results import is_done

FILES = ("result.json", "selections.npz", "traceback.txt", "done")  # no checkpoint: that is a run's own business
VARYING = re.compile(r"time_|peak_")  # metrics that differ between runs of equal results


@dataclass
class Merged:
    """How many runs were added, took the place of an unfinished one, or were here already; and what disagrees."""

    added: int = 0
    completed: int = 0
    duplicates: int = 0
    conflicts: list[str] = field(default_factory=list)


def merge(folders: list[Path]) -> Merged:
    """Merge results folders (each holds runs/ and grids/) in the order given."""
    for folder in folders:
        if not (folder / "runs").is_dir():
            raise UsageError(f"{folder} is no results folder: it has no runs/ in it")
        if folder.resolve() == store.home():
            raise UsageError(f"{folder} is this results folder itself")
    merged = Merged()
    for folder in folders:
        for run in sorted((folder / "runs").iterdir()):
            if re.fullmatch(r"[0-9a-f]{16}", run.name) and (run / "result.json").is_file():
                _merge_run(run, merged)
        for manifest in sorted((folder / "grids").glob("*.json")):
            _merge_grid(manifest, merged)
    return merged


def _merge_run(theirs: Path, merged: Merged) -> None:
    """Take a run that is not here, or is not finished here; tell whether one that is agrees."""
    ours = store.run_folder(theirs.name)
    old, new = store.read_json(ours / "result.json"), store.read_json(theirs / "result.json")
    if old is None:
        merged.added += 1
    elif not (theirs / "done").is_file():
        merged.duplicates += 1  # a failure is no news
        return
    elif is_done(theirs.name):
        differing = _differing(old["metrics"], new["metrics"])
        if differing:
            values = ", ".join(
                f"{name} {old['metrics'].get(name)} here, {new['metrics'].get(name)} there" for name in differing
            )
            merged.conflicts.append(f"run {theirs.name} ({new['spec']['method']}): {values}")
        else:
            merged.duplicates += 1
        return
    else:
        merged.completed += 1
    for name in FILES:  # `done` is the last
        if (theirs / name).is_file():
            store.write(ours / name, lambda file: shutil.copyfile(theirs / name, file))  # noqa: B023
    if (ours / "done").is_file():
        (ours / "traceback.txt").unlink(missing_ok=True)


def _differing(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The metrics that should be equal and are not, accuracy first."""
    names = sorted({*ours, *theirs}, key=lambda name: (name != "accuracy", name))
    return [name for name in names if not VARYING.match(name) and ours.get(name) != theirs.get(name)][:2]


def _merge_grid(path: Path, merged: Merged) -> None:
    """Add a grid's cells to ours of that name; one cell made with two sources of a method stays ours."""
    try:
        manifest = grids.parse_manifest(store.load_json(store.read_stranger(path, store.MOST_JSON)))
    except (*store.BAD, OSError) as error:
        merged.conflicts.append(f"grid {path.stem}: cannot be read: {' '.join(str(error).split())[:200]}")
        return
    theirs, cells, controls = manifest
    if not grids.manifest_path(theirs.name).is_file():
        manifest.save()
        return
    ours, old, ours_controls = grids.read_manifest(theirs.name)
    settings = ("recipe", "budget", "probe")
    changed = [name for name in settings if getattr(ours, name) != getattr(theirs, name)]
    if changed:
        merged.conflicts.append(f"grid {ours.name}: another {' and '.join(changed)} there; its cells are not added")
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
    others = {"seeds": max(ours.seeds, theirs.seeds), "tuned": theirs.tuned | ours.tuned}
    both = ours.model_copy(update=lists | others)
    grids.Manifest(both, old, ours_controls | controls).save()
