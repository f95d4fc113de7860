"""A command that has nothing to do knows it without torch; whatever might give it something to do makes it look."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

GRID = """
datasets: ["synthetic[n=60,n_test=30,d=4,classes=2]"]
models: ["mlp[width=2,depth=1]"]
methods: [full, uniform, mine]
keep: [0.5]
seeds: 1
recipe: {epochs: 8, batch_size: 16, lr: 0.1}
"""
METHOD = """
from dpbench.methods.uniform import Uniform as Base

class Mine(Base):
    pass
"""
CODE = (
    "import sys; sys.argv = ['dpbench', *sys.argv[1:]]\nfrom dpbench.cli import main\ntry:\n    main()\n"
    "except SystemExit as end:\n    assert not end.code, end.code\nprint('torch' in sys.modules)\n"
)


@pytest.fixture
def looked(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Give `looked(*options)`: whether `run g.yaml` had to look at its data and methods."""
    plugins = tmp_path / "plugins" / "methods"
    plugins.mkdir(parents=True)
    (plugins / "mine.py").write_text(METHOD)
    (tmp_path / "g.yaml").write_text(GRID)
    monkeypatch.setenv("DPBENCH_PATH", str(plugins.parent))

    def run(*options: str) -> bool:
        arguments = [sys.executable, "-c", CODE, "run", "g.yaml", "--jobs", "1", *options]
        done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
        assert done.returncode == 0, done.stderr
        assert "uniform" in done.stdout
        return done.stdout.splitlines()[-1] == "True"

    return run


def test_a_command_looks_again_when_anything_has_changed(looked, home: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert looked()
    assert not looked()
    assert not looked("--sort", "cost"), "how it is shown is another matter"
    (tmp_path / "plugins" / "methods" / "mine.py").write_text(METHOD + "    period = 0\n")
    assert looked(), "a method's code"
    assert not looked()
    grid = tmp_path / "g.yaml"
    grid.write_text(GRID.replace("lr: 0.1", "lr: 0.2"))
    assert looked(), "the grid"
    assert not looked()
    grids = home / "grids" / "g.json"
    os.utime(grids, (0, 0))
    assert looked(), "another command may have written the manifest"
    for mark in (home / "runs").glob("*/done"):
        mark.unlink()
    assert looked(), "a run that is not done"
    assert not looked()
