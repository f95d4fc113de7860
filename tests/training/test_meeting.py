"""What the first rank finds, the others find or are told why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch.distributed as dist

from dpbench.errors import RunFailed
from dpbench.training.meeting import Meeting


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
    with pytest.raises(RunFailed, match="rank 1 of 2: rank 0 has failed"):
        second.decided(full)
