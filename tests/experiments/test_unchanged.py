"""A command that has nothing to do knows it without torch; whatever might give it something to do makes it look."""

import io
import os
import subprocess
import sys
import types
from collections.abc import Callable
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import pytest
from forks import FORKS
from rich.console import Console
from synthetic_board import make, usual

from dpbench import places, source, store
from dpbench.cli import app
from dpbench.experiments import grid as grids
from dpbench.experiments import unchanged
from dpbench.reports import files, send

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
CODE = (  # without figures and MLflow
    "import sys; sys.argv = ['dpbench', *sys.argv[1:]]\nfrom dpbench.reports import files as report, send\n"
    "from dpbench.cli.app import main\nreport.files = lambda board: []\nsend.send = lambda *given: ''\n"
    "try:\n    main()\n"
    "except SystemExit as end:\n    assert not end.code, end.code\nprint('torch' in sys.modules)\n"
)
COMMAND = ["run", "g.yaml", "--jobs", "1"]


def command(folder: Path, environment: dict[str, str], options: tuple[str, ...]) -> None:
    """Run the grid in this process, which has torch already; write down whether the command had to look."""
    os.environ.update(environment)
    os.chdir(folder)
    for package, folders in places.FOLDERS.items():
        folders.append(str(folder / "plugins" / package.removeprefix("dpbench.")))
    looked = []
    find, unchanged.find = unchanged.find, lambda name: (found := find(name), looked.append(found is None))[0]
    grids.run_all = lambda do, jobs, *_: ((job, do(job)) for job in jobs)
    files.files, send.send = lambda board: [], lambda *given: ""
    sys.argv = ["dpbench", *COMMAND, *options]
    with pytest.raises(SystemExit) as end:
        app.main()
    assert not end.value.code
    (folder / "looked").write_text(str(looked))


