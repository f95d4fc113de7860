"""The command line: what a user types, what comes back, and one clear line for each mistake."""

import errno
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import GRID

from dpbench import __version__, catalog, places, store
from dpbench.cli import app, complete
from dpbench.errors import UsageError
from dpbench.experiments import grid as grids
from dpbench.experiments import jobs
from dpbench.selections import Selections

METRICS = [  # item 8 of the issue
    "accuracy", "accuracy_best_epoch", "loss_test", "prune_ratio", "forward_saving", "samples_forward",
    "samples_backward", "optimizer_steps", "samples_proxy", "time_total_s", "time_train_s", "time_select_s",
    "time_probe_s", "time_proxy_s", "jaccard_epochs", "jaccard_epochs_chance", "gradient_cosine",
    "gradient_norm_ratio", "gradient_norm", "peak_memory_mb",
]  # fmt: skip
KEYS = [
    "method", "dataset", "model", "keep", "seeds", "accuracy_mean", "accuracy_ci95", "prune_ratio", "time_total_s",
    "jaccard_epochs", "gradient_cosine", "rank", "jaccard_seeds", "jaccard_seeds_chance",
]  # fmt: skip
METHODS = {
    "full", "full_short", "uniform", "uniform_epoch", "orderdp[explore=0.9]", "infobatch", "el2n[at_epoch=1]",
    "selective_backprop", "hardest",
}  # fmt: skip
N = 180


