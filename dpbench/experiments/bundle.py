"""A bundle: a grid's results in one zip file that others can check, written here and read from strangers."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from dpbench import catalog, npz, source, store
from dpbench.errors import UsageError
from dpbench.experiments import grid as grids
from dpbench.training import account

VERSION = 1
FILES = {  # what is handed on of a run, and the most bytes it may have; no checkpoint: that is a run's own business
    "result.json": store.MOST_JSON,
    "selections.npz": store.MOST_UNPACKED,
    "predictions.npz": store.MOST_UNPACKED,
    "traceback.txt": 2**20,
    "done": 0,
}
OWN = ("grid.json", "environment.json")  # beside the list of all members, MANIFEST.json
SOURCE = 2**20  # bytes of a file of source
MEMBERS = 500_000  # of a bundle
RATIO = 100  # how many times larger than packed a member may be; results are some 10 times larger
BUNDLED = [name for name in FILES if name != "traceback.txt"]  # which tells of this machine's folders
_RUN = re.compile(rf"runs/([0-9a-f]{{16}})/({'|'.join(map(re.escape, BUNDLED))})")
_SOURCE = re.compile(r"source/([\w.:-]+(?:/[\w.:-]+)?)/([0-9a-f]{16})/\d+-([\w.-]+)")


@dataclass
class Written:
    """How many runs a bundle has, how many cells have no result, and of which plug-ins no source could be given."""

    runs: int = 0
    missing: int = 0
    without_source: list[str] = field(default_factory=list)


def write(grid: str, output: Path) -> Written:
    """Write the bundle of a grid that was run here: its manifest, results, and the source that made them."""
    manifest = grids.read_manifest(grid)
    cells = manifest.cells | manifest.controls
    found = grids.results(cells)
    if not found:
        raise UsageError(f"no run of the grid {grid} has a result yet; try: dpbench run {grid}")
    written = Written(len(found), len(cells) - len(found))
    used = {item for result in found.values() for item in result.get("identity", {}).get("sources", {}).items()}

    def save(path: Path) -> None:
        listed: dict[str, dict[str, Any]] = {}
        with zipfile.ZipFile(path, "w") as archive:

            def add(name: str, content: bytes) -> None:
                member = zipfile.ZipInfo(name)  # its date is that of nothing, so that equal content gives equal bytes
                member.external_attr = (stat.S_IFREG | 0o644) << 16
                member.compress_type = zipfile.ZIP_STORED if name.endswith(".npz") else zipfile.ZIP_DEFLATED
                archive.writestr(member, content)
                listed[name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}

            add("grid.json", grids.manifest_path(grid).read_bytes())
            add("environment.json", json.dumps(account.environment(), indent=1).encode())
            for key in sorted(found):
                for name in BUNDLED:
                    file = store.run_folder(key) / name
                    if file.is_file():
                        add(f"runs/{key}/{name}", file.read_bytes())
            for key, digest in sorted(used):
                sources = _sources(key, digest)
                written.without_source.extend([] if sources else [key])
                for i, (name, content) in enumerate(sources):
                    add(f"source/{key}/{digest}/{i}-{name}", content)
            add("MANIFEST.json", json.dumps({"version": VERSION, "members": listed}, indent=1).encode())

    store.write(output, save)
    return written


def _sources(key: str, digest: str) -> list[tuple[str, bytes]]:
    """The name and content of each file of a module that a run's identity names, none if they have changed since."""
    with suppress(UsageError, KeyError, OSError):
        files = [(path.name, path.read_bytes()) for path in source.files(_module(key))]
        if source.digest_of(files) == digest:
            return files
    return []


def _module(key: str) -> ModuleType:
    """The module that a key of an identity's sources names; KeyError for a key of something else, as of weights."""
    kind, slash, name = key.partition("/")
    return catalog.module_of(kind, name) if slash else sys.modules[key]


