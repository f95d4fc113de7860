"""The folder of results: what is written is whole, what is read is checked, and what fails says so in one line."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import resource
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpbench import store
from dpbench.errors import RunFailed, UsageError
from dpbench.selections import Selections


def say(text: str) -> Callable[[Path], Any]:
    return lambda file: file.write_text(text)


# writing


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 4 KB, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "save",
    [
        lambda path: store.write_json(path, ["x" * 9000]),
        lambda path: Selections([torch.randperm(9000)], 9000, {}).write(path),
        lambda path: store.write(path, lambda file: store.save_state(file, torch.rand(5000))),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    small_disk: None, tmp_path: Path, save: Callable[[Path], None]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RunFailed, match=r"file could not be written: File too large; [\d,.]+ MB are free in /"):
        save(path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


def test_a_file_in_the_place_of_a_folder_and_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").touch()
    for act in (lambda path: store.write_json(path, 1), lambda path: store.locked(path).__enter__()):
        with pytest.raises(RunFailed, match=r"runs/a/file could not be written: Not a directory; .* MB are free in"):
            act(tmp_path / "runs" / "a" / "file")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunFailed, match="No space left on device"):
        store.write_json(tmp_path / "file", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "deep" / "target", tmp_path / "link"
    target.parent.mkdir()
    target.write_text("old")
    inode = target.stat().st_ino
    link.symlink_to(target)
    store.write(link, say("new"))
    assert link.is_symlink()
    assert (target.read_text(), target.stat().st_ino) == ("new", inode)
    target.unlink()
    store.write(link, say("again"))
    assert (link.is_symlink(), target.read_text()) == (True, "again")


def test_devices_and_pipes_are_written_to(tmp_path: Path) -> None:
    store.write(Path("/dev/null"), say("gone"))
    assert Path("/dev/null").is_char_device()
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    store.write(pipe, say("through"))
    reader.join(10)
    assert (got, pipe.is_fifo()) == (["through"], True)
    with pytest.raises(RunFailed, match=r"/dev/full could not be written: No space left on device"):
        store.write(Path("/dev/full"), say("more"))


def test_folders_and_disks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is a folder; give the path of a file"):
        store.write(tmp_path, say("x"))
    monkeypatch.setattr(Path, "is_block_device", lambda path: True)
    with pytest.raises(UsageError, match="/dev/null is a disk"):
        store.write(Path("/dev/null"), say("x"))


# reading


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"", b"[" * 100_000, b'{"a": NaN}', b"[-Infinity]", b"9" * 5000]
)
def test_json_that_is_none_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    path = tmp_path / "file.json"
    for number in (1, 2):
        path.write_bytes(content)
        assert store.read_json(path) is None
        told = capsys.readouterr().err
        assert told.startswith(f"dpbench: {path} is damaged")
        assert told.endswith(f"set aside as file.json.bad-{number}\n")
        assert told.count("\n") == 1
        assert (tmp_path / f"file.json.bad-{number}").read_bytes() == content
    assert not path.exists()


def test_files_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.json"
    path.write_text("[1]")

    def refuse(number: int) -> Callable[..., Any]:
        def act(*_: Any, **__: Any) -> Any:
            raise OSError(number, os.strerror(number))

        return act

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse(errno.EACCES))
        assert store.read_json(path) is None
    assert "file.json cannot be read, and counts as not there: Permission denied" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse(errno.EMFILE))
        with pytest.raises(RunFailed, match=r"file.json cannot be read: Too many open files"):
            store.read_json(path)
    assert store.read_json(path) == [1], "the machine's trouble is not the file's: it is still there"


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_JSON", 10)
    (tmp_path / "file").write_text("[" + "1," * 10 + "1]")
    assert store.read_json(tmp_path / "file") is None


# selections


def npz(path: Path, **changes: Any) -> None:
    """A file of selections with other arrays."""
    Selections([torch.tensor([1, 5])], 9, {}).write(path)
    arrays = {name: value for name, value in (dict(np.load(path)) | changes).items() if value is not None}
    np.savez_compressed(path, **arrays)


def test_nothing_large_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i4", "fortran_order": False, "shape": (2**30,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("indices.npy", "w") as stream:
        stream.write(header.getvalue())
        for _ in range(16):
            stream.write(bytes(2**22))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match=r"[\d,]+ bytes unpacked; at most 1,000,000 fit"):
        Selections.read(path, 1_000_000)


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": np.array([0, 3])},
        {"offsets": np.array([1, 2])},
        {"offsets": np.array([0, 2, 1, 2])},
        {"offsets": np.array([0, -1, 2])},
        {"offsets": np.array([])},
        {"indices": np.array([1, 9], dtype=np.int32)},
        {"indices": np.array([-1, 5], dtype=np.int32)},
        {"indices": np.array([[1, 5]], dtype=np.int32)},
        {"indices": np.array([{}, {}])},
        {"n": np.array([9, 9])},
        {"n": np.array("many")},
        {"n": np.array(9.0)},
        {"indices": np.array([1.0, 5.5])},
        {"offsets": np.array([0.0, 2.0])},
        {"weights": np.ones(2, dtype=np.complex64)},
        {"config": np.array("[1]")},
        {"weights": np.ones(3, dtype=np.float32)},
        {"scores": np.ones(3, dtype=np.float32)},
        {"positions": np.arange(3)},
        {"evil": np.arange(3)},
        {"n": None},
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    npz(tmp_path / "s.npz", **changes)
    with pytest.raises(ValueError, match="not a file of selections"):
        Selections.read(tmp_path / "s.npz")


def test_a_truncated_file_and_a_lying_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    npz(path)
    whole = path.read_bytes()
    for length in (0, 10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a file of selections"):
            Selections.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("indices.npy", numpys("(1099511627776,)"))
    with pytest.raises(
        ValueError, match=r"indices: its header promises int64 of shape \(1099511627776,\), and it has 8 b"
    ):
        Selections.read(path)


def numpys(shape: str, kind: str = "'<i8'", content: bytes = bytes(8)) -> bytes:
    """A .npy file with any header."""
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    ("shape", "kind", "content"),
    [
        ("(4000000000,)", "'<i8'", bytes(8)),
        ("(4611686018427387904,)", "'<i8'", bytes(8)),
        ("(-1,)", "'<i8'", bytes(8)),
        ("(2,)", "'<i8'", bytes(8)),
        ("((((", "'<i8'", bytes(8)),  # tokenize.TokenError
        ("(1,)", "'i4,(2'", bytes(8)),  # SyntaxError
        ("-" * 9000 + "1", "'<i8'", bytes(8)),  # MemoryError
        ("(1,)", "'O'", bytes(8)),
        ("(0, 99999999999999999999)", "'<i8'", b""),
    ],
)
def test_an_array_is_never_more_than_its_bytes(shape: str, kind: str, content: bytes) -> None:
    assert store.array(numpys("(1,)")).tolist() == [0]
    assert store.array(numpys("(0,)", content=b"")).tolist() == []
    with pytest.raises(ValueError, match=r"header|shape|dimension"):
        store.array(numpys(shape, kind, content))


def test_a_member_that_unpacks_to_more_than_it_says_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    npz(path)
    packed = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        whole = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in whole.items():
            archive.writestr(name, content + (bytes(2**26) if name == "indices.npy" else b""))
    packed = bytearray(path.read_bytes())
    size = len(whole["indices.npy"])
    claimed = (size + 2**26).to_bytes(4, "little")
    path.write_bytes(packed.replace(claimed, size.to_bytes(4, "little")))
    tracemalloc.start()
    with pytest.raises(ValueError, match="not a file of selections"):
        Selections.read(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**24


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_fail_in_their_own_ways_are_refused(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "s.npz"
    npz(path)
    with zipfile.ZipFile(path) as archive:
        whole = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in whole.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"not a file of selections.*a way that NumPy does not use"):
        Selections.read(path)


def test_any_damage_to_a_file_of_selections_is_that_file_s_fault(tmp_path: Path) -> None:
    path, rng = tmp_path / "s.npz", random.Random(0)
    npz(path)
    whole = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            Selections.read(path)
