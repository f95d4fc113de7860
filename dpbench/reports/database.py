"""MLflow's SQLite file: made under another name and renamed, made again where it is broken, moved with its folder."""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from contextlib import closing, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlsplit

SECONDS = 5.0  # what another process may hold the file before we give up
VIEW = "mlflow.sharedViewState.leaderboard"  # the experiment tag of our saved view: the mark of our experiments
BESIDE = ("-journal", "-wal", "-shm")  # what SQLite writes beside a database
ROOM = 2**16  # bytes that must fit beside it


def path_of(uri: str) -> Path | None:
    """The file of `sqlite:///PATH`; None for what MLflow has to read itself (a server, options, in memory)."""
    path = uri.removeprefix("sqlite:///")
    plain = path != uri and path and "?" not in path and not path.startswith((":", "file:"))
    return Path(path).resolve() if plain else None


def url(path: Path) -> str:
    """The file's URI. MLflow and SQLAlchemy read %, ? and # in it by version, so such a folder goes by a link."""
    folder = _link(path.parent) if set("%?#") & set(str(path.parent)) else path.parent
    return f"sqlite:///{folder / path.name}"


@cache
def _link(folder: Path) -> Path:
    """A link to the folder by a plain name, for as long as this process lives."""
    made = Path(tempfile.mkdtemp(prefix="dpbench-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    (made / "home").symlink_to(folder, target_is_directory=True)
    return made / "home"


def artifacts(path: Path, experiment: str) -> str:
    """Where an experiment's artifacts lie: beside the database, so that they move with it."""
    return (path.parent / "artifacts" / experiment).as_uri()


def prepare(path: Path, own: bool) -> str:
    """Make the file if there is none; return what was done to a broken one of our own, else nothing.

    Only one process at a time may call it. Raises OSError, or sqlite3.Error for a file that cannot be used: one that
    another process holds, that cannot be written, or somebody else's that is no database.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(".mlflow-*"):  # of a process that was killed here
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryFile(dir=path.parent) as file:  # a full disk is told before MLflow meets it
        file.write(b"0" * ROOM)
        file.flush()
        os.fsync(file.fileno())
    done = ""
    if not path.exists():
        _make(path)
    else:
        fault = _fault(path)
        if fault and not own:
            raise sqlite3.DatabaseError(fault)
        if fault or (own and _checked_by(path) != _version()):
            done = _mend(path, fault)
    _follow(path)
    return done


def _fault(path: Path) -> str:
    """What makes it no database; sqlite3.OperationalError where it is held by another process or not to be written."""
    try:
        with closing(sqlite3.connect(path, timeout=SECONDS, isolation_level=None)) as database:
            database.execute("begin immediate")
            database.execute("rollback")
            [(found,)] = database.execute("pragma quick_check(1)").fetchall()
            return "" if found == "ok" else f"damaged: {found}"
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        return str(error)


def _checked_by(path: Path) -> int:
    """The version of MLflow that the file was made or upgraded by, 0 if it was not by us."""
    with closing(sqlite3.connect(path, timeout=SECONDS)) as database:
        return int(database.execute("pragma user_version").fetchone()[0])


def _version() -> int:
    return zlib.crc32(version("mlflow").encode()) >> 1


def _mend(path: Path, fault: str) -> str:
    """Upgrade it to this MLflow, which also finishes a making that was cut off; what cannot be is set aside."""
    if not fault:
        if shutil.disk_usage(path.parent).free < 3 * path.stat().st_size + 2**24:  # lest it count as broken
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent))
        try:
            _make(path, old=path)
            return ""
        except (sqlite3.OperationalError, OSError, subprocess.TimeoutExpired):
            raise
        except Exception:
            fault = "not made to its end, or by a newer MLflow"
    aside = path.with_name(f"{path.name}.broken")
    path.replace(aside)
    for suffix in BESIDE:  # SQLite would apply them to the new file
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    _make(path)
    return (
        f"{path} was broken ({fault}): it is now {aside.name}, and a new one was made; "
        f"dpbench sync GRID sends a grid's runs to it"
    )


def _make(path: Path, old: Path | None = None) -> None:
    """Let MLflow make a database in a folder of its own, or upgrade a copy of `old`, and rename it when it is whole."""
    from mlflow import MlflowClient

    folder = Path(tempfile.mkdtemp(prefix=".mlflow-", dir=path.parent))
    made = folder / path.name
    try:
        if old is not None:
            with closing(sqlite3.connect(old, timeout=SECONDS)) as source, closing(sqlite3.connect(made)) as target:
                source.backup(target)
            upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", url(made)]
            subprocess.run(upgrade, check=True, capture_output=True, timeout=600)
        MlflowClient(tracking_uri=url(made)).search_experiments(max_results=1)
        whole = folder / "whole"
        shutil.copyfile(made, whole)  # MLflow keeps the other open
        with closing(sqlite3.connect(whole)) as database:
            database.execute(f"pragma user_version = {_version()}")
        whole.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _follow(path: Path) -> None:
    """Point our experiments at the artifacts beside the database, where it was moved or copied with them."""
    with closing(sqlite3.connect(path, timeout=SECONDS)) as database, database, suppress(sqlite3.OperationalError):
        ours = "select e.experiment_id, e.name, e.artifact_location from experiments e join experiment_tags t "
        ours += "on e.experiment_id = t.experiment_id where t.key = ?"
        for key, name, old in database.execute(ours, [VIEW]).fetchall():
            new = artifacts(path, name)
            if old == new or not old.startswith(("/", "file:")):
                continue
            known = Path(unquote(urlsplit(old).path) if old.startswith("file:") else old)
            if known.exists() and not (path.parent / "artifacts" / name).exists():
                continue  # made where artifacts had another place, and still there
            database.execute("update experiments set artifact_location = ? where experiment_id = ?", [new, key])
            runs = "update runs set artifact_uri = ? || substr(artifact_uri, ?) "
            runs += "where experiment_id = ? and substr(artifact_uri, 1, ?) = ?"
            database.execute(runs, [new, len(old) + 1, key, len(old), old])
