"""The log of a results folder, log.jsonl: which bundles were submitted, merged and verified, and what was packed.

Lines are only ever added. By it a run is known to be made elsewhere, and what making it again has shown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from dpbench import store

Entry: TypeAlias = dict[str, Any]
OWN, REPORTED, VERIFIED, CONTRADICTED = "own", "self-reported", "verified", "contradicted"
DIGITS = 16  # of the sha256 of a result


def add(what: str, **told: Any) -> None:
    """Add a line: what was done, when, and what else is to tell of it; RunFailed."""
    path = store.home() / "log.jsonl"
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "what": what} | told
    with store.told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            cut_off = file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n"
            file.write(b"\n" * bool(cut_off) + json.dumps(entry).encode() + b"\n")


def entries(folder: Path | None = None) -> list[Entry]:
    """All lines of the log, those that can be read; of this results folder, or of another one."""
    path = (folder or store.home()) / "log.jsonl"
    try:
        lines = store.read_stranger(path, store.MOST_JSON).splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        try:
            entry = store.load_json(line)
        except store.BAD:
            continue  # a line that was cut off
        if isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in ("time", "what")):
            found.append(entry)
    return found


def take_over(folder: Path) -> None:
    """Add from which bundles another folder's log says that its runs came; what was verified there is its own word."""
    for entry in entries(folder):
        if entry["what"] == "merged" and entry.get("sha256"):
            add(entry["what"], **{key: value for key, value in entry.items() if key not in ("time", "what")})


def sha256(file: Path) -> str:
    """The hash of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(result: bytes) -> str:
    """A short hash of a run's result.json, by which it is known again."""
    return hashlib.sha256(result).hexdigest()[:DIGITS]


def origins(runs: Iterable[str]) -> dict[str, str]:
    """Of these runs those that came with a bundle: self-reported, verified or contradicted.

    A run that was made here since has another result, with other times, and is our own; so is one of our own bundle.
    """
    log = entries()
    submitted = {entry.get("sha256") for entry in log if entry["what"] == "submitted"}
    came: dict[str, tuple[str, str]] = {}  # the bundle and the result of each run
    again: dict[tuple[str, str], bool] = {}  # whether a run of a bundle agreed when it was made again
    for entry in log:
        bundle, listed = entry.get("sha256"), entry.get("runs")
        if isinstance(bundle, str) and bundle not in submitted and isinstance(listed, dict):
            for run, said in listed.items():
                if entry["what"] == "merged" and isinstance(said, str):
                    came[run] = (bundle, said)
                elif entry["what"] == "verified" and isinstance(said, bool):
                    again[bundle, run] = said and again.get((bundle, run), True)
    found = {}
    for run in came.keys() & set(runs):
        bundle, result = came[run]
        path = store.run_folder(run) / "result.json"
        if path.is_file() and digest(path.read_bytes()) == result:
            agreed = again.get((bundle, run))
            found[run] = REPORTED if agreed is None else VERIFIED if agreed else CONTRADICTED
    return found


def status(runs: Iterable[str], origin: Mapping[str, str]) -> str:
    """The status of a row with these runs: one that was made again speaks for all, and one that disagreed, too."""
    found = {origin.get(run, OWN) for run in runs}
    return next((one for one in (CONTRADICTED, VERIFIED, REPORTED) if one in found), OWN)


def words(entry: Entry) -> str:
    """A line of the log for people."""
    listed = entry.get("runs")
    runs: dict[str, Any] = listed if isinstance(listed, dict) else {}
    said = [f"{len(runs)} runs"] if entry["what"] == "merged" else []
    if entry["what"] == "verified":
        agreed = sum(one is True for one in runs.values())
        said = [f"{agreed} of {len(runs)} runs agree"]
    said += [f"{name} {entry[name]}" for name in ("grid", "replaced", "file") if entry.get(name)]
    said += [f"sha256 {str(entry['sha256'])[:12]}"] if entry.get("sha256") else []
    return f"{entry['time']}  {entry['what']}: {', '.join(said)}"
