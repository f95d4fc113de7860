"""A measure is declared once: what a run records is declared, and one more entry is shown wherever measures are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from synthetic_board import usual

from dpbench.reports import columns
from dpbench.spec import RunSpec
from dpbench.training import runner
from dpbench.training.measures import MEASURES, tabled

ADD = """
from dpbench.training import measures
from dpbench.training.derived import curve

measures.MEASURES += (
    measures.Measure(
        "accuracy_first",
        "first epoch",
        "accuracy after the `first` epoch",
        unit="%",
        digits=1,
        better="down",
        column="first",
        derive=lambda result: curve(result, "accuracy")[0],
        main=True,
    ),
)

from rich.console import Console
from synthetic_board import usual

from dpbench.analysis.table import records
from dpbench.reports import comparison, formats, html, screen, send, summary, tracking

board = usual()
row = records(board.table)[0]
assert row["method"] == "orderdp" and abs(row["accuracy_first"] - 0.89) < 1e-9, row
assert "accuracy_first" in formats.text(board, "csv").splitlines()[0].split(",")


def printed(shown):
    console = Console(width=100, record=True, quiet=False, file=open("printed", "w"))
    console.print(shown)
    return console.export_text()


chosen = printed(screen.screen(board, 100, screen.Wanted(columns=("first",), sort="first"))).splitlines()
assert chosen[6:9] == ["                first", "                epoch", "method     keep     %"], chosen
shown = [float(line.split()[-1]) for line in chosen[10:21]]
assert shown == sorted(shown) and (shown[0], shown[-1]) == (85.0, 92.0), "the lowest is the best, and comes first"
assert "first" in printed(screen.screen(board, 100, screen.Wanted(wide=True)))
assert "first epoch %" in printed(comparison.screen(board, "orderdp", "el2n"))
page = html._data(board)
assert "accuracy_first" in page["columns"]
assert page["measures"]["accuracy_first"]["help"] == "accuracy after the first epoch"
assert page["measures"]["accuracy_first"]["label"] == "First epoch %"
assert send._numbers(row)["accuracy_first"] == 0.89
assert "metrics.`accuracy_first`" in tracking.COLUMNS
assert "**accuracy_first**: accuracy after the `first` epoch." in send.describe(board, "link")
assert "| `accuracy_first` | `first` | % | accuracy after the `first` epoch |" in summary.BLOCKS["measures"]("all")
"""


def test_one_more_entry_is_shown_wherever_measures_are(tmp_path: Path) -> None:
    path = [str(Path(__file__).parent.parent), *sys.path]
    code = f"import sys\nsys.path[:] = {path!r}\n{ADD}"
    made = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_what_a_run_records_is_declared_and_nothing_else(spec: Callable[..., RunSpec], home: Path) -> None:
    result = runner.run(spec("el2n"), torch.device("cpu"))
    of_some = {"peak_device_memory_mb", "gradient_cosine_surrogate", "gradient_norm_ratio_surrogate"}
    recorded = {one.name for one in MEASURES if one.derive is None and not one.of_row}
    assert result["metrics"].keys() <= recorded
    assert recorded - of_some <= result["metrics"].keys() | {"loss_train"}
    by_epoch = {one.name for one in MEASURES if one.by_epoch}
    assert by_epoch - of_some == {name for record in result["epochs"] for name in record} & by_epoch


def test_names_are_taken_once_and_the_table_has_what_is_declared() -> None:
    assert len({one.name for one in MEASURES}) == len(MEASURES)
    assert len(columns.BY_NAME) == len(columns.COLUMNS)
    table = usual().table
    assert {one.name for one in MEASURES if one.in_table} <= set(table.columns)
    assert [one.name for one in tabled()] == [name for name in table.columns if name in {one.name for one in tabled()}]
    assert not {one.name for one in MEASURES if not one.in_table} & set(table.columns)


def test_a_share_is_shown_in_percent_and_what_is_not_known_as_a_dash() -> None:
    worst, cost = (next(one for one in MEASURES if one.name == name) for name in ("accuracy_worst_class", "cost"))
    assert (worst.header, worst.shown(0.5), cost.header, cost.shown(0.5)) == ("worst class %", "50.00", "cost", "0.50")
    assert (cost.shown(None), cost.shown(float("nan"))) == ("-", "-")
