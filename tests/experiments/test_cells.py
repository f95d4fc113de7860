"""A grid run cell by cell, by the commands that are listed for a scheduler."""

import random
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dpbench.analysis import board as boards
from dpbench.cli import app
from dpbench.experiments import grid as grids

GRID = """\
datasets: ["synthetic[n=200,n_test=100,d=16,classes=4]"]
models: ["mlp[width=8,depth=1]"]
methods: [full, uniform, infobatch, "el2n[at_epoch=1]"]
keep: [0.3, 0.5]
seeds: 2
recipe: {epochs: 5, batch_size: 16, lr: 0.1}
"""


@pytest.fixture
def dpbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Give `dpbench(words)`: the command in this process, without workers; what it printed."""

    def here(do: Any, jobs: Any, *_: Any) -> Iterator[tuple[Any, Any]]:
        return ((job, do(job)) for job in jobs)

    monkeypatch.setattr(grids, "run_all", here)
    monkeypatch.setattr("dpbench.reports.send.publish", lambda *_: None)

    def run(words: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            app.main()
        said = capsys.readouterr()
        assert not ended.value.code, said.err
        return said.out

    return run


def accuracies(name: str) -> dict[str, float]:
    board = boards.load(name, None)
    return {key: one["metrics"]["accuracy"] for key, one in (board.results | board.controls).items()}


def test_commands_in_any_order_make_the_grid(
    dpbench: Callable[[list[str]], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(GRID)
    of_all, of_each = tmp_path / "all", tmp_path / "each"
    monkeypatch.setenv("DPBENCH_HOME", str(of_all))
    dpbench(["dpbench", "run", str(file)])
    expected = accuracies("small")
    assert len(expected) > len(grids.read_manifest("small").cells), "infobatch should have controls here"

    monkeypatch.setenv("DPBENCH_HOME", str(of_each))
    lines = dpbench(["dpbench", "run", str(file), "--list-commands"]).splitlines()
    assert len(lines) == len(grids.read_manifest("small").cells)
    random.Random(0).shuffle(lines)
    for line in [*lines, lines[0]]:  # once more: safe to run twice
        place, _, rest = line.partition(" && ")
        assert place == f"cd {Path.cwd()}"
        home, *words = shlex.split(rest)
        assert home == f"DPBENCH_HOME={of_each}"
        dpbench(words)
    assert accuracies("small") == expected, "with the controls"
    assert dpbench(["dpbench", "run", str(file), "--list-commands"]) == ""
    monkeypatch.setattr(grids, "run_all", None)  # nothing is left to do
    dpbench(["dpbench", "run", str(file)])
    assert accuracies("small") == expected


def test_a_cell_that_nobody_listed_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(GRID)
    monkeypatch.setattr(sys, "argv", ["dpbench", "run", str(file), "--cell", "0" * 16])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the grid small has no cell 0000000000000000 here" in said
    assert "--list-commands lists them" in said
