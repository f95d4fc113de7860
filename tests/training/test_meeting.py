"""What the first rank finds, the others find or are told why not."""

from __future__ import annotations

import itertools
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dpbench.errors import RunFailed, UsageError
from dpbench.experiments import launched
from dpbench.spec import RunSpec
from dpbench.training import meeting
from dpbench.training.meeting import Meeting
from dpbench.training.ranks import Together


def meetings() -> list[Meeting]:
    """Two ranks of one run in this process."""
    shared = dist.HashStore()
    found = [object.__new__(Meeting) for _ in range(2)]
    for rank, one in enumerate(found):
        one.rank, one.size, one.store = rank, 2, shared
    return found


@pytest.mark.parametrize("what", [None, "a result"])
def test_both_find_the_same(what: Any) -> None:
    assert [one.decided(lambda: what) for one in meetings()] == [what, what]


def test_a_rank_that_sees_another_folder_says_so() -> None:
    first, second = meetings()
    first.decided(lambda: "a result")
    with pytest.raises(RunFailed, match=r"rank 1 of 2: it does not see what rank 0 does; is \$DPBENCH_HOME shared\?"):
        second.decided(lambda: None)


def test_nobody_waits_for_a_first_rank_that_failed() -> None:
    first, second = meetings()

    def full() -> None:
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        first.decided(full)
    with pytest.raises(RunFailed, match="rank 1 of 2: rank 0 has failed: the disk"):
        second.decided(full)


def test_nobody_waits_for_a_first_rank_that_cannot_lock_the_run(tmp_path: Path) -> None:
    ranks = [object.__new__(Together) for _ in range(2)]
    for rank, one in enumerate(meetings()):
        ranks[rank].first, ranks[rank].meeting = rank == 0, one
    (tmp_path / "file").touch()
    with pytest.raises(RunFailed), ranks[0].locked(tmp_path / "file" / "lock"):
        pass
    with pytest.raises(RunFailed, match=r"rank 0 has failed: .*lock could not be written"), ranks[1].locked(tmp_path):
        ranks[1].decided(lambda: None)


def test_a_rank_that_is_told_to_stop_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "over", threading.Event())
    threading.Timer(0.1, meeting.over.set).start()
    with pytest.raises(RunFailed, match="a rank is gone, and this one was told to stop"):
        meeting.heard(dist.HashStore(), "told 0")


def test_a_store_that_is_gone_ends_the_waiting() -> None:
    server = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    client = dist.TCPStore("127.0.0.1", server.port, None, False)
    del server
    with pytest.raises(RunFailed, match="the ranks have lost touch with each other: "):
        meeting.heard(client, "told 0")


def test_a_rank_that_lacks_a_source_leaves_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    told = dist.HashStore()
    plug = tmp_path / "mine.py"
    plug.write_text("from dpbench.methods.uniform import Uniform\n\n\nclass Mine(Uniform):\n    pass\n")
    text = spec(str(plug)).model_dump_json()
    plug.unlink()
    monkeypatch.setattr(meeting, "place", lambda: told)
    monkeypatch.setattr(launched, "_told", itertools.count())
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    told.set("told 0", text)
    with pytest.raises(FileNotFoundError, match=r"mine\.py"):
        launched.follow(torch.device("cpu"), 1, None)


def test_a_port_that_is_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(
            UsageError, match=rf"cannot meet \(MASTER_ADDR, MASTER_PORT\): .*{port}.*address already in use"
        ):
            meeting.place.__wrapped__()
