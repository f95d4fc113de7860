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
PUBLISHED = "published"  # the status of what is no run, but a figure of a paper
RESULTS = ("result.json", "selections.npz", "predictions.npz")  # of a run, what a board is made of


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


def result_hash(result: bytes) -> str:
    """The hash of a run's result.json, by which a log knows what came with a bundle."""
    return hashlib.sha256(result).hexdigest()


def digest(files: Mapping[str, bytes]) -> str:
    """The hash of a run's results, by which they are known again: of those files that a board is made of."""
    each = {name: hashlib.sha256(files[name]).hexdigest() for name in RESULTS if name in files}
    return hashlib.sha256(json.dumps(each).encode()).hexdigest()


def origins(runs: Iterable[str]) -> dict[str, str]:
    """Of these runs those that came with a bundle: self-reported, verified or contradicted.

    What was verified holds for the results whose hash the log has, and for no others, whoever says where they are from.
    A run that was made here since has another result, with other times, and is our own; so is one of our own bundle.
    """
    log = entries()
    submitted = {entry.get("sha256") for entry in log if entry["what"] == "submitted"}
    came: set[tuple[str, str]] = set()  # each run with the hash of its result
    said: dict[str, set[tuple[str, str]]] = {VERIFIED: set(), CONTRADICTED: set()}  # with that of all its results
    for entry in log:
        if entry["what"] == "merged" and isinstance(entry.get("sha256"), str) and entry["sha256"] not in submitted:
            came |= _pairs(entry.get("runs"))
        elif entry["what"] == "verified":
            for verdict, hashes in said.items():
                hashes |= _pairs(entry.get(verdict))
    found: dict[str, str] = {}
    for run in {run for run, _ in came} & set(runs):
        folder = store.run_folder(run)
        files = {name: (folder / name).read_bytes() for name in RESULTS if (folder / name).is_file()}
        if (run, result_hash(files.get("result.json", b""))) in came:
            now = (run, digest(files))
            found[run] = next((verdict for verdict in (CONTRADICTED, VERIFIED) if now in said[verdict]), REPORTED)
    return found


def _pairs(listed: Any) -> set[tuple[str, str]]:
    """Each run with its hash; the line may have been written by anyone."""
    pairs = listed.items() if isinstance(listed, dict) else ()
    return {(run, hashed) for run, hashed in pairs if isinstance(hashed, str)}


def status(runs: Iterable[str], origin: Mapping[str, str]) -> str:
    """The status of a row with these runs: that of the one of which least is known, and one that disagrees is told."""
    found = {origin.get(run, OWN) for run in runs}
    return next((one for one in (CONTRADICTED, REPORTED, VERIFIED) if one in found), OWN)


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
