"""Jobs in worker processes: results, exceptions, workers that die, and stopping early."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dpbench.errors import RunFailed
from dpbench.experiments.executors import run_all


def work(job: tuple[str, Any]) -> Any:
    """Do as the job says."""
    kind, value = job
    match kind:
        case "die":
            time.sleep(0.3)
            os._exit(7)
        case "exit":
            raise SystemExit(value)
        case "killed":  # the first time, as for want of memory
            started = Path(value, "killed")
            if not started.exists():
                started.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            child = os.fork()
            if child:
                Path(value, str(child)).touch()
            time.sleep(600)
        case "fork":
            child = os.fork()
            if not child:
                time.sleep(600)
            Path(value, str(child)).touch()
        case "fork and come back":
            os.fork()
        case "thread":
            threading.Thread(target=time.sleep, args=(600,)).start()
        case "settings":
            torch.set_default_dtype(torch.float64)
            os.environ["DPBENCH_TEST_SETTING"] = "1"
            os.chdir("/")
        case "shown":
            return torch.get_default_dtype(), os.environ.get("DPBENCH_TEST_SETTING"), os.getcwd()
        case "raise":
            raise ValueError(value)
        case "unpicklable":
            return lambda: value
        case "threads":
            return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
        case "wait":
            Path(value, str(os.getpid())).touch()
            time.sleep(20)
            Path(value, "went on").touch()
    return value, os.getpid()


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_every_job_comes_back_once_with_its_result_or_exception() -> None:
    jobs = [("value", 1), ("raise", "on purpose"), ("value", 2), ("unpicklable", 0), ("value", 3), ("threads", 0)]
    outcomes = dict(run_all(work, jobs, workers=2, threads=1))
    assert outcomes.keys() == set(jobs)
    assert [outcomes["value", i][0] for i in (1, 2, 3)] == [1, 2, 3]
    assert os.getpid() not in {outcomes["value", i][1] for i in (1, 2, 3)}
    assert isinstance(outcomes["raise", "on purpose"], ValueError)
    assert str(outcomes["raise", "on purpose"]) == "on purpose"
    assert isinstance(outcomes["unpicklable", 0], Exception)
    assert outcomes["threads", 0][0] == 1


def test_a_worker_that_dies_fails_its_own_job_only() -> None:
    jobs = [("value", 1), ("die", 0), ("value", 2), ("die", 1), ("value", 3)]
    found = list(run_all(work, jobs, workers=2))
    assert sorted(job for job, _ in found) == sorted(jobs)
    for job, outcome in found:
        if job[0] == "die":
            assert isinstance(outcome, RunFailed)
            assert str(outcome) == "the worker process died: it ended itself with exit status 7"
        else:
            assert outcome[0] == job[1]


def test_a_worker_that_dies_while_the_caller_is_busy() -> None:
    """The pool is found broken when the next job is handed to it."""
    found = []
    for job, outcome in run_all(work, [("value", 1), ("die", 0), ("value", 2)], workers=2):
        found.append(job)
        if job == ("value", 1):
            time.sleep(1.5)
        assert isinstance(outcome, RunFailed) == (job[0] == "die")
    assert sorted(found) == [("die", 0), ("value", 1), ("value", 2)]


def test_leaving_early_stops_the_workers(tmp_path: Path) -> None:
    iterator = run_all(work, [("value", 1), ("wait", str(tmp_path)), ("wait", str(tmp_path))], workers=2)
    job, (_, pid) = next(iterator)
    assert job == ("value", 1)
    while not list(tmp_path.iterdir()):
        time.sleep(0.05)
    iterator.close()
    assert not (tmp_path / "went on").exists()
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert not any(alive(pid) for pid in [pid, *pids])


def test_leaving_early_when_a_worker_has_died(tmp_path: Path) -> None:
    iterator = run_all(work, [("value", 1), ("die", 0), ("wait", str(tmp_path))], workers=3)
    assert next(iterator)[0] in (("value", 1), ("die", 0))  # whichever worker starts first
    time.sleep(1.5)
    iterator.close()
    assert not (tmp_path / "went on").exists()
    assert not any(alive(int(path.name)) for path in tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 3])
def test_no_jobs(workers: int) -> None:
    assert list(run_all(work, [], workers)) == []


def test_a_job_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    jobs = [("hang", str(tmp_path)), ("value", 1), ("value", 2)]
    outcomes = dict(run_all(work, jobs, workers=1, timeout_s=4.0))
    assert str(outcomes[jobs[0]]) == "did not end within 4 s (--cell-timeout); it was killed"
    assert [outcomes[job][0] for job in jobs[1:]] == [1, 2]
    [child] = tmp_path.iterdir()
    assert not alive(int(child.name))


def test_what_a_job_leaves_running_ends_with_its_worker(tmp_path: Path) -> None:
    """The next job has a worker of its own, and the iterator ends."""
    kinds = ["fork", "thread", "fork and come back"]
    found = list(run_all(work, [*((kind, str(tmp_path)) for kind in kinds), ("value", 1)], workers=1))
    assert [job[0] for job, _ in found] == [*kinds, "value"]
    assert len({pid for _, (_, pid) in found}) == 4
    assert not any(alive(int(path.name)) for path in tmp_path.iterdir())


def test_a_job_that_exits_fails_as_one_that_raises() -> None:
    [(_, outcome)] = run_all(work, [("exit", 3)], workers=1)
    assert isinstance(outcome, SystemExit)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_was_killed_beside_others_is_tried_again_alone(workers: int, tmp_path: Path) -> None:
    found = dict(run_all(work, [("killed", str(tmp_path)), ("value", 1)], workers))
    outcome = found["killed", str(tmp_path)]
    if workers == 2:
        assert outcome[0] == str(tmp_path)
    else:
        assert str(outcome) == "the worker process died: it was killed by SIGKILL, perhaps for want of memory"


def test_a_job_finds_the_settings_that_the_first_found() -> None:
    jobs = [("shown", 0), ("settings", 0), ("shown", 1)]
    found = dict(run_all(work, jobs, workers=1))
    assert found["shown", 1] == found["shown", 0] == (torch.float32, None, os.getcwd())