@pytest.fixture
def looked(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Give `looked(*options)`: whether `run g.yaml` had to look at its data and methods.

    `alone` it is a process that has torch afterwards only if it looked; others are forked from one that has it before.
    """
    ensure_running()  # before there are plug-ins, which its forks are told of
    plugins = tmp_path / "plugins" / "methods"
    plugins.mkdir(parents=True)
    (plugins / "mine.py").write_text(METHOD)
    (tmp_path / "g.yaml").write_text(GRID)
    monkeypatch.setenv("DPBENCH_PATH", str(plugins.parent))

    def run(*options: str, alone: bool = False) -> bool:
        if alone:
            arguments = [sys.executable, "-c", CODE, *COMMAND, *options]
            done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
            assert done.returncode == 0, done.stderr
            assert "uniform" in done.stdout
            return done.stdout.splitlines()[-1] == "True"
        process = FORKS.Process(target=command, args=(tmp_path, dict(os.environ), options))
        process.start()
        process.join()
        assert process.exitcode == 0
        return (tmp_path / "looked").read_text() == "[True]"

    return run


def test_a_command_looks_again_when_anything_has_changed(looked, home: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert looked(alone=True)
    assert not looked(alone=True)
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


@pytest.fixture
def done(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells of a manifest that are all taken for done, at a time when no plug-in is a single file."""
    board = make({("full", 1.0): [0.9], ("uniform", 0.5): [0.8, None]})
    grids.Manifest(board.grid, board.cells, {}).save()
    monkeypatch.setattr(unchanged, "final", lambda key: board.results.get(key))
    monkeypatch.setattr(places, "FILES", {})
    monkeypatch.setattr(source, "followed", {})
    return list(board.results)


def test_a_file_that_is_changed_while_the_command_runs_is_looked_at_by_the_next(done, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "module.py"
    file.write_text("a = 1")
    module = types.ModuleType("module")
    module.__file__ = str(file)
    source.digest(module)
    unchanged.remember("c", "made", done, {})
    assert unchanged.find("c") == ("made", done)
    file.write_text("a = 12")
    assert unchanged.find("c") is None
    unchanged.remember("c", "made", done, {})
    assert unchanged.find("c") is None, "what it is now is not what was read"


def test_a_run_that_another_command_finishes_makes_it_look_for_controls(done: list[str]) -> None:
    unchanged.remember("c", "made", done, {})
    assert unchanged.find("c")
    [other] = grids.read_manifest("made").cells.keys() - set(done)
    store.write(store.run_folder(other) / "done", lambda file: file.touch())
    assert unchanged.find("c") is None


def test_what_is_not_done_or_may_change_unseen_is_not_remembered(done, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    unchanged.remember("c", "made", [*done, "f" * 16], {})
    unchanged.remember("c", "made", done, None)
    unchanged.remember("c", "other", done, {})
    monkeypatch.setattr(places, "FILES", {"dpbench.methods.a": "a.py"})
    unchanged.remember("c", "made", done, {})
    assert unchanged.find("c") is None


def test_the_files_of_our_datasets_are_known_and_those_of_others_are_not(
    tmp_path: Path, add_home: Callable[[Path], None], unplug: None
) -> None:
    assert unchanged.data(["digits", "synthetic[n=60]"], None) == {}
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{part}-ubyte").write_bytes(b"1")
    before = unchanged.data(["fashion_mnist"], tmp_path)
    assert before
    assert before == unchanged.data(["fashion_mnist"], tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"12")
    changed = unchanged.data(["fashion_mnist"], tmp_path)
    assert changed
    assert changed != before
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"1")
    assert store.stamp(tmp_path) != changed[str(tmp_path)], "one that is found before"
    folder = tmp_path / "plugins" / "datasets"
    folder.mkdir(parents=True)
    (folder / "theirs.py").write_text("from dpbench.data import Dataset\n\nclass Theirs(Dataset):\n    pass\n")
    add_home(folder.parent)
    assert unchanged.data(["digits", "theirs"], None) is None


def test_a_command_is_named_by_all_that_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g.yaml").write_text("keep: [0.5]")
    monkeypatch.chdir(tmp_path)
    names = [unchanged.command(None, seeds=2), unchanged.command("g.yaml", seeds=2)]
    assert names == [unchanged.command(None, seeds=2), unchanged.command("g.yaml", seeds=2)]
    names += [unchanged.command("g.yaml", seeds=3), unchanged.command("gone.yaml", seeds=3)]
    (tmp_path / "g.yaml").write_text("keep: [0.3]")
    names.append(unchanged.command("g.yaml", seeds=2))
    monkeypatch.setenv("DPBENCH_PATH", str(tmp_path))
    names.append(unchanged.command("g.yaml", seeds=2))
    monkeypatch.chdir("/")
    names.append(unchanged.command("g.yaml", seeds=2))
    monkeypatch.setattr(source, "everything", lambda: "other code")
    names.append(unchanged.command("g.yaml", seeds=2))
    assert len({*names}) == len(names)


def test_code_pages_grids_and_figures_of_papers_are_all_that_a_board_is_made_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, home = tmp_path / "dpbench", tmp_path / "home"
    ours = (
        "cli.py",
        "page/page.html",
        "page/page.css",
        "page/page.js",
        "leaderboards/g.yaml",
        "leaderboards/published/a.csv",
    )
    for file in [*(package / name for name in ours), home / "methods" / "mine.py", home / "datasets" / "d.py"]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a")
    monkeypatch.setattr(places, "HERE", package)
    monkeypatch.setattr(places, "FOLDERS", {kind: [str(home / kind)] for kind in places.KINDS})
    monkeypatch.setattr(places, "LEADERBOARDS", package / "leaderboards")
    made = source.everything.__wrapped__
    seen = {made()}
    for file in [*tmp_path.rglob("*.*")]:
        file.write_text("b")
        assert made() not in seen, file
        seen.add(made())
    (home / "methods" / "new.py").write_text("")
    assert made() not in seen


def test_a_board_is_sent_again_unless_files_database_and_artifacts_are_as_they_were(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, sent, console = usual(), [], Console(file=io.StringIO())
    page = home / "page.html"
    (home / "artifacts" / "made leaderboard").mkdir(parents=True)
    for file in (page, home / "mlflow.db"):
        file.write_text("a")
    monkeypatch.setattr(files, "files", lambda board: [page])

    def send_(grid: str, uri: str | None, console: Console, root: Path | None) -> None:
        sent.append(grid)
        text = send._state(grid, uri, send._stamps([page]))
        store.write(send._sent(grid), lambda file: file.write_text(text))

    monkeypatch.setattr(send, "send", send_)

    def again(uri: str | None = None) -> bool:
        count = len(sent)
        send.publish(board, uri, console)
        return len(sent) > count

    assert again()
    assert not again()
    page.write_text("another page")
    assert again()
    assert not again()
    (home / "mlflow.db").write_text("changed by others")
    assert again()
    assert not again()
    (home / "mlflow.db-wal").write_text("not written back yet")
    assert again()
    assert again(f"sqlite:///{home / 'another.db'}")
    assert again()
    (home / "artifacts" / "made leaderboard").rmdir()
    assert again()
    (home / "mlflow.db").unlink()
    assert again()
    assert again("http://127.0.0.1:5000")
    assert again("http://127.0.0.1:5000"), "of a server nothing is known"