@dataclass
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def dpbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Give `dpbench(*arguments)`: the command, in this process, without the figures, which take seconds."""
    monkeypatch.setattr("dpbench.reports.files.files", lambda board: [])

    def run(*arguments: Any) -> Said:
        monkeypatch.setattr(sys, "argv", ["dpbench", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            app.main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


def runs_of(home: Path) -> dict[str, dict[str, Any]]:
    """The finished runs, by hash."""
    return {folder.parent.name: store.read_json(folder) for folder in home.glob("runs/*/result.json")}


def listed(home: Path) -> tuple[set[str], set[str]]:
    """The cells of `tiny`, and the controls at realised cost that it was given, by hash."""
    manifest = store.read_json(home / "grids" / "tiny.json")
    return set(manifest["cells"]), set(manifest["controls"])


# the finished grid


def test_a_grid_with_a_plug_in_runs_to_its_leaderboard(finished: Any) -> None:
    assert finished.done.returncode == 0, finished.done.stderr
    assert "orderdp[explore" in finished.done.stdout, "what looks like markup is text"
    assert "dpbench ui tiny" in finished.done.stdout
    assert "Traceback" not in finished.done.stderr
    cells, controls = listed(finished.home)
    assert len(cells) == 2 * (1 + 2 * 8)
    assert runs_of(finished.home).keys() == cells | controls
    assert controls
    assert not list(finished.home.parent.rglob(".dpbench")), "everything is under $DPBENCH_HOME"


def test_leaderboard_as_json(own_copy: Path, dpbench: Callable[..., Said]) -> None:
    said = dpbench("leaderboard", "tiny", "--format", "json")
    assert said.code == 0, said.err
    rows = json.loads(said.out)
    assert {row["method"] for row in rows} == METHODS
    assert len(rows) == 1 + 2 * 8
    for row in rows:
        assert set(KEYS) <= row.keys()
        assert row["seeds"] == 2
        assert row["rank"] >= 1
        assert 0 <= row["accuracy_mean"] <= 1
        assert row["accuracy_ci95"] > 0
        exact = row["method"].split("[")[0] in ("orderdp", "uniform", "uniform_epoch", "el2n", "hardest")
        if exact:
            assert row["prune_ratio"] == 1 - round(row["keep"] * N) / N, "to the last digit"
    missed = {row["method"]: row for row in rows if row["keep"] == 0.3 and row["control_keep"] is not None}
    assert missed.keys() == {"infobatch", "selective_backprop"}
    for row in missed.values():
        assert abs(row["control_keep"] - row["cost"]) <= 0.005
        assert row["difference_control"] is not None
    [infobatch] = [row for row in rows if row["method"] == "infobatch" and row["keep"] == 0.3]
    assert 0 < infobatch["prune_ratio"] < 0.7
    assert {row["kind"] for row in rows if row["method"] == "hardest"} == {"epoch"}, "known without its file"


@pytest.mark.parametrize(("form", "text"), [("csv", "rank,"), ("markdown", "| method |"), ("table", "method ")])
def test_leaderboard_as_text(own_copy: Path, dpbench: Callable[..., Said], form: str, text: str) -> None:
    said = dpbench("leaderboard", "tiny", "--format", form)
    assert said.code == 0, said.err
    assert re.search(r"orderdp\\?\[explore", said.out)
    assert text in said.out
    assert ("dpbench ui tiny" in said.out) == (form == "table")


def test_a_board_tells_where_to_go_on(own_copy: Path, dpbench: Callable[..., Said]) -> None:
    page, samples, mlflow = dpbench("leaderboard", "tiny").out.splitlines()[-3:]
    assert page.split() == ["Page:", str(own_copy / "leaderboards" / "tiny" / "tiny.html")]
    assert mlflow.split() == ["MLflow:", "dpbench", "ui", "tiny"]
    assert samples.split()[:4] == ["Samples:", "dpbench", "samples", "tiny"]
    said = dpbench(*shlex.split(samples)[2:])
    assert said.code == 0, said.err
    assert "times used" in said.out.splitlines()[0]


def test_mlflow_finds_every_metric_in_every_finished_run(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.home / 'mlflow.db'}")
    found = mlflow.search_runs(experiment_names=["tiny"], filter_string="attributes.status = 'FINISHED'")
    assert set(found["params.hash"]) == set.union(*listed(finished.home))
    missing = [name for name in METRICS if f"metrics.{name}" not in found or found[f"metrics.{name}"].isna().all()]
    assert missing == []
    for name in ("method", "dataset", "model", "keep", "seed", "budget", "hash", "torch", "commit"):
        assert found[f"params.{name}"].notna().all(), name
    ours = found[found["params.method"] == "orderdp[explore=0.9]"]
    assert set(ours["params.method.explore"]) == {"0.9"}
    for _, run in found.iterrows():
        result = store.read_json(finished.home / "runs" / run["params.hash"] / "result.json")
        for name in METRICS:
            value = result["metrics"].get(name)  # None: not measured, as a norm that is lost in the probe's noise
            assert run[f"metrics.{name}"] == pytest.approx(math.nan if value is None else value, nan_ok=True)


def test_mlflow_has_the_curves_and_the_files(finished: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    [run] = client.search_runs(
        [experiment], "params.method = 'uniform_epoch' and params.keep = '0.3' and params.seed = '1'"
    )
    result = store.read_json(finished.home / "runs" / run.data.params["hash"] / "result.json")
    curve = client.get_metric_history(run.info.run_id, "accuracy")
    assert [(point.step, point.value) for point in curve] == [
        (record["epoch"] + 1, record["accuracy"]) for record in result["epochs"]
    ]
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"result.json", "selections.npz"} <= names
    local = client.download_artifacts(run.info.run_id, "selections.npz")
    found = Selections.read(Path(local))
    assert (found.n, [len(rows) for rows in found.epochs]) == (N, [54] * 5)


def test_a_second_run_does_no_work(
    own_copy: Path, finished: Any, dpbench: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, unplug: None
) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_copy.glob("runs/*/*")}
    monkeypatch.setattr(grids, "run_all", lambda *_: pytest.fail("workers were started"))
    said = dpbench("run", finished.file, "--method", finished.plugin)
    assert said.code == 0, said.err
    assert {path: path.stat().st_mtime_ns for path in own_copy.glob("runs/*/*")} == before


def test_a_finished_grid_is_shown_from_a_home_that_cannot_be_written(
    own_copy: Path, finished: Any, dpbench: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, unplug: None
) -> None:
    def refuse(path: Path, *_: Any) -> Any:
        with store.told(path):
            raise OSError(errno.EROFS, "Read-only file system")

    shutil.rmtree(own_copy / "unchanged", ignore_errors=True)  # so that the command looks at its runs
    for name in ("write", "locked"):
        monkeypatch.setattr(store, name, refuse)
    monkeypatch.setattr("dpbench.reports.files.files", lambda board: refuse(own_copy / "leaderboards"))
    said = dpbench("run", finished.file, "--method", finished.plugin)
    assert said.code == 0, said.err
    assert "orderdp[explore" in said.out, "the table"
    [line] = said.err.splitlines()
    assert re.match("warning: .*Read-only file system.*dpbench sync tiny sends the results again", line)


def test_everything_in_mlflow_can_be_sent_again(
    own_copy: Path, empty_database: Path, dpbench: Callable[..., Said]
) -> None:
    from mlflow import MlflowClient

    shutil.copy(empty_database, own_copy / "mlflow.db")
    for _ in range(2):
        assert dpbench("leaderboard", "tiny").code == 0
    client = MlflowClient(f"sqlite:///{own_copy / 'mlflow.db'}")
    for name, runs in (("tiny", len(set.union(*listed(own_copy)))), ("tiny leaderboard", 17)):
        experiment = client.get_experiment_by_name(name).experiment_id
        assert len(client.search_runs([experiment])) == runs, "sent once"


def test_only_restricts_and_options_replace(own_copy: Path, finished: Any, dpbench: Callable[..., Said]) -> None:
    said = dpbench("run", finished.file, "--only", "uniform", "--keep", "0.5", "--keep", "0.5", "--seeds", "1")
    assert said.code == 0, said.err
    assert runs_of(own_copy).keys() == set.union(*listed(own_copy)), "nothing new to run, a share given twice is one"


def test_a_grid_of_options(tracked_home: Path, dpbench: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def ran(job: jobs.Job) -> dict[str, Any]:
        return {"status": "FINISHED", "hash": job.work.hash}

    monkeypatch.setattr(grids, "run_all", lambda work, jobs, *_: ((job, ran(job)) for job in jobs))
    data = "synthetic[n=100,d=16,classes=4]"
    options = ("--dataset", data, "--model", "mlp", "--keep", 0.25, "--seeds", 2)
    assert dpbench("run", "--method", "uniform", "--method", "orderdp", "--name", "mine", *options).code == 0
    grid, cells, *_ = grids.read_manifest("mine")
    assert (grid.datasets, grid.models, grid.keep, grid.seeds) == ([data], ["mlp"], [0.25], 2)
    assert {(spec.method, spec.keep, spec.seed) for spec in cells.values()} == {
        (method, 0.25, seed) for method in ("uniform", "orderdp") for seed in range(2)
    }
    assert grid.recipe.epochs == 30, "quick's recipe"
    assert dpbench("run", "--method", "full", *options).code == 0
    assert grids.read_manifest("custom").grid.methods == ["full"]


def test_cells_of_earlier_commands_stay_in_the_grid(tmp_path: Path, home: Path, plugin: Callable[[str], str]) -> None:
    from dpbench.grid_file import read_grid
    from dpbench.spec import canonical, source_digests

    path = plugin("class A(PruningMethod):\n    def select(self, epoch):\n        pass\n")

    def cells(methods: list[str], **changes: Any) -> dict[str, Any]:
        text = json.dumps(
            {
                "datasets": ["synthetic"], "models": ["mlp"], "methods": methods, "keep": [0.5], "seeds": 1,
                "recipe": {"epochs": 2, "batch_size": 8, "lr": 0.1} | changes,
            }
        )  # fmt: skip
        grid = read_grid(text, "g.yaml", "g")
        return grids.write_manifest(grid, {spec.hash: spec for spec in grid.runs()}).cells

    mine = canonical(path)
    assert {spec.method for spec in cells(["uniform", mine]).values()} == {"uniform", mine}
    assert {spec.method for spec in cells(["full"]).values()} == {"uniform", mine, "full"}
    old = cells(["full"]).keys()
    Path(path).write_text(Path(path).read_text().replace("pass", "return None"))
    source_digests.cache_clear()  # as in the next process
    changed = cells([mine])
    assert len(changed) == 3, "a changed source takes the place of what it was"
    assert len(changed.keys() & old) == 2
    assert {spec.method for spec in cells(["full"], lr=0.2).values()} == {"full"}, "another recipe is another grid"


def test_a_board_without_changes_is_shown_without_torch_mlflow_and_seaborn(own_copy: Path) -> None:
    code = (
        "import sys; sys.argv = ['dpbench', 'leaderboard', 'tiny']\nfrom dpbench.cli.app import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print('loaded:', [name for name in ('torch', 'mlflow', 'seaborn') if name in sys.modules])\n"
    )
    said = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(2)]
    assert [one.returncode for one in said] == [0, 0], said[-1].stderr
    assert "loaded: []" in said[1].stdout
    assert said[0].stdout.splitlines()[:-1] == said[1].stdout.splitlines()[:-1], "and it is the same"
    (own_copy / "mlflow.db").unlink()
    third = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "mlflow" in third.stdout.splitlines()[-1], "what is gone is sent again"
    assert (own_copy / "mlflow.db").is_file()


# listing and help


@pytest.mark.parametrize("kind", ["methods", "datasets", "models", "grids"])
def test_list(dpbench: Callable[..., Said], kind: str) -> None:
    said = dpbench("list", kind, "--json")
    rows = json.loads(said.out)
    names = catalog.names(kind)
    assert [row["name"] for row in rows] == names
    assert not any("error" in row for row in rows)
    table = dpbench("list", kind).out
    assert all(name in table for name in names)
    assert len(table.splitlines()) == len(names) + 2, "one line each, a header, and how to go on"
    if kind == "methods":
        [row] = [row for row in rows if row["name"] == "orderdp"]
        assert row["parameters"][0] == {
            "name": "explore", "default": 0.8, "low": 0.05, "high": 1.0, "log": False, "choices": None,
            "at_least_keep": True,
        }  # fmt: skip


def test_list_is_filtered(dpbench: Callable[..., Said]) -> None:
    def names(*arguments: str) -> set[str]:
        return {row["name"] for row in json.loads(dpbench("list", *arguments, "--json").out)}

    static, epoch, batch = (names("methods", "--kind", kind) for kind in ("static", "epoch", "batch"))
    assert static | epoch | batch == set(catalog.names("methods"))
    assert not (static & epoch | epoch & batch | static & batch)
    assert {"el2n", "aum"} <= static
    assert "el2n" in names("methods", "--search", "DIET data")
    assert "orderdp" not in names("methods", "--search", "DIET data")
    assert names("methods", "--search", "rs2") == {"uniform_epoch"}
    assert names("grids", "--search", "no such thing") == set()
    check_line(dpbench("list", "grids", "--kind", "static"), 2, "--kind static is for methods; grids have no kind")


def test_show(dpbench: Callable[..., Said], plugin: Callable[[str], str]) -> None:
    said = dpbench("show", "orderdp")
    for text in (
        "explore",
        "0.05 to 1",
        "high, low",
        "OrderDP: a theoretically",
        "2026",
        "orderdp.py",
        "dynamic_quick",
    ):
        assert text in said.out
    assert "proxy of 10 epochs" in dpbench("show", "el2n[runs=2]").out
    assert "2 trainings first" in dpbench("show", "el2n[runs=2]").out
    assert "no proxy" in dpbench("show", "uniform").out
    for name in (*catalog.names("datasets"), *catalog.names("models"), *catalog.names("grids")):
        assert dpbench("show", name).code == 0, name
    assert "dpbench leaderboard quick" in dpbench("show", "quick").out
    assert "resnet50  lr 0.03" in dpbench("show", "paper_orderdp_cifar").out, "what is changed by model"
    assert "iterations 40000" in dpbench("show", "paper_ccs").out
    assert dpbench("show", "rs2").out.startswith("uniform_epoch  method")
    assert "rs2 = uniform_epoch" in dpbench("show", "uniform_epoch").out
    check_line(dpbench("show", "rs3"), 2, "did you mean rs2")
    check_line(dpbench("show", "ordrdp"), 2, "did you mean orderdp")
    check_line(dpbench("show", "orderdp[nope=1]"), 2, "unknown parameter of orderdp")


def test_columns_are_checked_before_any_work(dpbench: Callable[..., Said], home: Path) -> None:
    check_line(
        dpbench("leaderboard", "quick", "--columns", "accuracy,coast"), 2, "unknown column 'coast'; did you mean"
    )
    check_line(dpbench("run", "quick", "--sort", "-acuracy"), 2, "did you mean accuracy")
    assert not home.exists()


def test_completion_offers_what_there_is(home: Path, own_copy: Path) -> None:
    assert complete.method("order") == ["orderdp", "orderdp_step", "ordered_sgd"]
    assert complete.run_grid("") == ["tiny"]
    assert {"tiny", "quick", "static_quick"} <= set(complete.shown_grid(""))
    assert {"cnn", "digits", "quick", "uniform"} <= set(complete.anything(""))
    assert complete.columns("rank,acc") == ["rank,accuracy"]
    assert complete.sort("-acc") == ["-accuracy"]
    assert len(complete.record("")) == 2
    assert complete.device("cu") == ["cuda"]


def test_completion_offers_the_parameters_of_the_method(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_DPBENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "dpbench tune orderdp[ema=0.5] --param ex")
    monkeypatch.setenv("COMP_CWORD", "4")
    with pytest.raises(SystemExit):
        app.app(prog_name="dpbench")
    assert capsys.readouterr().out.split() == ["explore"]


def test_a_broken_plug_in_is_listed_with_its_error(dpbench: Callable[..., Said], plugin: Callable[[str], str]) -> None:
    path = Path(plugin("raise OSError('no luck')"))
    catalog.plug_in("methods", path)
    [row] = [row for row in json.loads(dpbench("list", "methods", "--json").out) if row["name"] == path.stem]
    assert row["error"] == f"{path.stem}: importing it raised OSError: no luck"
    assert dpbench("list", "methods").code == 0


def test_help_teaches_and_imports_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys; sys.argv = ['dpbench', '--help']\nfrom dpbench.cli.app import main\ntry:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print('IMPORTED', [m for m in ('torch', 'mlflow', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "IMPORTED []" in done.stdout
    for text in ("dpbench run quick", "dpbench ui", "--method"):
        assert text in done.stdout


COMMANDS = [*(info.name or info.callback.__name__ for info in app.app.registered_commands if info.callback), "cache"]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["cache", "list"], ["cache", "clear"]])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(dpbench: Callable[..., Said], command: list[str], option: str) -> None:
    said = dpbench(*command, option)
    assert said.code == 0
    assert " ".join(["Usage: dpbench", *command]) in said.out


def test_version(dpbench: Callable[..., Said]) -> None:
    assert dpbench("--version").out == f"dpbench {__version__}\n"


@pytest.mark.parametrize("command", [[], ["cache"]])
def test_without_arguments_there_is_help(dpbench: Callable[..., Said], command: list[str]) -> None:
    said = dpbench(*command)
    assert said.code == 2
    assert "Usage: dpbench" in said.out + said.err
    assert "dpbench: " not in said.err


# mistakes: one clear line, no traceback


def check_line(said: Said, code: int, message: str) -> None:
    assert said.code == code, said.err
    lines = [line for line in said.err.splitlines() if line.strip()]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("dpbench: ")
    assert message in lines[0]
    assert "Traceback" not in said.out + said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run", "name a grid (try: dpbench run quick), or give at least one --method"),
        ("run quik", "unknown grid 'quik'; did you mean quick"),
        ("run nowhere.yaml", "no file nowhere.yaml"),
        ("run --method ordrdp", "unknown method 'ordrdp'; did you mean orderdp"),
        ("run --method orderdp[explor=1]", "unknown parameter of orderdp 'explor'; did you mean explore"),
        ("run --method orderdp[explore=7]", "orderdp: explore = 7 is outside [0.05, 1.0]"),
        ("run --method orderdp[explore=", "cannot read 'orderdp[explore='"),
        ("run --method nowhere.py", "nowhere.py"),
        ("run quick --only kakurenbo", "--only kakurenbo: not in the grid quick; it has full"),
        ("run --method full --only orderdp", "--only restricts a GRID"),
        ("run quick --name mine", "--name is for a grid made from options"),
        ("run --method full --name ../up", "'../up' cannot name a grid: letters, digits"),
        (f"run --method full --name {'x' * 121}", "cannot name a grid"),
        (f"run --method full --method {'x' * 1001}", "it has more than 1000 characters"),
        ("run --method ~nobody_at_all/x.py", "no file '~nobody_at_all/x.py': Could not determine home directory"),
        (f"run --method {'x' * 300}.py", "no file 'xxx"),
        ("run --method full --model cnn[width=wide]", "cnn: width = 'wide' is not a whole number"),
        ("run --method full --seeds 1000000", "1 datasets x 1 models x 1 methods x 2 keeps x 1000000 seeds are 2,000"),
        ("run --method full --seeds 99999999999999999999", "a grid has at most 100,000"),
        ("run --method full --threads 99999999999", "invalid value for '--threads'"),
        ("run --method full --name= ", "argument 4 of the command line is empty: --name="),
        ("run --method full\0", "argument 3 of the command line has a character that is not text"),
        ("run --method full\udcff", "argument 3 of the command line has a character that is not text"),
        (f"run {'x' * 4097}", "argument 2 of the command line has more than 4,096 characters"),
        ("run --kep 1", "no such option: --kep (Possible options: --keep, --smoke); dpbench run --help lists what"),
        ("run --keep many", "invalid value for '--keep': "),
        ("run --keep", "option '--keep' requires an argument"),
        ("list", "missing argument 'KIND'. Choose from: methods, datasets, models, grids, subsets; dpbench list"),
        ("list all", "'all' is not one of 'methods', 'datasets', 'models', 'grids'"),
        ("nothing", "no such command 'nothing'; dpbench --help lists what is allowed"),
        ("run quick more", "got unexpected extra argument"),
        ("explain orderdp --n 99999999999 --keep 0.5", "invalid value for '--n'"),
        ("explain orderdp --n 100 --keep nan", "keep is a share in (0, 1], got nan"),
        ("leaderboard quick -o /tmp", "--output /tmp is a folder; give the path of a file"),
        ("leaderboard ../quick", "'../quick' cannot name a grid"),
        ("compare a b --grid ../quick", "'../quick' cannot name a grid"),
        ("figure4 ../quick", "'../quick' cannot name a grid"),
        ("ui ../quick", "'../quick' cannot name a grid"),
        ("theory --to /dev/null/x", "--to /dev/null/x/README.md: cannot be written"),

        ("run --method full --dataset digit", "unknown dataset 'digit'; did you mean digits?"),
        ("run --method full --model cn", "unknown model 'cn'; did you mean cnn?"),
        ("run --method full --model cnn[wide=1]", "unknown parameter of the model cnn 'wide'"),
        ("run --method full --keep 0", "--keep 0 is outside (0, 1]"),
        ("run --method full --keep 1.2", "--keep 1.2 is outside (0, 1]"),
        ("run --method full --keep nan", "--keep nan is outside (0, 1]"),
        ("run --method full --seeds 0", "--seeds 0: at least 1 is needed"),
        ("run --method full --device tpu", "--device tpu: "),
        ("run --method full --dataset fashion_mnist --data-root /nowhere", "apt install dataset-fashion-mnist"),
        ("run --method full --tracking-uri http://127.0.0.1:9", "server http://127.0.0.1:9 cannot be reached"),
        ("run --method full --tracking-uri http://[", "the tracking server http://[ cannot be reached"),
        ("leaderboard tiny", "no grid 'tiny' was run under"),
        ("leaderboard nothing --tracking-uri http://127.0.0.1:9", "'nothing'"),
        ("ui nothing", "no leaderboard of 'nothing' in sqlite:///"),
        ("ui --tracking-uri gopher://x", "cannot track to gopher://x"),
    ],
)  # fmt: skip
def test_mistakes(tracked_home: Path, dpbench: Callable[..., Said], arguments: str, message: str) -> None:
    check_line(dpbench(*arguments.split()), 2, message)
    assert not (tracked_home / "runs").exists()


def test_mistakes_in_claims(tracked_home: Path, dpbench: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(GRID)
    text = "- {text: Good, test: better, methods: [orderdp], against: uniform}"
    (tmp_path / "wrong.claims.yaml").write_text(text)
    check_line(
        dpbench("run", tmp_path / "wrong.yaml"), 2, "wrong.claims.yaml: claim 1: orderdp is not in the grid wrong"
    )
    assert not (tracked_home / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: 2", "seeds: 2\nsedes: 1", ":8: unknown key sedes; did you mean seeds?"),
        ("[0.3, 0.5]", "[0.3, 1.5]", ":6: keep.1: input should be less than or equal to 1, not 1.5"),
        ("full_short", "ful", "unknown method 'ful'; did you mean full"),
    ],
)
def test_mistakes_in_a_grid_file(
    home: Path, tmp_path: Path, finished: Any, dpbench: Callable[..., Said], old: str, new: str, message: str
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(finished.file.read_text().replace(old, new))
    said = dpbench("run", file)
    check_line(said, 2, message)
    assert "unknown method" in message or f"{file}:" in said.err


@pytest.mark.parametrize("where", ["a file", "no database"])
def test_a_tracking_uri_that_cannot_be_written(
    own_copy: Path, tmp_path: Path, dpbench: Callable[..., Said], where: str
) -> None:
    (tmp_path / "file").write_text("x" * 5000)
    uri = f"sqlite:///{tmp_path / 'file' / 'mlflow.db' if where == 'a file' else tmp_path / 'file'}"
    check_line(dpbench("leaderboard", "tiny", "--tracking-uri", uri), 2, f"cannot track to {uri}")
    assert runs_of(own_copy).keys() == set.union(*listed(own_copy))


@pytest.mark.parametrize("place", [0, -1])
def test_debug_shows_the_traceback(home: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    arguments = ["run", "quik"]
    arguments.insert(place if place == 0 else 2, "--debug")
    monkeypatch.setattr(sys, "argv", ["dpbench", *arguments])
    with pytest.raises(Exception, match="unknown grid 'quik'"):
        app.main()


def test_a_bug_is_one_line_too(dpbench: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(kind: str, *_: Any) -> None:
        raise KeyError(f"[red]{kind}\nsecond line")

    monkeypatch.setattr("dpbench.reports.listing.rows", fail)
    check_line(dpbench("list", "methods"), 1, "a bug of dpbench, please report it: KeyError: ")
    assert "[red]methods" in dpbench("list", "methods").err, "what looks like markup is text"
    assert "(--debug shows the traceback)" in dpbench("list", "methods").err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "/full/x"), "/full/x: No space left on device (--debug shows"),
        (MemoryError("10 GB"), "there is not enough memory: 10 GB (--debug shows"),
    ],
)
def test_trouble_of_the_machine_is_no_bug(
    dpbench: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("dpbench.reports.listing.rows", fail)
    check_line(dpbench("list", "methods"), 1, message)


def test_a_message_shows_what_it_holds(dpbench: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise UsageError("a\x1b[31m :smile: [red]b[/] \\\nc\rd")

    monkeypatch.setattr("dpbench.reports.listing.rows", fail)
    check_line(dpbench("list", "methods"), 2, r"a\x1b[31m :smile: [red]b[/] \ c d")


def test_ctrl_c_says_what_is_kept(dpbench: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dpbench.reports.listing.rows", stop)
    check_line(dpbench("list", "methods"), 130, "stopped; finished runs are kept, the same command continues")


BAD = """
class Bad(PruningMethod):
    what: str = param("raises")
    def select(self, epoch):
        if self.what == "dies":
            import os
            os._exit(1)
        if self.what == "raises":
            raise ValueError("no [bold]luck[/]")
        return Selection(torch.tensor([0, 0]))
