"""The tracker: it never costs the board, sends once, and its database can always be made again."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from dpbench.analysis import board as boards
from dpbench.cli.app import app
from dpbench.errors import Untracked, UsageError, redact
from dpbench.reports import database, files, send, send_runs, study, summary, tracking, ui
from dpbench.reports.tracking import LIMIT, Tracker
from dpbench.training.measures import MEASURES
from tests.synthetic_board import around, make, usual
from tests.used import N, board_of

# A double of MLflow's client that keeps the limits of the oldest version


class Client:
    """Runs and experiments in memory."""

    def __init__(self) -> None:
        self.experiments: dict[str, SimpleNamespace] = {}
        self.found: dict[str, SimpleNamespace] = {}
        self.metrics: dict[str, list[Any]] = {}
        self.files: list[tuple[str, str]] = []
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}

    def get_experiment_by_name(self, name: str) -> Any:
        return next((each for each in self.experiments.values() if each.name == name), None)

    def get_experiment(self, key: str) -> Any:
        return self.experiments[key]

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        key = str(len(self.experiments) + 1)
        self.experiments[key] = SimpleNamespace(experiment_id=key, name=name, tags={}, lifecycle_stage="active")
        return key

    def set_experiment_tag(self, key: str, name: str, value: str) -> None:
        assert len(value) <= 5000
        self.experiments[key].tags[name] = value

    def create_run(self, experiment: str, start_time: int = 0, tags: Any = None, run_name: str = "") -> Any:
        run = SimpleNamespace(
            info=SimpleNamespace(run_id=f"r{len(self.metrics)}", status="RUNNING", experiment_id=experiment),
            data=SimpleNamespace(tags={}, params={}),
        )
        self.found[run.info.run_id] = run
        self.metrics[run.info.run_id] = []
        self._tag(run, {**tags, "mlflow.runName": run_name})
        return run

    def _tag(self, run: Any, tags: dict[str, str]) -> None:
        assert all(len(value) <= 5000 for value in tags.values())
        run.data.tags |= tags

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        assert len(metrics) <= 1000
        assert len(params) <= 100
        assert all(len(param.value) <= 6000 for param in params)
        self._tag(self.found[run_id], {tag.key: tag.value for tag in tags})
        self.found[run_id].data.params |= {param.key: param.value for param in params}
        self.metrics[run_id] += metrics

    def set_terminated(self, run_id: str, status: str, end_time: int | None = None) -> None:
        self.found[run_id].info.status = status

    def log_artifact(self, run_id: str, path: str, folder: str | None = None) -> None:
        self.files.append((run_id, f"{folder}/{Path(path).name}" if folder else Path(path).name))

    def log_dict(self, run_id: str, values: dict[str, Any], name: str) -> None:
        self.rows[run_id, name] = json.loads(json.dumps(values, allow_nan=False))

    def delete_run(self, run_id: str) -> None:
        del self.found[run_id]

    def search_runs(self, keys: list[str], **_: Any) -> Any:
        class Page(list[Any]):
            token = None

        return Page(run for run in self.found.values() if run.info.experiment_id in keys)


@pytest.fixture
def tracker(home: Path) -> Any:
    """A tracker of the double, as of a server that others send to as well."""
    made = Tracker.__new__(Tracker)
    made.client, made.database, made.uri, made.name = Client(), None, "http://x", "http://x"  # type: ignore[assignment]
    made.lock, made.mended = home / "mlflow.db.lock", ""
    return made


def results_of(board: Any) -> list[dict[str, Any]]:
    return list(board.results.values())


# what is sent


def test_161_rows_fit(tracker: Any) -> None:
    keeps = [round(0.02 * i, 2) for i in range(1, 41)]
    rows: dict[Any, Any] = {(f"orderdp[explore={e}]", keep): [0.9] for e in (0.85, 0.9, 0.95, 1.0) for keep in keeps}
    board = make(rows | {("full", 1.0): [0.95]})
    assert len(board.table) == 161
    for _ in range(2):
        key, changed = send.send_leaderboard(tracker, "1", board, [Path("made.md")])
    assert changed == 0, "the second time nothing has"
    assert len(tracker.client.search_runs([key])) == 161
    assert tracker.client.experiments[key].tags["dpbench.track"] == "fixed recipe"
    assert {run.data.tags["track"] for run in tracker.client.search_runs([key])} == {"fixed recipe"}
    text = tracker.client.experiments[key].tags["mlflow.note.content"]
    [holder] = {run for run, _ in tracker.client.files}
    whole = f"[The whole table](#/experiments/{key}/runs/{holder}/artifacts/made.md)"
    assert text.count(whole) == 2, "after the sentences that fit, and after the rows that fit"
    assert text.endswith(f" |\n\n{whole}")
    assert "| 1 | orderdp" in text


def test_a_failure_of_20000_characters_is_cut(tracker: Any) -> None:
    board = make({("uniform", 0.5): [0.9, "no " * 7000]})
    experiment, count = send.send_runs(tracker, "made", results_of(board))
    assert count == 2
    send.send_leaderboard(tracker, experiment, board, [])
    [failed] = [run for run in tracker.client.search_runs([experiment]) if run.data.tags["status"] == "FAILED"]
    assert failed.info.status == "FAILED"
    assert len(failed.data.tags["dpbench.reason"]) == LIMIT


def test_long_runs_are_sent(tracker: Any) -> None:
    board = make({("uniform", 0.5): [0.9]})
    [result] = results_of(board)
    result["epochs"] = [{"epoch": i, "accuracy": 0.5, "loss_test": 1.0, "prune_ratio": 0.5} for i in range(700)]
    experiment, _ = send.send_runs(tracker, "made", [result])
    send.send_leaderboard(tracker, experiment, board, [])
    [run] = tracker.client.search_runs([experiment])
    assert len(tracker.client.metrics[run.info.run_id]) > 3 * 700


def rows_of(tracker: Any, board: Any) -> list[Any]:
    """The rows' runs after sending, by their order."""
    key, _ = send.send_leaderboard(tracker, "1", board, [])
    return sorted(tracker.client.search_runs([key]), key=lambda run: single(tracker, run)["order"])


