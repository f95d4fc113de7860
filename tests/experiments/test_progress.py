"""The bar of a whole command: what is running, how many are done, and an ETA only once it can be told."""

import io

import pytest
from rich.console import Console

from dpbench.experiments.progress import OVERHEAD, Running


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def text(bar: Running) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(bar.get_renderable())
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bar(clock: Clock) -> Running:
    return Running("quick", Console(file=io.StringIO()), clock)


def test_an_eta_comes_with_the_second_run_and_weighs_by_keep(bar: Running, clock: Clock) -> None:
    bar.plan({1: 0.4, 2: 0.4, 3: 0.4, 4: 0.9}, runs=4, workers=1)
    for key in (1, 2):
        assert bar.seconds_left() is None
        assert "ETA" not in text(bar)
        bar.begin(key, f"orderdp keep=0.4 seed={key}")
        clock.now += 10
        bar.end(key, "FINISHED")
    assert OVERHEAD == 0.1
    assert bar.seconds_left() == pytest.approx(10 + 20), "0.5 takes 10 s, so 1.0 takes 20 s"
    bar.begin(3, "orderdp keep=0.4 seed=3")
    clock.now += 4
    assert bar.seconds_left() == pytest.approx(6 + 20)
    bar.end(3, "FINISHED")
    assert "ETA" in text(bar)


def test_running_ones_are_named_and_lost_ones_counted(bar: Running) -> None:
    bar.plan({1: 0.3, 2: 0.3, 3: 1.0}, runs=2, workers=2)
    bar.begin(3, "a proxy of seed 0")
    bar.begin(1, "el2n keep=0.3 seed=0")
    assert "running: a proxy of seed 0, el2n keep=0.3 seed=0" in text(bar)
    bar.end(3, None)
    assert "0/2" in text(bar), "a proxy is no run"
    bar.end(1, "DIVERGED")
    bar.end(2, "FAILED")  # left out, it never began
    assert "2/2" in text(bar)
    assert "quick, 1 failed, 1 diverged" in text(bar)
    assert "running" not in text(bar)


def test_controls_join_the_same_bar(bar: Running, clock: Clock) -> None:
    bar.plan({1: 0.9, 2: 0.9}, runs=2, workers=2)
    for key in (1, 2):
        bar.begin(key, str(key))
    clock.now = 5
    for key in (1, 2):
        bar.end(key, "FINISHED")
    assert bar.seconds_left() == 0
    bar.plan({3: 0.4, 4: 0.4}, runs=2, workers=2)
    assert "2/4" in text(bar)
    assert bar.seconds_left() == pytest.approx(2.5)
