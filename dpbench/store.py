"""The folder of results, which is the truth: all under $DPBENCH_HOME, written by atomic rename, checked when read."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from dpbench.errors import RunFailed, UsageError, one_line

T = TypeVar("T")
MOST_JSON = 2**26  # bytes of a JSON file; a run of a thousand epochs has some 1e6
MOST_UNPACKED = 2**31  # bytes of what a compressed file holds
HASH = re.compile(r"[0-9a-f]{16}")  # the name of a run
BAD = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, EOFError)


def home() -> Path:
    """$DPBENCH_HOME, or .dpbench in the current folder."""
    return Path(os.environ.get("DPBENCH_HOME") or ".dpbench").resolve()


@contextmanager
def moved_home(folder: Path) -> Iterator[None]:
    """Keep results in `folder` for the while, those of workers too."""
    before = os.environ.get("DPBENCH_HOME")
    os.environ["DPBENCH_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["DPBENCH_HOME"]
        else:
            os.environ["DPBENCH_HOME"] = before


def run_folder(run_hash: str) -> Path:
    """Where a run's files are."""
    return home() / "runs" / run_hash


def dated(path: Path) -> float | None:
    """When a file was written, by `clock`; None where it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def clock(folder: Path) -> float:
    """The time by the clock that dates the files of a folder, which others may share; ours where it takes no file."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def look_again(folder: Path) -> None:
    """Let a folder's files be looked for anew: a client of NFS remembers for up to a minute that one was not there.

    Opening the folder makes it ask the server.
    """
    with suppress(OSError):
        os.scandir(folder).close()


# Writing


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Raise what keeps `path` from being written as one line: what, why, and how much is free there."""
    try:
        yield
    except Timeout:
        raise  # somebody else has the lock: nothing is wrong
    except OSError as error:
        folder = next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))
        free = shutil.disk_usage(folder).free / 1e6
        reason = error.strerror or f"it was cut off ({error})"  # NumPy tells how much of an array was written
        raise RunFailed(f"{path} could not be written: {reason}; {free:,.1f} MB are free in {folder}") from error


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Let `save` write a file beside `path`, then rename it: the file is there whole or not at all.

    A link stays a link and a device or pipe what it is: these are written in place.
    """
    with told(path):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            _write_in_place(path, save)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{secrets.token_hex(4)}.{path.name}")  # a name that nobody can have put a link at
        try:
            save(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    with told(path):
        path.unlink(missing_ok=True)


def _write_in_place(path: Path, save: Callable[[Path], Any]) -> None:
    if path.is_dir() or path.is_block_device():
        raise UsageError(f"{path} is a {'folder' if path.is_dir() else 'disk'}; give the path of a file")
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / path.name
        save(whole)
        with whole.open("rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)


def write_json(path: Path, content: Any) -> None:
    """Write JSON; NaN becomes null, so that every reader can read it."""
    text = json.dumps(finite(content), indent=1, allow_nan=False)
    write(path, lambda file: file.write_text(text))


def save_state(path: Path, state: Any) -> None:
    """torch.save by way of memory: writing to a file itself, it makes an error of its own of a full disk."""
    import torch

    whole = BytesIO()
    torch.save(state, whole)
    path.write_bytes(whole.getbuffer())


def finite(value: Any) -> Any:
    """The value with null for each NaN and infinity in it, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock file `path`, which is made with its folder; filelock.Timeout if another process keeps it."""
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout)
    try:
        yield
    finally:
        lock.release()


# Reading


def read(path: Path, parse: Callable[[Path], T]) -> T | None:
    """Return what `parse` makes of a file of this home, or None; a damaged file is renamed and reported."""
    try:
        return parse(path) if path.is_file() else None
    except FileNotFoundError:
        return None  # another process has just removed it
    except BAD as error:
        set_aside(path, error)
    except PermissionError as error:
        _tell(f"{path} cannot be read, and counts as not there: {error.strerror}")
    except OSError as error:  # the machine's trouble, not the file's
        raise RunFailed(f"{path} cannot be read: {error.strerror or error}") from error
    return None


def stamp(path: Path) -> list[int] | None:
    """A file's size and time, by which a change is noticed; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def read_json(path: Path, check: Callable[[Any], T] = lambda content: content) -> T | None:
    """Return what `check` makes of the content of a JSON file, as `read` does."""
    return read(path, lambda file: check(load_json(bounded_file(file, MOST_JSON))))


def load_json(text: bytes) -> Any:
    """Parse JSON that has no NaN and no infinity in it; ValueError, RecursionError."""
    return json.loads(text, parse_constant=_no_number)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def bounded(stream: IO[bytes] | BufferedIOBase, most: int) -> bytes:
    """What is left in a stream that has at most `most` bytes; ValueError."""
    content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes")
    return content


def bounded_file(path: Path, most: int) -> bytes:
    """The content of a file that has at most `most` bytes; ValueError."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size  # Python takes room for all that it is asked to read
        return bounded(stream, min(size, most))


def array(content: bytes) -> NDArray[Any]:
    """The array that a .npy file's content is: never more than is there, whatever its header promises; ValueError."""
    stream = BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"it is written in version {version}")
        shape, by_columns, kind = np.lib.format.read_array_header_1_0(stream)
    except ValueError:
        raise
    except Exception as error:  # what Python's parser and tokenizer have raised in NumPy's hands
        raise ValueError(f"its header cannot be read: {type(error).__name__}") from None
    start = stream.tell()
    there = len(content) - start
    if kind.hasobject or min(shape, default=1) < 0 or math.prod(shape) * kind.itemsize != there:
        raise ValueError(f"its header promises {kind} of shape {brief(str(shape))}, and it has {there:,} bytes")
    if not there:
        return np.empty(shape, kind)
    return np.frombuffer(content, kind, offset=start).reshape(shape, order="F" if by_columns else "C")


def set_aside(path: Path, why: BaseException | str) -> None:
    """Rename a damaged file, so that it is made again and can still be examined; print one line about it."""
    aside = next(name for i in itertools.count(1) if not (name := path.with_name(f"{path.name}.bad-{i}")).exists())
    try:
        path.rename(aside)
        done = f"set aside as {aside.name}"
    except OSError as error:
        done = f"left there, since it cannot be renamed ({error.strerror})"
    _tell(f"{path} is damaged and counts as not there: {brief(why)}; {done}")


def brief(why: BaseException | str) -> str:
    """What is wrong, in at most 200 characters of one line."""
    text = one_line(why, 200)
    return text if isinstance(why, str | ValueError) else f"{type(why).__name__}: {text}"


def _tell(line: str) -> None:
    print(f"dpbench: {line}", file=sys.stderr)


def read_stranger(path: Path, most: int) -> bytes:
    """Read a file of another home: no link, no device, at most `most` bytes; ValueError, OSError."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("a link or no regular file")
    return bounded_file(path, most)