def single(tracker: Any, run: Any) -> dict[str, float]:
    """The last value of each metric of one value."""
    sent = tracker.client.metrics[run.info.run_id]
    return {metric.key: metric.value for metric in sent if not metric.key.endswith("_by_epoch")}


def curve(tracker: Any, run: Any, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in tracker.client.metrics[run.info.run_id] if metric.key == name]


def test_rows_are_in_the_order_of_the_boards_table(tracker: Any) -> None:
    board = usual(datasets=("a", "b"))
    rows = rows_of(tracker, board)
    assert [single(tracker, run)["order"] for run in rows] == [*range(1, 23)]
    shown = [(run.data.params["dataset"], float(run.data.params["keep"]), run.data.params["method"]) for run in rows]
    assert shown == [*board.table[["dataset", "keep", "method"]].itertuples(index=False, name=None)]
    view = json.loads(tracker.client.get_experiment(rows[0].info.experiment_id).tags[database.VIEW])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`order`", True)
    assert "params.`dataset`" in view["selectedColumns"]
    assert "metrics.`rank`" in view["selectedColumns"]
    assert "params.`model`" not in view["selectedColumns"], "the same in every row"


@pytest.mark.parametrize(("datasets", "where"), [(("a",), ""), (("a", "b"), " on a")])
def test_names_say_what_differs(tracker: Any, datasets: tuple[str, ...], where: str) -> None:
    board = make({("orderdp", 0.3): around(0.9)}, datasets=datasets)
    assert rows_of(tracker, board)[0].data.tags["mlflow.runName"] == f"orderdp 0.3{where}"
    experiment, _ = send.send_runs(tracker, "made", results_of(board))
    names = {run.data.tags["mlflow.runName"] for run in tracker.client.search_runs([experiment])}
    assert len(names) == 5 * len(datasets)
    assert f"orderdp 0.3 seed 4{where}" in names


def test_a_row_has_the_means_by_epoch_few_numbers_and_itself_whole(tracker: Any) -> None:
    board = make({("uniform", 0.3): [0.90, 0.94]})
    for share, result in zip((0.6, 0.8), results_of(board), strict=True):
        for record in result["epochs"]:
            record["prune_ratio"] = share
    results_of(board)[1]["epochs"][2]["gradient_cosine"] = math.nan
    [run] = rows_of(tracker, board)
    expected = [(1, 0.89), (2, 0.90), (3, 0.91), (4, 0.92)]
    assert curve(tracker, run, "accuracy_by_epoch") == expected
    assert curve(tracker, run, "prune_ratio_by_epoch") == [(epoch, 0.7) for epoch in (1, 2, 3, 4)]
    assert curve(tracker, run, "gradient_cosine_by_epoch") == [(epoch, 0.9) for epoch in (1, 2, 4)], "not of one seed"
    assert single(tracker, run).keys() <= {"order", *send.NUMBERS}
    assert single(tracker, run)["accuracy_mean"] == 0.92
    row = tracker.client.rows[run.info.run_id, "row.json"]
    assert row.keys() == set(board.table.columns)
    assert row["peak_memory_mb"] == 100.0