"""


def test_bad_plug_ins_fail_alone_and_the_rest_is_kept(
    tracked_home: Path, dpbench: Callable[..., Said], plugin: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plugin(BAD)
    options = ["--method", "uniform", "--dataset", "synthetic[n=100,d=16,classes=4]", "--model", "mlp", "--keep", 0.5]
    options += ["--seeds", 1, "--jobs", 1, "--name", "mixed"]
    for what in ("raises", "repeats", "dies"):
        options += ["--method", f"{path}[what={what}]"]
    said = dpbench("run", *options)
    assert said.code == 1
    name = Path(path).stem
    lines = "\n".join(line for line in said.err.splitlines() if "FAILED" in line)
    assert f"FAILED {name} keep=0.5 seed=0: Bad.select(epoch=0) raised ValueError: no [bold]luck[/]" in lines
    assert f"FAILED {name}[what=repeats] keep=0.5 seed=0: Bad.select(epoch=0) returned indices with 1 repeated" in lines
    assert f"FAILED {name}[what=dies] keep=0.5 seed=0: the worker process died" in lines
    assert "dpbench: 3 of 4 runs failed; the others are kept; run the same command to try again" in said.err
    assert "Traceback" not in said.out + said.err
    statuses = {result["spec"]["method"]: result["status"] for result in runs_of(tracked_home).values()}
    assert statuses.pop("uniform") == "FINISHED"
    assert set(statuses.values()) == {"FAILED"}
    rows = {row["method"]: row for row in json.loads(dpbench("leaderboard", "mixed", "--format", "json").out)}
    assert rows["uniform"]["seeds"] == 1
    assert rows[name]["seeds"] == 0
    assert rows[name]["rank"] is None
    assert re.match(r"Bad\.select\(epoch=0\) raised", rows[name]["reason"])

    tried: list[str] = []
    monkeypatch.setattr(grids, "run_all", lambda _, jobs, *__: (tried.extend(j.work.method for j in jobs), iter(()))[1])
    assert dpbench("run", *options).code == 1
    assert sorted(tried) == sorted([name, f"{name}[what=repeats]", f"{name}[what=dies]"])


# single files


def test_a_grid_of_single_files_runs_in_workers_and_its_board_is_shown_without_them(
    tracked_home: Path, dpbench: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unplug: None
) -> None:
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n\ndef deep(shape, classes, width=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, classes))\n"
    )
    (tmp_path / "own_data.py").write_text(
        "from dpbench.data import param\nfrom dpbench.datasets.synthetic import Synthetic as Made\n\n"
        "class Own(Made):\n    n: int = param(60, low=2)\n    n_test: int = param(30, low=1)\n    d: int = param(16)\n"
    )
    (tmp_path / "own_keep.py").write_text(
        "import torch\nfrom dpbench import PruningMethod, Selection\n\nclass Own(PruningMethod):\n"
        "    def select(self, epoch):\n        return Selection(torch.arange(self.task.k))\n"
    )
    (tmp_path / "own.yaml").write_text(
        "datasets: ['own_data.py[classes=3]']\nmodels: ['own_net.py:deep[width=5]']\nmethods: [full, own_keep.py]\n"
        "keep: [0.5]\nseeds: 1\nrecipe: {epochs: 3, batch_size: 16, lr: 0.1}\n"
    )
    monkeypatch.chdir(tmp_path)
    said = dpbench("run", "own.yaml", "--jobs", "2")
    assert said.code == 0, said.err
    specs = [result["spec"] for result in runs_of(tracked_home).values()]
    assert {spec["method"] for spec in specs} >= {"full", "own_keep"}
    assert {(spec["dataset"], spec["model"]) for spec in specs} == {("own_data[classes=3]", "own_net:deep[width=5]")}
    for module in [*places.FILES]:
        del places.FILES[module], sys.modules[module]
    shown = dpbench("leaderboard", "own", "--format", "json")
    assert shown.code == 0, shown.err
    assert "own_keep" in {row["method"] for row in json.loads(shown.out)}


# subsets and the cache


def test_a_subset_is_written_and_trained_on(
    tracked_home: Path, finished: Any, dpbench: Callable[..., Said], tmp_path: Path, unplug: None
) -> None:
    grid = tmp_path / "small.yaml"
    grid.write_text(finished.file.read_text().replace("epochs: 5", "epochs: 2"))
    file = tmp_path / "deep" / "chosen.npz"
    dataset = "synthetic[n=200,n_test=100,d=16,classes=4]"
    said = dpbench("subset", "el2n[at_epoch=1]", "--dataset", dataset, "--keep", "0.3", "--grid", grid, "-o", file)
    assert said.code == 0, said.err
    found = Selections.read(file)
    assert f"54 of 180 samples, hash {found.digest}" in said.out
    said = dpbench("run", grid, "--from", file, "--only", "uniform", "--keep", "0.3", "--seeds", "1", "--jobs", "1")
    assert said.code == 0, said.err
    cells = grids.read_manifest("small").cells
    rows = {spec.method: key for key, spec in cells.items()}
    assert len(rows) == 2
    [name] = [method for method in rows if method.startswith("subset")]
    assert found.digest[:8] in name
    ours, theirs = (store.read_json(store.run_folder(rows[method]) / "result.json") for method in (name, "uniform"))
    assert ours["metrics"]["samples_backward"] == theirs["metrics"]["samples_backward"] == 2 * 54


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["subset", "orderdp", "-o", "x.npz"], "orderdp chooses again during the training"),
        (["subset", "deepcore:NoSuch", "-o", "x.npz"], "deepcore has no method 'NoSuch' that selects from a record"),
        (["run", "--method", "deepcore:NoSuch"], "known: Craig, Uncertainty, kCenterGreedy"),
        (["tune", "deepcore[name=NoSuch]"], "known: Craig, Uncertainty, kCenterGreedy"),
        (["tune", "--all", "--keep", "0.3"], "--keep is for one method; --all tunes every row of the grid"),
        (["tune", "uniform"], "uniform has no parameters to tune"),
        (["check", "deepcore[name=NoSuch]"], "known: Craig, Uncertainty, kCenterGreedy"),
        (["subset", "subset", "-o", "x.npz"], "subset: no file is named; give yours by dpbench run --from FILE"),
        (["subset", "subset[id=gone]", "-o", "x.npz"], "subset: no file gone.npz under $DPBENCH_HOME/subsets"),
        (["subset", "el2", "-o", "x.npz"], "unknown method 'el2'; did you mean el2n? dpbench list methods shows all"),
        (["subset", "el2n", "-o", "/proc/y.npz"], "--output /proc/y.npz: cannot be written"),
        (["subset", "el2n", "-o", "x.txt"], "the name ends in .npz"),
        (["subset", "el2n", "-o", "x.npz", "--keep", "0"], "--keep 0 is outside (0, 1]"),
        (["run", "--from", "nowhere.npz"], "--from nowhere.npz: no such file"),
        (["run", "--from", "x.npz", "--dataset", "digits", "--dataset", "fashion_mnist"], "--from is for one dataset"),
        (["cache", "clear", "0123"], "no proxy record '0123'"),
    ],
)
def test_a_wrong_subset_or_record_is_told(
    home: Path, dpbench: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setenv("DPBENCH_DEEPCORE", str(Path(__file__).parent.parent / "data" / "deepcore_standin"))
    said = dpbench(*arguments)
    assert said.code == 2
    assert message in " ".join(said.err.split())
    assert not (home / "proxy").exists(), "nothing was trained"


def test_a_bad_file_of_a_subset_is_named_once(home: Path, dpbench: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"junk")
    said = dpbench("run", "--from", tmp_path / "bad.npz")
    check_line(said, 2, "not a file of selections")
    assert said.err.count("bad.npz") == 1


def test_a_missing_checkout_is_told(home: Path, dpbench: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DPBENCH_DEEPCORE", raising=False)
    check_line(dpbench("run", "--method", "deepcore"), 2, "set it to the path of yours")
    assert not list(home.glob("grids/*")), "no grid is begun"


def test_a_method_with_its_own_share_says_so(home: Path, dpbench: Callable[..., Said], tmp_path: Path) -> None:
    for method, own in (("full", True), ("uniform", False)):
        said = dpbench("subset", method, "--dataset", "synthetic[n=100]", "--keep", 0.3, "-o", tmp_path / "s.npz")
        assert said.code == 0, said.err
        assert ("full keeps its own share of the samples, 1; --keep is not used" in said.out) == own


def test_proxy_records_are_listed_and_cleared(own_copy: Path, dpbench: Callable[..., Said]) -> None:
    said = dpbench("cache", "list")
    assert said.code == 0
    assert "error_norm" in said.out
    assert re.search(r"proxy records: 2, \d+\.\d KB", said.out)
    assert "0.0 " not in said.out
    assert "proxy records removed: 2" in dpbench("cache", "clear").out
    assert "proxy records: 0, 0.0 KB" in dpbench("cache", "list").out
    assert dpbench("leaderboard", "tiny").code == 0
