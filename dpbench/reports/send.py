"""Send a grid to MLflow from its run folders, again and again without harm: its runs, and its leaderboard's rows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import pandas as pd

from dpbench import store
from dpbench.analysis import board as boards
from dpbench.analysis import gallery, verdicts
from dpbench.analysis.table import Line, records
from dpbench.errors import RunFailed
from dpbench.reports import columns, database, formats, summary
from dpbench.reports import files as written
from dpbench.reports.send_runs import send_runs, several_of, title_of, where_of
from dpbench.reports.tracking import (
    COLUMNS,
    CONTENT,
    LIMIT,
    NOTE,
    SENDER,
    VIEWED,
    Tracker,
    default_uri,
    digest,
    fit,
    image,
    sender,
)
from dpbench.spec import row_of
from dpbench.training import derived
from dpbench.training.measures import MEASURES
from dpbench.training.results import RunResult

if TYPE_CHECKING:
    from rich.console import Console

    from dpbench.analysis.board import Board

NUMBERS = ["rank", "accuracy_mean", "difference_full", *(one.name for one in MEASURES if one.main), "seeds"]
MEANING = (  # of the columns, in the description
    "**accuracy**: mean over seeds in %, with its 95 % interval; **rank**: its place among the rows of the same "
    "**keep**, the share of samples to keep; **at its cost**: the difference to random per epoch at the same cost.",
    *(f"**{one.name}**: {one.meaning}." for one in MEASURES if one.main),
)
PICTURED = "with pictures"  # in a row's content, so that rows from before are sent again


class Sent(NamedTuple):
    """What was done, in one line, and the results that are there now, by hash."""

    line: str
    results: dict[str, RunResult]


def publish(board: Board, tracking_uri: str | None, console: Console) -> None:
    """Write a board's files and send it; what goes wrong is one line of warning, since the results are safe."""
    try:
        with console.status("drawing the leaderboard"):
            stamps = _stamps(written.files(board))
        before = store.read(_sent(board.grid.name), Path.read_bytes)
        if not before or before.decode(errors="replace") != _state(board.grid.name, tracking_uri, stamps):
            send(board.grid.name, tracking_uri, console, board.data_root)  # it imports MLflow, which takes seconds
    except (OSError, RunFailed) as error:
        again = f"dpbench sync {board.grid.name} sends the results again"
        console.print(f"warning: {error}; {again}", style="yellow", markup=False, soft_wrap=True)


def _sent(grid: str) -> Path:
    """The file that says what of a grid was sent where."""
    return store.home() / "leaderboards" / f"{grid}.sent"


def _stamps(files: Iterable[Path]) -> list[Any]:
    """The state of a board's files, which are made again whenever anything that is sent has changed."""
    return [(file.name, store.stamp(file)) for file in files]


def _state(grid: str, tracking_uri: str | None, stamps: list[Any]) -> str:
    """What was sent, and how the database was left; "" for a server, of which nothing is known."""
    uri = tracking_uri or default_uri()
    path = database.path_of(uri)
    if path is None:
        return ""
    left = [store.stamp(path.with_name(path.name + suffix)) for suffix in ("", *database.BESIDE)]
    return digest([uri, stamps, left, (path.parent / "artifacts" / f"{grid} leaderboard").is_dir()])


def send(grid: str, tracking_uri: str | None, console: Console, data_root: Path | None = None) -> Sent:
    """Send what is missing or has changed. Raises Untracked."""
    with console.status("sending results to MLflow"):
        tracker = Tracker(tracking_uri)
        if tracker.mended:
            console.print(tracker.mended, style="yellow", markup=False, soft_wrap=True)
        with tracker.sending():
            board = boards.load(grid, data_root)  # as it is now: another process may have sent a newer one meanwhile
            results = board.results | board.controls
            experiment, sent = send_runs(tracker, grid, [*results.values()], data_root)
            stamps = _stamps(files := written.files(board))
            changed = send_leaderboard(tracker, experiment, board, files)[1]
            unread = bool(changed and board.gallery.unread)
            state = "" if unread else _state(grid, tracking_uri, stamps)
            store.write(_sent(grid), lambda file: file.write_text(state))
    if unread:
        console.print(board.gallery.note, style="yellow", markup=False, soft_wrap=True)
    there = f"{len(results) - sent} there already; {changed} of {len(board.table)} rows changed"
    return Sent(f"{grid}: {sent} runs sent, {there}: {tracker.name}", results)