def test_a_row_of_other_curves_takes_the_place_of_the_old(tracker: Any) -> None:
    board = make({("uniform", 0.3): [0.90, 0.94]})
    [before] = rows_of(tracker, board)
    assert rows_of(tracker, board) == [before]
    [after] = rows_of(tracker, make({("uniform", 0.3): [0.90, 0.96]}))
    assert curve(tracker, after, "accuracy_by_epoch")[-1] == (4, 0.93)
    assert len(curve(tracker, after, "accuracy_by_epoch")) == 4


def test_a_row_whose_seeds_diverged_has_no_curve(tracker: Any) -> None:
    [run] = rows_of(tracker, make({("uniform", 0.3): [0.90, ("diverged", "NaN")]}))
    assert curve(tracker, run, "accuracy_by_epoch") == []
    assert run.data.tags["accuracy"] == "diverged 1/2"
    assert "accuracy_mean" not in single(tracker, run)


def test_the_description_says_what_to_look_at(tracker: Any) -> None:
    board = usual()
    text = send.describe(board, "#/link")
    first, meaning, link, *table = text.split("\n\n")
    assert first.splitlines() == [f"- {sentence}" for sentence in summary.headlines(board)]
    assert len(meaning.splitlines()) == 1 + sum(one.main for one in MEASURES)
    for column in tracking.COLUMNS:
        name = column.split("`")[1]
        assert f"**{name}**" in meaning or name in ("method", "to random"), "the others are in the legend"
    assert link == "[Figures, the page as one HTML file, and tables](#/link)"
    assert table[0].startswith("| dataset | model | # |")
    assert len(text) <= LIMIT


def test_a_text_is_cut_at_a_line() -> None:
    assert send.cut("one\ntwo", 7, "!") == "one\ntwo"
    assert send.cut("one\ntwo", 6, "!") == "one!"
    assert send.cut("x" * 9, 6, "!") == "!"


def test_a_run_that_diverged_says_so(tracker: Any) -> None:
    [result] = results_of(make({("uniform", 0.5): [0.9]}))
    result |= {"status": "DIVERGED", "reason": "the loss is NaN"}
    experiment, _ = send.send_runs(tracker, "made", [result])
    [run] = tracker.client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.tags["status"] == "DIVERGED"
    assert run.data.tags["mlflow.note.content"] == "**Diverged:** the loss is NaN"


def test_a_last_value_that_is_unknown_is_not_an_older_one(tracker: Any) -> None:
    [result] = results_of(make({("uniform", 0.5): [0.9]}))
    result["epochs"][-1]["gradient_norm"] = math.nan
    experiment, _ = send.send_runs(tracker, "made", [result])
    [run] = tracker.client.search_runs([experiment])
    sent = [metric for metric in tracker.client.metrics[run.info.run_id] if metric.key == "gradient_norm"]
    assert str(max(sent, key=lambda metric: metric.step).value) == "nan"


def test_each_run_is_there_once(tracker: Any) -> None:
    results = results_of(make({("uniform", 0.5): [0.9, "no luck"]}))
    client = tracker.client
    experiment, count = send.send_runs(tracker, "made", results)
    assert (count, send.send_runs(tracker, "made", results)[1]) == (2, 0)
    results[1] = results[1] | {"reason": "other luck"}
    assert send.send_runs(tracker, "made", results)[1] == 1, "what has changed takes the place of what was"
    [again] = [run for run in client.search_runs([experiment]) if run.data.tags["status"] == "FAILED"]
    assert again.data.tags["dpbench.reason"] == "other luck"
    whole = next(run for run in client.search_runs([experiment]) if run is not again)
    twin = client.create_run(experiment, 0, whole.data.tags)  # two machines at once
    twin.info.status = "FINISHED"
    key = results[0]["hash"]
    client.create_run(experiment, 0, {"dpbench.hash": key, tracking.SENDER: tracking.sender()})  # we were killed
    theirs = client.create_run(experiment, 0, {"dpbench.hash": key, tracking.SENDER: "another"})
    assert send.send_runs(tracker, "made", results)[1] == 0
    assert client.search_runs([experiment]) == [whole, again, theirs]