@dataclass(frozen=True)
class Bundle:
    """A bundle that is open: its members' names, sizes and places were checked, their content is when it is read."""

    archive: zipfile.ZipFile
    listed: dict[str, tuple[str, int]]  # the sha256 and size of each member, as the bundle itself states them

    def read(self, name: str) -> bytes:
        """The content of a member; ValueError if it is not what the bundle lists."""
        digest, size = self.listed[name]
        try:
            with self.archive.open(name) as stream:
                content = store.bounded(stream, size)
        except npz.BAD as error:
            raise ValueError(f"{name} cannot be unpacked: {store.brief(error)}") from None
        if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{name} is not the file whose sha256 the bundle lists")
        return content

    def manifest(self) -> grids.Manifest:
        """The grid with its cells."""
        return grids.parse_manifest(store.load_json(self.read("grid.json")))

    def runs(self) -> list[str]:
        """The hashes of the runs that it has."""
        return sorted({match[1] for name in self.listed if (match := _RUN.fullmatch(name))})

    def run(self, key: str) -> dict[str, bytes]:
        """The files of a run, in the order of FILES; ValueError."""
        return {name: self.read(path) for name in FILES if (path := f"runs/{key}/{name}") in self.listed}

    def sources(self) -> dict[tuple[str, str], list[str]]:
        """The members with the source of each plug-in, by its key in an identity and its digest."""
        found: dict[tuple[str, str], list[str]] = {}
        for name in self.listed:
            if match := _SOURCE.fullmatch(name):
                found.setdefault((match[1], match[2]), []).append(name)
        return found

    def digest_of(self, names: list[str]) -> str:
        """The digest of the source in these members; ValueError."""
        return source.digest_of((name.rpartition("/")[2].partition("-")[2], self.read(name)) for name in names)


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """Open a bundle that a stranger may have made; UsageError in one line for what no bundle is."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        archive = zipfile.ZipFile(path)
    except (*npz.BAD, OSError) as error:
        raise UsageError(f"{path} is no bundle: {store.brief(error)}") from None
    with archive:
        try:
            listed = _listed(archive, path.stat().st_size)
        except npz.BAD as error:
            raise UsageError(f"{path} is refused: {store.brief(error)}") from None
        yield Bundle(archive, listed)


def _listed(archive: zipfile.ZipFile, size: int) -> dict[str, tuple[str, int]]:
    """What the bundle lists, if its members are these and nothing else, each a plain file of a fitting size."""
    members = {member.filename: member for member in archive.infolist()}
    if len(archive.infolist()) > MEMBERS:
        raise ValueError(f"{len(archive.infolist()):,} members; at most {MEMBERS:,} fit")
    if len(members) < len(archive.infolist()):
        raise ValueError("two members have one name")
    for member in members.values():
        _check(member)
    if sum(member.compress_size for member in members.values()) > size:
        raise ValueError("its members overlap: a compression bomb")
    if "MANIFEST.json" not in members:
        raise ValueError("it has no MANIFEST.json")
    with archive.open("MANIFEST.json") as stream:
        content = store.load_json(store.bounded(stream, store.MOST_JSON))
    if content["version"] != VERSION:
        raise ValueError(
            f"version {store.brief(repr(content['version']))} of bundles, which this dpbench does not know"
        )
    listed = {name: (str(one["sha256"]), int(one["size"])) for name, one in content["members"].items()}
    others = sorted(members.keys() - {"MANIFEST.json"} ^ listed.keys()) + [name for name in OWN if name not in listed]
    if others:
        raise ValueError(f"{others[0]} is in the bundle or in its list, not in both")
    return listed


def _check(member: zipfile.ZipInfo) -> None:
    """Refuse a member that is no plain file, has another name than those of a bundle, or unpacks to too much."""
    name = member.filename
    mode = member.external_attr >> 16
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name[:2]:
        raise ValueError(f"the path {name} leads out of the bundle")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise ValueError(f"{name} is a link or no regular file")
    run, code = _RUN.fullmatch(name), _SOURCE.fullmatch(name)
    if not (run or code or name in ("MANIFEST.json", *OWN)):
        raise ValueError(f"{name} is nothing that a bundle has")
    most = FILES[run[2]] if run else SOURCE if code else store.MOST_JSON
    if member.file_size > most:
        raise ValueError(f"{name} has {member.file_size:,} bytes; at most {most:,} fit")
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is encrypted, or packed in a way that bundles do not use")
    if member.file_size > RATIO * member.compress_size + 2**16:
        raise ValueError(f"{name} is a compression bomb: {member.compress_size:,} bytes for {member.file_size:,}")