def send_leaderboard(tracker: Tracker, runs_experiment: str, board: Board, files: Iterable[Path]) -> tuple[str, int]:
    """Write the leaderboard's experiment, one run a row; return its id, and how many rows are new or have changed.

    The files are artifacts of one row, which keeps them as long as it is there; the description links to them.
    """
    from mlflow.entities import Metric

    rows, whole = records(board.table), formats.plain(board.table)
    several = several_of(rows)
    visible = [*(f"params.`{name}`" for name in several), *COLUMNS]
    experiment = tracker.experiment(f"{board.grid.name} leaderboard", visible, "metrics.`order`", True)
    tracker.client.set_experiment_tag(experiment, "dpbench.track", board.track)
    finished = {place: board.finished(*place) for place in {(row["dataset"], row["model"]) for row in rows}}
    there, keys, changed = tracker.runs(experiment, "dpbench.row"), [], 0
    now = int(time.time() * 1000)
    for order, (row, values) in enumerate(zip(rows, whole, strict=True), 1):
        params = {name: str(row[name]) for name in ("method", "dataset", "model", "keep", "kind")}
        curves = _curves(finished[row["dataset"], row["model"]].get((row["method"], row["keep"]), []))
        name = fit(title_of(row) + where_of(row, several))
        key = digest([name, params, curves])  # MLflow cannot take points of a curve back: other curves, another run
        texts, numbers = _texts(row), {"order": float(order)} | _numbers(row)
        content, old = digest([PICTURED, texts, numbers, values]), there.pop(key, [])
        tracker.remove(old[1:])
        if old:
            run_id = old[0].info.run_id
        else:
            tags = {"dpbench.row": key, SENDER: sender()}
            run_id = tracker.client.create_run(experiment, now, tags, name).info.run_id
            points = [Metric(f"{curve}_by_epoch", value, now, epoch) for curve, epoch, value in curves]
            tracker.log(run_id, {}, params, points)
        keys.append(run_id)
        if old and old[0].data.tags.get(CONTENT) == content:
            continue
        changed += 1
        shown = tracker.picture(run_id, partial(gallery.sheet, board, row_of(row)))
        texts[NOTE] = _note(row, experiment, run_id, runs_experiment, params, shown)
        tracker.log(run_id, texts, None, [Metric(name, value, now, 0) for name, value in numbers.items()])
        tracker.client.log_dict(run_id, values, "row.json")
        tracker.client.set_terminated(run_id, "FINISHED" if row["seeds"] else "FAILED")
        if row["dataset"] not in board.gallery.unread:  # else it is sent again, until its pictures can be had
            tracker.log(run_id, {CONTENT: content})  # last: the row is whole
    for runs in there.values():
        tracker.remove(runs)
    if keys:
        _attach(tracker, board, experiment, keys, files)
    return experiment, changed


def _curves(results: list[RunResult]) -> list[tuple[str, int, float]]:
    """A row's curves as name, epoch and mean over its seeds, for the epochs at which all seeds' values are known."""
    found = []
    for name in (one.name for one in MEASURES if one.drawn):
        by_epoch = zip(*(derived.curve(result, name) for result in results), strict=False)
        means = [round(fmean(values), 6) for values in by_epoch]  # NaN where one of the values is
        found += [(name, epoch, mean) for epoch, mean in enumerate(means, 1) if not math.isnan(mean)]
    return found


def _note(row: Line, experiment: str, run_id: str, runs_experiment: str, params: dict[str, str], shown: str) -> str:
    """A row's description: links to its curves, its runs and the board, why runs are missing, and its picture."""
    query = " and ".join(f"params.{name} = '{params[name]}'" for name in ("method", "dataset", "model", "keep"))
    mode = "workflowType=machine_learning"
    links = [
        f"[Its curves by epoch, means over seeds](#/experiments/{experiment}/runs/{run_id}/model-metrics?{mode})",
        f"[The runs of this row](#/experiments/{runs_experiment}/runs?searchFilter={quote(query)}&{mode})",
        f"[The board, with its page and figures in the description](#/experiments/{experiment}/runs?{VIEWED})",
    ]
    return "\n\n".join(filter(None, [" | ".join(links), row["reason"], shown]))


def _texts(row: Line) -> dict[str, str]:
    """A row's tags: what its columns show, and its verdicts."""
    texts = {
        "accuracy": columns.accuracy(row),
        "to random": columns.difference(row, "uniform"),
        "at its cost": columns.difference(row, verdicts.AT_COST),
        "track": row["track"],
    }
    verdict = ("verdict_uniform", f"verdict_{verdicts.AT_COST}", "verdict_full", "equivalence_full")
    return texts | {name: row[name] for name in verdict if row[name]}


def _numbers(row: Line) -> dict[str, float]:
    """A row's metrics, as far as they are known and fair; row.json has all of the row."""
    digits = {"accuracy_mean": 4}  # the others need no more than fits a narrow column
    unfair = ("accuracy_mean",) if row["trouble"] else ()  # that of the seeds that are left
    known = [name for name in NUMBERS if pd.notna(row[name]) and name not in unfair]
    return {name: round(float(row[name]), digits.get(name, 2)) for name in known}


def _attach(tracker: Tracker, board: Board, experiment: str, runs: list[str], files: Iterable[Path]) -> None:
    """Log the files to the run that has them already, else to the first, and write the description with their link."""
    old = tracker.client.get_experiment(experiment).tags.get("dpbench.files", "")
    run = old if old in runs else runs[0]
    pictures = []
    for file in files:
        tracker.client.log_artifact(run, str(file), None if _first(file) else "more")
        if file.name.startswith("pareto") and file.suffix == ".png":
            pictures.append(image(run, file.name))
    text = describe(board, f"#/experiments/{experiment}/runs/{run}/artifacts", pictures[:1])
    tracker.client.set_experiment_tag(experiment, "dpbench.files", run)
    tracker.client.set_experiment_tag(experiment, NOTE, text)


def _first(file: Path) -> bool:
    """Whether a file is one that a reader opens first; the others have a folder."""
    return file.name.startswith("pareto") or file.suffix in (".html", ".md")


def describe(board: Board, link: str, pictures: Sequence[str] = ()) -> str:
    """The leaderboard's description: what it says, its picture and columns, where its files are, and its table."""
    whole = f"[The whole table]({link}/{quote(board.grid.name)}.md)"
    said = cut("\n".join(f"- {sentence}" for sentence in summary.headlines(board)), LIMIT // 3, f"\n\n{whole}")
    meaning = "\n".join(f"- {line}" for line in MEANING)
    parts = [
        said,
        *pictures,
        meaning,
        f"[Figures, the page as one HTML file, and tables]({link})",
        formats.markdown(board),
    ]
    return cut("\n\n".join(part for part in parts if part), LIMIT, f"\n\n{whole}")


def cut(text: str, limit: int, more: str) -> str:
    """Leave out the last lines of a text longer than the limit and say `more` instead, within the limit."""
    return text if len(text) <= limit else text[: max(text.rfind("\n", 0, limit - len(more)), 0)] + more