def test_mlflows_own_lines_stay_off_the_screen(tracker: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with tracker.sending():
        print("View run at http://x")
    assert capfd.readouterr().out == ""


def test_one_process_sends_at_a_time(tracker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "WAIT_S", 0.05)
    tracker.lock.parent.mkdir()
    with (
        FileLock(tracker.lock.with_suffix(".sending")),
        pytest.raises(Untracked, match="another dpbench"),
        tracker.sending(),
    ):
        pass


# what is said of errors


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:se@cr/et@host/db", "postgresql://me:***@host/db"),
        ("cannot track to http://me:secret@host:5000/x: no", "cannot track to http://me:***@host:5000/x: no"),
        ("mysql://host/db?user=me&password=secret&a=b", "mysql://host/db?user=me&password=***&a=b"),
        ("redis://:secret@host", "redis://:***@host"),
        ("https://token@host/x?y=a@b", "https://***@host/x?y=a@b"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("http://127.0.0.1:9 me@host", "http://127.0.0.1:9 me@host"),
        ("sqlite:////tmp/a", "sqlite:////tmp/a"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_neither_sql_nor_pages_are_shown() -> None:
    error = RuntimeError("(sqlite3.OperationalError) locked\n[SQL: INSERT INTO a]\n(Background on this error at: x)")
    assert tracking.reason(error) == "(sqlite3.OperationalError) locked"
    assert "MB are free in" in tracking.reason(OSError(28, "No space left on device", "/x"))
    assert len(tracking.reason(RuntimeError("x" * 20_000))) == 500


def test_the_ui_tells_what_the_server_said_and_no_password() -> None:
    log = "INFO start\nTraceback\nsqlalchemy.exc.OperationalError: readonly [SQL: X]\nINFO end"
    assert ui._complaint(log) == ": sqlalchemy.exc.OperationalError: readonly"
    assert ui._complaint("INFO") == ""
    assert ui._without_password("http://me:secret@host:5000/a/") == "http://host:5000/a"


# the board comes first


@pytest.fixture
def shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Give `shown(arguments)`: what `dpbench leaderboard made` says, its figures left out."""
    board = make({("uniform", 0.5): around(0.92)})
    monkeypatch.setattr(boards, "load", lambda name, *_: board)
    monkeypatch.setattr(files, "files", lambda board: [])
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown", "latex", "html"])
def test_the_board_is_shown_whatever_the_tracker_does(shown: Any, home: Path, form: str) -> None:
    (home / "mlflow.db").mkdir(parents=True)
    done = shown("leaderboard", "made", "-f", form)
    assert done.exit_code == 0
    assert "uniform" in done.stdout
    [line] = done.stderr.splitlines()
    assert line.startswith(f"warning: cannot track to sqlite:///{home / 'mlflow.db'}: unable to open database file")
    assert line.endswith("; dpbench sync made sends the results again")
    if form == "json":
        assert json.loads(done.stdout)


def test_the_environments_server_is_no_hindrance(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    done = shown("leaderboard", "made")
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: the tracking server http://me:***@127.0.0.1:9 cannot be reached")
    given = shown("leaderboard", "made", "--tracking-uri", "http://me:secret@127.0.0.1:9")
    assert isinstance(given.exception, UsageError)
    assert "secret" not in str(given.exception)


def test_sync_fails_where_the_tracker_does(shown: Any, home: Path) -> None:
    (home / "mlflow.db").mkdir(parents=True)
    assert isinstance(shown("sync", "made").exception, Untracked)


def test_a_study_is_kept_whatever_the_tracker_does(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "mlflow.db").mkdir(parents=True)
    plan: Any = SimpleNamespace(name="study", trials=0)
    for name, value in {
        "tune": lambda *_: [(plan, "it")],
        "counted": lambda *_: [],
        "write_grids": lambda *_: [],
    }.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(study, "figures", lambda *_: [])
    monkeypatch.setattr(study, "summary", lambda *_: {})
    from rich.console import Console

    console = Console(record=True)
    assert study.run(plan, 1, None, console).grids == []
    assert "the same command sends the study again" in console.export_text()


def test_the_leaderboard_is_sent_by_sync(tracked_home: Path, own_board: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [CliRunner().invoke(app, ["sync", own_board]).stdout for _ in range(2)]
    assert said[0].startswith("made: 5 runs sent, 0 there already; 1 of 1 rows changed: sqlite:///")
    assert said[1].startswith("made: 0 runs sent, 5 there already; 0 of 1 rows changed: sqlite:///")


@pytest.fixture
def own_board(monkeypatch: pytest.MonkeyPatch) -> str:
    board = make({("uniform", 0.5): around(0.92)})
    monkeypatch.setattr(boards, "load", lambda name, *_: board)
    monkeypatch.setattr(files, "files", lambda board: [])
    return "made"


# the database


@pytest.fixture
def quick_make(empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's work of seconds, by a copy."""

    def make(path: Path, old: Path | None = None) -> None:
        assert old is None
        shutil.copy(empty_database, path)

    monkeypatch.setattr(database, "_make", make)


def test_a_database_is_there_whole_or_not_at_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    def killed(tracking_uri: str) -> Any:
        Path(tracking_uri.removeprefix("sqlite:///")).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow, "MlflowClient", killed)
    with pytest.raises(KeyboardInterrupt):
        Tracker()
    assert not (home / "mlflow.db").exists()
    (home / ".mlflow-killed").mkdir()
    monkeypatch.undo()
    monkeypatch.setenv("DPBENCH_HOME", str(home))
    monkeypatch.setattr(database, "_make", lambda path: path.write_bytes(b""))
    database.prepare(home / "mlflow.db", own=True)
    assert not (home / ".mlflow-killed").exists()


@pytest.mark.parametrize("content", [b"junk" * 2000, b"SQLite format 3\0" + b"\1" * 4080])
def test_a_broken_database_is_set_aside_and_made_again(home: Path, quick_make: None, content: bytes) -> None:
    home.mkdir()
    (home / "mlflow.db").write_bytes(content)
    (home / "mlflow.db-journal").write_bytes(b"of the broken one")
    tracker = Tracker()
    assert "was broken" in tracker.mended
    assert "dpbench sync GRID" in tracker.mended
    assert (home / "mlflow.db.broken").read_bytes() == content
    assert not (home / "mlflow.db-journal").exists()
    assert Tracker().mended == ""


def test_a_half_made_database_is_upgraded_or_made_again(home: Path, empty_database: Path) -> None:
    home.mkdir()
    shutil.copy(empty_database, home)
    with closing(sqlite3.connect(home / "mlflow.db")) as file, file:
        file.execute("drop table alembic_version")
        file.execute("drop table experiment_tags")
        file.execute("pragma user_version = 0")
    Tracker().client.create_experiment("works")


@pytest.mark.parametrize("kind", ["junk", "folder"])
def test_another_file_is_left_as_it_is(home: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file"
    file.mkdir() if kind == "folder" else file.write_text("x" * 5000)
    with pytest.raises(Untracked, match=f"cannot track to sqlite:///{file}: (file is not a|unable to open) database"):
        Tracker(f"sqlite:///{file}")
    assert file.exists()


def test_a_locked_database_is_told_in_one_line(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SECONDS", 0.1)
    with closing(sqlite3.connect(tracked_home / "mlflow.db")) as other:
        other.execute("begin exclusive")
        with pytest.raises(Untracked, match=r"mlflow\.db: database is locked$"):
            Tracker()
    assert (tracked_home / "mlflow.db").exists()


def test_a_full_disk_is_told_before_mlflow_meets_it(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(database.tempfile, "TemporaryFile", full)
    with pytest.raises(Untracked, match=r"No space left on device \([\d,.]+ MB are free in "):
        Tracker()


@pytest.mark.parametrize("name", ["plain", "a?b", "a%20b", "100%#1 &"])
def test_a_home_of_any_name_that_is_moved(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def sent() -> set[Path]:
        tracker = Tracker()
        experiment = tracker.experiment("made", [], "rank", True)
        run = tracker.client.create_run(experiment)
        tracker.client.log_artifact(run.info.run_id, __file__)
        runs = tracker.client.search_runs([experiment])
        for each in runs:
            assert [file.path for file in tracker.client.list_artifacts(each.info.run_id)] == [Path(__file__).name]
        return {path.relative_to(tmp_path) for path in tmp_path.rglob("test_tracking.py")}

    old, new = tmp_path / "before", tmp_path / name
    old.mkdir()
    shutil.copy(empty_database, old)
    monkeypatch.setenv("DPBENCH_HOME", str(old))
    sent()
    old.rename(new)
    monkeypatch.setenv("DPBENCH_HOME", str(new))
    assert {path.parts[:3] for path in sent()} == {(name, "artifacts", "made")}
    assert len(list(new.rglob("test_tracking.py"))) == 2
    assert {path.name for path in tmp_path.iterdir()} == {name}
    copy = tmp_path / "copy"
    shutil.copytree(new, copy)
    monkeypatch.setenv("DPBENCH_HOME", str(copy))
    sent()
    assert len(list(new.rglob("test_tracking.py"))) == 2, "a copy writes into its own folder"


def test_uris_that_are_files() -> None:
    assert database.path_of("sqlite:////a/b.db") == Path("/a/b.db")
    for uri in ("sqlite://", "sqlite:///:memory:", "sqlite:////a/b.db?timeout=9", "http://a", "postgresql://a/b"):
        assert database.path_of(uri) is None


# pictures of what was used


@pytest.fixture
def used(home: Path) -> Any:
    """A board of two runs of one method with selections, and one that used all samples alike."""
    return board_of({"orderdp": [[[0, 1], [0]], [[0], [2]]], "full": [[range(N)]]})


def test_rows_and_runs_carry_pictures_of_what_they_used(tracker: Any, used: Any) -> None:
    experiment, count = send.send_runs(tracker, "made", results_of(used))
    assert count == 3
    pictured = {run for run, name in tracker.client.files if name == "samples.png"}
    runs = {run.info.run_id: run for run in tracker.client.search_runs([experiment])}
    assert {runs[run].data.params["method"] for run in pictured} == {"orderdp"}, "full used all samples alike"
    assert len(pictured) == 2
    for run in pictured:
        assert f"![samples.png](get-artifact?path=samples.png&run_uuid={run})" in note_of(runs[run])
    tracker.client.files.clear()
    rows = {run.data.params["method"]: run for run in rows_of(tracker, used)}
    assert [run for run, name in tracker.client.files if name == "samples.png"] == [rows["orderdp"].info.run_id]
    assert "samples.png" in note_of(rows["orderdp"])
    assert f"/runs/{rows['full'].info.run_id}/model-metrics?workflowType=machine_learning" in note_of(rows["full"])
    tracker.client.files.clear()
    rows_of(tracker, used)
    assert tracker.client.files == [], "nothing has changed"


def note_of(run: Any) -> str:
    return str(run.data.tags["mlflow.note.content"])


def test_a_large_grids_runs_have_none(tracker: Any, used: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_runs, "MOST_PICTURES", 2)
    send.send_runs(tracker, "made", results_of(used))
    assert not [name for _, name in tracker.client.files if name == "samples.png"]


def test_rows_whose_data_cannot_be_had_are_sent_again_until_it_can(tracker: Any, used: Any) -> None:
    fingerprint = results_of(used)[0]["spec"]["data"]
    for result in results_of(used):
        result["spec"]["data"] = "0" * 16
    send.send_runs(tracker, "made", results_of(used))
    for _ in range(2):
        _, changed = send.send_leaderboard(tracker, "1", used, [])
        assert changed == 2
    assert not [name for _, name in tracker.client.files if name == "samples.png"]
    assert used.gallery.note.startswith("No pictures of ")
    for result in results_of(used):
        result["spec"]["data"] = fingerprint
    assert send.send_leaderboard(tracker, "1", replace(used), [])[1] == 2
    assert [name for _, name in tracker.client.files].count("samples.png") == 1
    assert send.send_leaderboard(tracker, "1", replace(used), [])[1] == 0


def test_the_board_shows_its_main_picture(tracker: Any, tmp_path: Path) -> None:
    board = make({("uniform", 0.3): [0.9]})
    names = ("accuracy_keep.png", "made.html", "pareto.pdf", "pareto.png", "pareto_time.png")
    key, _ = send.send_leaderboard(tracker, "1", board, [tmp_path / name for name in names])
    [(holder, _), *_] = tracker.client.files
    assert [name for _, name in tracker.client.files] == ["more/accuracy_keep.png", *names[1:]]
    text = tracker.client.experiments[key].tags["mlflow.note.content"]
    assert text.count("![") == 1
    assert f"\n\n![pareto.png](get-artifact?path=pareto.png&run_uuid={holder})\n\n" in text
