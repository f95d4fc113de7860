"""The leaderboard: what a row says, what it is compared with, and how it is written."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from scipy import stats as scipy_stats
from synthetic_board import N, around, costing, make, usual
from typer.testing import CliRunner

from dpbench import source, store
from dpbench.analysis import board as boards
from dpbench.analysis import cached, gallery, overlap, published, verdicts
from dpbench.analysis import table as tables
from dpbench.analysis.board import Board
from dpbench.cli.app import app
from dpbench.errors import UsageError
from dpbench.experiments import controls
from dpbench.reports import columns, comparison, figures, formats, screen
from dpbench.reports import files as written
from dpbench.selections import Selections
from dpbench.setting import Budget
from dpbench.spec import Recipe, RunSpec, canonical
from dpbench.training import loading, runner

ALL = screen.Wanted(wide=True, every=True, notes=True)


def row(board: Board, method: str, keep: float = 0.5) -> dict[str, Any]:
    table = board.table
    return tables.records(table[(table["method"] == method) & (table["keep"] == keep)])[0]


def shown(thing: Any) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(thing)
    return console.export_text()


# what a row says


def test_rows_are_ranked_by_the_last_epoch_within_their_keep() -> None:
    board = make(
        {("a", 0.5): [0.8, 0.8], ("b", 0.5): [0.9, 0.9], ("c", 0.3): [0.1, 0.1]}, {"a": {"accuracy_best_epoch": 1}}
    )
    ranks = dict(zip(board.table["method"], board.table["rank"], strict=True))
    assert ranks == {"a": 2, "b": 1, "c": 1}


def test_ties_are_shown_as_ties() -> None:
    board = make({("a", 0.5): [0.1, 0.2, 0.3], ("b", 0.5): [0.15, 0.15, 0.3], ("c", 0.5): [0.1, 0.1, 0.1]})
    assert board.table["rank"].tolist() == [1, 1, 3]
    assert [line.split()[:2] for line in shown(screen.screen(board, 120)).splitlines() if " 0.5 " in line] == [
        ["1", "a"], ["1", "b"], ["3", "c"],
    ]  # fmt: skip


def test_missing_and_failed_runs_are_shown() -> None:
    board = make({("a", 0.5): [0.8, None], ("b", 0.5): ["it broke", "it broke"], ("c", 0.5): [None, None]})
    assert [(row(board, m)["seeds"], row(board, m)["failed"], row(board, m)["missing"]) for m in "abc"] == [
        (1, 0, 1),
        (0, 2, 0),
        (0, 0, 2),
    ]
    assert pd.isna(row(board, "b")["rank"])
    assert row(board, "b")["reason"] == "it broke"
    text = shown(screen.screen(board, 140, ALL))
    assert "failed 2/2" in text
    assert "missing" in text
    assert "1/2" in text


def test_difference_to_random_is_the_paired_one_in_points() -> None:
    board = usual()
    found = row(board, "orderdp", 0.3)
    a, b = (np.array(around(mean, noise)) for mean, noise in ((0.92, 0.1), (0.90, 0.0)))
    test = scipy_stats.ttest_rel(100 * a, 100 * b)
    family = 2 * (3 + 4)  # at two keeps: three whole methods to random, and with random four to full
    interval = test.confidence_interval(1 - 0.05 / family)
    assert found["difference_uniform"] == pytest.approx(2.0)
    assert found["difference_uniform_ci95"] == pytest.approx((interval.high - interval.low) / 2)
    assert found["difference_uniform_p"] == pytest.approx(family * test.pvalue)
    assert found["difference_full"] == pytest.approx(-3.0)


def test_verdicts() -> None:
    board = usual()
    texts = {
        method: row(board, method)["verdict_uniform"]
        for method in ("orderdp", "el2n", "infobatch", "uniform", "small_loss")
    }
    assert texts == {
        "orderdp": "better than random",
        "el2n": "worse than random",
        "infobatch": "not separable from random",
        "uniform": "",
        "small_loss": "failed 1/4",
    }
    assert row(board, "full", 1.0)["verdict_full"] == ""
    assert row(board, "uniform")["verdict_full"] == "worse than full"


def test_no_verdict_under_three_seeds() -> None:
    board = make({("full", 1.0): [0.95, 0.95], ("uniform", 0.5): [0.5, 0.5], ("a", 0.5): [0.9, 0.9]})
    assert row(board, "a")["verdict_uniform"] == verdicts.stats.NO_VERDICT
    assert row(board, "a")["equivalence_full"] == verdicts.stats.NO_VERDICT


@pytest.mark.parametrize(("delta", "verdict"), [(2.0, "equivalent"), (0.5, "not shown equivalent")])
def test_equivalence_uses_the_grids_delta(delta: float, verdict: str) -> None:
    board = make({("full", 1.0): around(0.95), ("a", 0.5): around(0.945, noise=0.1)}, delta=delta)
    assert row(board, "a")["equivalence_full"] == f"{verdict} to full within {delta:g}"


def test_unpaired_seeds_are_not_compared() -> None:
    board = make({("uniform", 0.5): [0.5, 0.5, 0.5, None, None], ("a", 0.5): [None, None, None, 0.9, 0.9]})
    assert np.isnan(row(board, "a")["difference_uniform"])
    assert row(board, "a")["verdict_uniform"] == verdicts.stats.NO_VERDICT


def test_rank_interval_is_narrow_where_every_seed_agrees() -> None:
    board = make({("a", 0.5): around(0.9), ("b", 0.5): around(0.8), ("c", 0.5): around(0.8, noise=0.5)})
    assert row(board, "a")["verdict_uniform"] == ""
    assert (row(board, "a")["rank_low"], row(board, "a")["rank_high"]) == (1, 1)
    assert row(board, "b")["rank_low"] < row(board, "b")["rank_high"]


def test_a_method_with_missing_seeds_has_no_rank_interval_and_costs_the_others_nothing() -> None:
    board = make({("a", 0.5): around(0.9), ("b", 0.5): [*around(0.8, seeds=4), None]})
    assert np.isnan(row(board, "b")["rank_low"])
    assert row(board, "a")["rank_high"] == 1


def test_cost_counts_two_for_a_backward_pass_and_the_proxy() -> None:
    spent = {"samples_forward": 4 * N, "samples_backward": N, "samples_proxy": N, "samples_proxy_forward": 2 * N}
    board = make({("full", 1.0): [0.9], ("a", 0.5): [0.9]}, {"a": spent})
    found = row(board, "a")
    assert found["cost"] == pytest.approx((4 + 2) / (3 * 4))
    assert found["cost_with_proxy"] == pytest.approx((4 + 2 + 2 + 2) / (3 * 4))
    assert found["speedup_ideal"] == pytest.approx(12 / 10)
    assert found["speedup"] == pytest.approx(2.0)


def with_controls(**options: Any) -> Board:
    """Two rows at 0.5 that cost 0.7 and 0.9; random is better at those costs than at 0.5."""
    accuracies = {("full", 1.0): around(0.95), ("uniform", 0.5): around(0.9), ("uniform_epoch", 0.5): around(0.9)}
    accuracies |= {("a", 0.5): around(0.92, noise=0.1), ("b", 0.5): around(0.92, noise=0.1)}
    options = {"controls": {0.7: around(0.94), 0.9: around(0.9)}} | options
    return make(accuracies, {"a": costing(0.7), "b": costing(0.9)}, **options)


def test_the_control_at_cost_is_random_per_epoch_at_the_share_that_costs_as_much() -> None:
    board = with_controls()
    a, b = row(board, "a"), row(board, "b")
    assert (a["control_keep"], b["control_keep"]) == (0.7, 0.9)
    assert a["verdict_uniform"] == b["verdict_uniform"] == "better than random"
    assert (a["difference_control"], b["difference_control"]) == (pytest.approx(-2), pytest.approx(2))
    assert (a["verdict_control"], b["verdict_control"]) == (
        "worse than random at its cost",
        "better than random at its cost",
    )
    p = scipy_stats.ttest_rel(around(0.92, noise=0.1), around(0.94)).pvalue
    family = 3 + 2 + 4 + 2  # to random, to random per epoch, to full, at cost
    assert a["difference_control_p"] == pytest.approx(family * p)
    assert pd.isna(row(board, "uniform")["control_keep"])


def test_controls_at_cost_are_no_rows_and_move_no_rank() -> None:
    with_, without = with_controls().table, with_controls(controls={}).table
    changed = [name for name in with_ if name.startswith(("difference", "verdict", "equivalence"))]
    pd.testing.assert_frame_equal(with_.drop(columns=changed), without.drop(columns=changed))
    assert without["difference_control"].isna().all()
    assert set(without["verdict_control"]) == {""}
    means = ["difference_uniform", "difference_full"]
    pd.testing.assert_frame_equal(with_[means], without[means])
    assert (with_["difference_full_ci95"] > without["difference_full_ci95"]).any(), "a larger family"


def test_a_row_of_the_grid_may_be_the_control_of_another() -> None:
    accuracies = {
        ("a", 0.5): around(0.92, noise=0.1),
        ("uniform_epoch", 0.5): around(0.9),
        ("uniform_epoch", 0.7): around(0.94),
    }
    board = make(accuracies, {"a": costing(0.7)})
    assert row(board, "a")["difference_control"] == pytest.approx(-2)
    assert make(accuracies, {"a": costing(0.7)}, controls={0.7: around(0.94)}).table.equals(board.table)


@pytest.mark.parametrize(
    ("method", "keep", "cost", "expected"),
    [
        ("a", 0.5, 0.53, [0.53]),
        ("a", 0.5, 0.51, []),
        ("a", 0.5, 1.0, []),
        ("a", 0.5, 1.2, []),
        ("full_short", 0.5, 0.7, []),
    ],
)
def test_who_needs_a_control_at_cost(method: str, keep: float, cost: float, expected: list[float]) -> None:
    board = make({(method, keep): [0.9, 0.9, None]}, {method: costing(cost)})
    planned = controls.plan(board.cells, board.results).values()
    assert sorted({spec.keep for spec in planned}) == expected
    assert sorted(spec.seed for spec in planned) == [0, 1] * len(expected)
    timed = {key: spec.model_copy(update={"budget": Budget(unit="steps")}) for key, spec in board.cells.items()}
    assert controls.plan(timed, board.results) == {}
    failed = make({(method, keep): [0.9, 0.9, "it broke"]}, {method: costing(cost)})
    assert controls.plan(failed.cells, failed.results) == {}, "it is not compared"


def test_the_control_at_cost_is_written_in_every_form() -> None:
    board = with_controls()
    said = f"-2.00 ± {row(board, 'a')['difference_control_ci95']:.2f} ▼"
    assert said in shown(screen.screen(board, 140, ALL))
    assert said in formats.text(board, "markdown")
    assert said.replace("±", "$\\pm$").replace("▼", "$\\blacktriangledown$") in formats.text(board, "latex")
    assert "difference to it" in (text := shown(comparison.screen(board, "a", "b")))
    assert said in text
    assert formats.AT_COST not in formats.text(usual(), "markdown")


def test_pareto_front_is_of_cost_and_accuracy_over_all_keeps() -> None:
    board = make({("full", 1.0): [0.9], ("a", 0.5): [0.9], ("b", 0.5): [0.8], ("c", 0.3): [0.7]})
    front = {method for method, on in zip(board.table["method"], board.table["pareto"], strict=True) if on}
    assert front == {"a", "c"}


def test_coverage_is_unknown_while_a_seed_has_not_seen_all() -> None:
    board = make({("a", 0.5): [0.9, 0.9], ("b", 0.1): [0.9, 0.9]})
    assert row(board, "a")["coverage_epochs"] == 2
    assert np.isnan(row(board, "b", 0.1)["coverage_epochs"])
    assert row(board, "b", 0.1)["never_used"] == 60


def test_time_to_randoms_accuracy() -> None:
    board = make({("uniform", 0.5): [0.90, 0.90], ("a", 0.5): [0.92, 0.92], ("b", 0.5): [0.89, 0.92]})
    assert row(board, "a")["time_to_random_s"] == pytest.approx(1.0)  # the second of epochs of half a second
    assert np.isnan(row(board, "b")["time_to_random_s"])


def test_spread_and_correlation_come_from_the_epochs() -> None:
    board = make({("a", 0.5): [0.9, 0.92]})
    found = row(board, "a")
    assert found["accuracy_spread_last"] == pytest.approx(np.std([0.89, 0.9], ddof=1))
    assert found["accuracy_std"] == pytest.approx(np.std([0.9, 0.92], ddof=1))
    assert found["gradient_norm_r"] == pytest.approx(-1)
    assert -1 < found["gradient_norm_r_pooled"] < 0
    assert found["accuracy_worst_class"] == pytest.approx(0.81)


def test_order_of_runs_changes_nothing() -> None:
    board = usual()
    shuffled = Board(
        board.grid,
        dict(reversed(board.cells.items())),
        dict(reversed(board.results.items())),
        board.overlap,
    )
    pd.testing.assert_frame_equal(board.table, shuffled.table)


def test_over_datasets() -> None:
    one, two = (
        make({("a", 0.5): around(0.9), ("uniform", 0.5): around(0.8)}, datasets=sets) for sets in (("x",), ("x", "y"))
    )
    assert one.across.empty
    assert "at least 5" in one.across_reason
    many = make({("a", 0.5): around(0.9), ("uniform", 0.5): around(0.8)}, datasets=tuple("vwxyz"))
    assert many.across_reason == "No test over datasets: no keep has 3 methods with runs on all 5 of them."
    found = two.across.set_index("method")
    assert found.loc["a", "rank"] == 1
    assert found.loc["a", "beats_random"] == 1
    assert found.loc["uniform", "iqm"] == pytest.approx(80, abs=0.1)


def test_random_is_not_separable_from_random_with_other_seeds(home: Path, plugin: Callable[[str], str]) -> None:
    """A real grid: `again` is random that draws its subsets from other seeds than `uniform` does."""
    again = plugin(
        """
        from dpbench.methods.uniform import Uniform

        class Again(Uniform):
            def setup(self, task, rng):
                super().setup(task, rng.manual_seed(rng.initial_seed() + 1))
        """
    )
    recipe = Recipe(epochs=6, batch_size=32, lr=0.05)
    data = {"data": loading.load_data("digits", None).fingerprint}
    cells = {
        spec.hash: spec
        for method in ("uniform", canonical(again))
        for keep in (0.1, 0.3)
        for seed in range(5)
        for spec in [RunSpec(dataset="digits", model="mlp", method=method, keep=keep, seed=seed, recipe=recipe, **data)]
    }
    results = {key: runner.run(spec, torch.device("cpu")) for key, spec in cells.items()}
    table = tables.table(cells, results)
    other = table[table["method"] != "uniform"]
    assert list(other["verdict_uniform"]) == ["not separable from random"] * 2
    assert (other["difference_uniform"] != 0).all(), "other subsets, other accuracies"


# seeds that diverged or failed


FORMS = ("markdown", "latex", "csv", "json", "html", "summary")
DIVERGED = ("diverged", "the training loss became NaN in epoch 3")


def with_diverged(**options: Any) -> Board:
    """`a` would be first by the seeds that are left; two of five diverged."""
    accuracies = {("full", 1.0): around(0.95), ("uniform", 0.5): around(0.9), ("uniform_epoch", 0.5): around(0.9)}
    accuracies |= {("a", 0.5): [*around(0.99, seeds=3), DIVERGED, DIVERGED], ("b", 0.5): around(0.91)}
    accuracies[("c", 0.5)] = [*around(0.98, seeds=3), DIVERGED, "it broke"]
    return make(accuracies, **options)


def test_a_row_with_diverged_seeds_is_below_all_whole_ones_and_says_so() -> None:
    board = with_diverged()
    a, c = row(board, "a"), row(board, "c")
    assert (a["seeds"], a["diverged"], a["failed"], a["missing"]) == (3, 2, 0, 0)
    assert a["accuracy_mean"] == pytest.approx(np.mean(around(0.99, seeds=3)))
    ranks = dict(zip(board.table["method"], board.table["rank"], strict=True))
    assert ranks == {"b": 1, "uniform": 2, "uniform_epoch": 2, "a": 4, "c": 5, "full": 1}
    assert np.isnan(a["rank_low"])
    for name in ("verdict_uniform", "verdict_uniform_epoch", "verdict_full", "equivalence_full"):
        assert a[name] == "diverged 2/5"
        assert c[name] == "diverged 1/5, failed 1/5"
    assert np.isnan(a["difference_uniform"])
    assert not a["pareto"]
    assert row(board, "b")["pareto"]
    assert np.isnan(a["time_to_random_s"])
    assert a["reason"] == DIVERGED[1]
    assert {f.text for f in board.findings if f.badge == "diverged" and f.row and f.row[2] == "a"} == {
        f"diverged 2/5: {DIVERGED[1]}"
    }


def test_it_is_alike_in_every_form() -> None:
    board = with_diverged()
    for text in (shown(screen.screen(board, 140, ALL)), *(formats.text(board, form) for form in FORMS)):
        assert "diverged 2/5" in text
    assert columns.accuracy(row(board, "a")) == "diverged 2/5", "the mean of those that are left would flatter it"
    assert "a: diverged 2/5" in shown(comparison.screen(board, "a", "b"))
    assert ("a", 0.5) not in board.finished("digits", "cnn")
    assert set(board.runs["method"]) == {"full", "uniform", "uniform_epoch", "b"}
    assert pd.isna(row(make({("a", 0.5): [DIVERGED] * 2}), "a")["rank"])
    assert columns.accuracy(row(make({("a", 0.5): [DIVERGED] * 2}), "a")) == "diverged 2/2"


def test_a_control_with_diverged_seeds_is_no_control() -> None:
    accuracies = {("uniform", 0.5): [*around(0.9, seeds=4), DIVERGED], ("a", 0.5): around(0.92)}
    found = row(make(accuracies), "a")
    assert found["verdict_uniform"] == "random: diverged 1/5"
    assert np.isnan(found["difference_uniform"])
    many = make(accuracies, datasets=("x", "y"))
    assert set(many.across["method"] if len(many.across) else []) <= {"a"}


@pytest.mark.parametrize("grid", ["quick", "fashion_mnist", "dynamic_quick", "static_quick"])
def test_no_interval_contradicts_its_verdict(grid: str) -> None:
    for line in tables.records(boards.load(grid).table):
        for control in (*verdicts.CONTROLS, verdicts.AT_COST):
            mean, half = line[f"difference_{control}"], line[f"difference_{control}_ci95"]
            said = line[f"verdict_{control}"].split(" ")[0]
            if not np.isnan(half):
                assert said == ("not" if abs(mean) <= half else "better" if mean > 0 else "worse")
                assert (line[f"difference_{control}_p"] < 0.05) == (said != "not")


# who selects the same samples


def test_overlap_of_seeds_and_methods(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = make({("a", 0.5): [0.9, 0.9], ("b", 0.5): [0.9, 0.9]})
    chosen = {"a": [[0, 1], [2, 3]], "b": [[1, 2]]}  # b is over after one epoch
    for key, spec in board.cells.items():
        selections = Selections([torch.tensor(epoch) + spec.seed for epoch in chosen[spec.method]], 8, {})
        selections.write(store.run_folder(key) / "selections.npz")
        board.results[key]["samples"]["train"] = 8
    found = overlap.of_results(board.results.values())
    assert found.seeds[("digits", "cnn", "a", 0.5)] == pytest.approx((1 / 3, 0.5 / 3.5))
    assert found.methods[["method", "other", "jaccard"]].to_numpy().tolist() == [["a", "b", pytest.approx(1 / 3)]]
    damaged = next(key for key, spec in board.cells.items() if spec.method == "a")
    (store.run_folder(damaged) / "selections.npz").write_bytes(b"nothing")
    (store.run_folder(damaged) / "done").touch()
    found = overlap.of_results(board.results.values())
    assert re.search(rf"{damaged}.*not a file of selections.*selections.npz.bad-1\n", capsys.readouterr().err)
    assert not (store.run_folder(damaged) / "done").exists(), "the run is made again"
    assert [method for _, _, method, _ in found.seeds] == ["b"], "a has one seed left"
    assert len(found.methods) == 1, "which still meets b's"


# how it is written


def test_json_has_null_for_what_is_not_known() -> None:
    rows = json.loads(formats.text(usual(), "json"))
    assert rows[0]["method"] == "full" or rows[0]["rank"] == 1
    assert next(r for r in rows if r["method"] == "uniform")["difference_uniform"] is None
    assert all(isinstance(r["pareto"], bool) for r in rows)


def test_csv_can_be_read_back() -> None:
    board = usual()
    lines = list(csv.DictReader(io.StringIO(formats.text(board, "csv"))))
    assert [line["method"] for line in lines] == list(board.table["method"])
    assert float(lines[0]["accuracy_mean"]) == board.table["accuracy_mean"][0]


@pytest.mark.parametrize("mark", "=+-@")
def test_names_in_csv_are_no_formulas(mark: str) -> None:
    board = make({(f"{mark}cmd|' /C calc'!A0", 0.5): around(0.9), ("uniform", 0.5): around(0.92)})
    lines = {one["method"]: one for one in csv.DictReader(io.StringIO(formats.text(board, "csv")))}
    assert float(lines[f"'{mark}cmd|' /C calc'!A0"]["difference_uniform"]) == pytest.approx(-2), "numbers stay numbers"


def test_markdown_and_latex_keep_names_as_text() -> None:
    board = make({("a|b<i>_$&", 0.5): [0.9, 0.9]})
    assert r"a\|b&lt;i&gt;_$&amp;" in formats.text(board, "markdown")
    assert r"a|b$<$i$>$\_\$\&" in formats.text(board, "latex")


def test_findings_stand_below_the_table() -> None:
    assert "failed runs: small_loss at 0.3, small_loss at 0.5: 1 of 5 runs failed" in shown(
        screen.screen(usual(), 140, ALL)
    )


def test_results_file_gives_the_same_board() -> None:
    board = usual(overlap=overlap.Overlap({("digits", "cnn", "orderdp", 0.5): (0.4, 0.3)}))
    packed = boards.pack(board)
    again = boards.unpack(packed)
    assert boards.pack(again) == packed
    board_at_cost = with_controls()
    assert boards.unpack(boards.pack(board_at_cost)).table.equals(board_at_cost.table)
    pd.testing.assert_frame_equal(again.table, board.table)
    assert row(again, "orderdp")["jaccard_seeds"] == 0.4
    assert again.checked_in


def test_files_are_made_again_only_when_results_changed(home: Path) -> None:
    board = make({("full", 1.0): [0.9, 0.9], ("uniform", 0.5): [0.8, 0.8]})
    made = written.files(board)
    assert {path.suffix for path in made} == {".png", ".pdf", ".json", ".csv", ".md", ".tex", ".html", ".gz"}
    times = {path: path.stat().st_mtime_ns for path in made}
    assert {path: path.stat().st_mtime_ns for path in written.files(board)} == times
    less = Board(board.grid, board.cells, dict(list(board.results.items())[:-1]), board.overlap)
    assert written.files(less)[-1].stat().st_mtime_ns > times[made[-1]]


def test_files_are_made_again_when_code_selections_or_the_root_of_the_data_changed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots: list[Path | None] = []
    monkeypatch.setattr(figures, "save", lambda board, folder: roots.append(board.data_root) or [])
    monkeypatch.setattr(formats, "text", lambda board, form: form)
    unread: list[str] = []
    monkeypatch.setattr(gallery, "make", lambda results, root: gallery.Gallery(unread=unread))
    board = make({("full", 1.0): [0.9, 0.9]})

    def drawn(board: Board) -> bool:
        count = len(roots)
        written.files(board)
        return len(roots) > count

    assert drawn(board)
    assert not drawn(board)
    store.write(store.run_folder(next(iter(board.results))) / "selections.npz", lambda file: file.write_text("a"))
    assert drawn(board)
    with_data = dataclasses.replace(board, data_root=tmp_path)
    assert drawn(with_data)
    assert not drawn(with_data)
    assert not drawn(board), "its pictures stay"
    monkeypatch.setattr(source, "everything", lambda: "other code")
    assert drawn(board)
    assert roots[-1] == tmp_path
    (home / "leaderboards" / "made" / ".made").write_text("{}")
    assert drawn(board), "a damaged mark says nothing"
    assert not drawn(dataclasses.replace(board, data_root=None))
    unread.append("digits")
    monkeypatch.setattr(source, "everything", lambda: "code again")
    assert drawn(dataclasses.replace(board))
    assert drawn(dataclasses.replace(board)), "until its data can be had"
    unread.clear()
    assert drawn(dataclasses.replace(board))
    assert not drawn(dataclasses.replace(board))


@pytest.fixture
def checked_in(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """A board whose results come with dpbench, as the grid `made`."""
    packed = tmp_path / "results" / "made" / "results.json.gz"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(boards.pack(usual()))
    monkeypatch.setattr(boards, "LEADERBOARDS", tmp_path)
    return boards.load("made")


def test_checked_in_results_are_shown_where_the_grid_was_not_run(checked_in: Board) -> None:
    assert checked_in.checked_in
    done = CliRunner().invoke(app, ["leaderboard", "made"])
    assert done.exit_code == 0
    assert "was not run here" in done.stderr
    assert "orderdp" in done.stdout
    assert done.stdout.splitlines()[-1].split(":  ") == ["Run it here", "dpbench run made"]
    assert not (store.home() / "mlflow.db").exists()
    with pytest.raises(UsageError, match="no grid 'other'"):
        boards.load("other")


@pytest.mark.parametrize(
    ("form", "start"),
    [("html", "<!doctype html>"), ("csv", "rank,dataset"), ("latex", "\\begin{tabular}"), ("table", "At keep 0.3")],
)
def test_output_goes_to_a_file(checked_in: Board, tmp_path: Path, form: str, start: str) -> None:
    file = tmp_path / "a folder" / "board"
    done = CliRunner().invoke(app, ["leaderboard", "made", "-f", form, "-o", str(file)])
    assert done.exit_code == 0
    assert done.stdout == ""
    assert file.read_text().startswith(start)


def test_results_format_is_what_is_checked_in(checked_in: Board, tmp_path: Path) -> None:
    file = tmp_path / "results.json.gz"
    CliRunner().invoke(app, ["leaderboard", "made", "-f", "results", "-o", str(file)])
    assert file.read_bytes() == boards.pack(checked_in, pictures=True)
    assert isinstance(CliRunner().invoke(app, ["leaderboard", "made", "-f", "results"]).exception, UsageError)


# published figures


def published_line(method: str, prune_ratio: str, value: float, **changes: Any) -> dict[str, Any]:
    line = {"paper": "P", "table": "1", "dataset": "Digits", "model": "CNN", "method": method, "kind": "dynamic"}
    line |= {
        "prune_ratio": prune_ratio,
        "metric": "top1_acc",
        "value": value,
        "std": None,
        "source": "s",
        "verified": "yes",
        "epoch": None,
    }
    return line | changes


def compared(board: Board, *lines: dict[str, Any]) -> list[str]:
    return list(published.beside(board.table, 0.5, pd.DataFrame(lines))["compared"])


def test_published_figures_are_told_apart() -> None:
    lines = [
        published_line("OrderDP", "0.5", 94.0),
        published_line("Random (static)", "0.5", 90.0),
        published_line("Full", "0", 95.0),
        published_line("SeTa", "0.5", 94.0),
        published_line("OrderDP", "0.500 (measured)", 94.0),
        published_line("OrderDP", "r=0.5 (nominal)", 94.0),
        published_line("OrderDP", "adaptive q", 94.0),
        published_line("OrderDP", "0.5", 94.0, dataset="CIFAR-10"),
    ]
    assert compared(usual(), *lines) == [
        "reproduced",
        "differs by +2.00",
        "reproduced",
        "not run",
        "reproduced",
        "its ratio is nominal; here 0.50 was pruned",
        "not run",
    ]


def test_noise_reproduces_nothing() -> None:
    noisy = make({("orderdp", 0.5): [0.98, 0.99, 0.98, 0.99, 0.10]})
    assert abs(100 * row(noisy, "orderdp")["accuracy_mean"] - 94.7) < 100 * row(noisy, "orderdp")["accuracy_ci95"]
    assert compared(noisy, published_line("OrderDP", "0.5", 94.7)) == ["too uncertain"]
    assert compared(make({("orderdp", 0.5): [0.947]}), published_line("OrderDP", "0.5", 94.7)) == ["too uncertain"]
    diverged = make({("orderdp", 0.5): [*around(0.947, seeds=4), ("diverged", "NaN")]})
    assert compared(diverged, published_line("OrderDP", "0.5", 94.7)) == ["diverged 1/5"]


def test_what_was_really_pruned_counts() -> None:
    board = make({("infobatch", keep): around(0.947) for keep in (0.3, 0.6)}, {"infobatch": {"prune_ratio": 0.41}})
    lines = [published_line("InfoBatch", ratio, 94.7) for ratio in ("0.7", "~0.4", "0.409 (measured)", "0.2")]
    assert compared(board, *lines) == ["pruned 0.41, not 0.7", "reproduced", "reproduced", "not run"]


def test_best_epochs_are_marked_and_compared_with_best_epochs() -> None:
    best = [published_line("OrderDP", "0.5", 96.0, metric="best_top1_acc")]
    best += [published_line("OrderDP", "0.5", 96.0, epoch="best")]
    board = make({("orderdp", 0.5): around(0.94)})
    for i, result in enumerate(board.results.values()):
        result["metrics"]["accuracy_best_epoch"] = around(0.96)[i]
    found = published.beside(board.table, 0.5, pd.DataFrame(best))
    assert list(found["published"]) == ["96 (best epoch)"] * 2
    assert list(found["compared"]) == ["reproduced (best epoch)"] * 2
    assert found["measured"].tolist() == pytest.approx([96.0, 96.0])


def test_published_figures_have_a_status_and_a_source_wherever_rows_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        published_line("Order=DP", "0.5", 94.0, std=0.2, source="=a paper, p. 3"),
        published_line("SeTa", "r=0.5 (nominal)", 93.0, metric="best_top1_acc"),
        published_line("IES", "adaptive q", 92.0),
    ]
    monkeypatch.setattr(published, "read", lambda: pd.DataFrame(lines))
    board = usual()
    first, *texts = formats.text(board, "csv").splitlines()
    before = formats.csv(board.table).splitlines()
    assert first == f"{before[0]},status,source,paper,compared"
    assert texts[: len(board.table)] == [f"{line},own,,," for line in before[1:]], "our own rows are as they were"
    known = [{key: value for key, value in row.items() if value} for row in csv.DictReader([first, *texts[-3:]])]
    of_all = {"dataset": "Digits", "model": "CNN", "status": "published", "paper": "P", "compared": "not run"}
    assert known == [
        of_all | {"method": "Order=DP", "keep": "0.5", "prune_ratio": "0.5", "accuracy_mean": "0.94"}
        | {"accuracy_std": "0.002", "source": "'=a paper, p. 3"},
        of_all | {"method": "SeTa", "keep": "0.5", "accuracy_best_epoch": "0.93", "source": "s"},
        of_all | {"method": "IES", "accuracy_mean": "0.92", "source": "s"},
    ]  # fmt: skip
    found = json.loads(formats.text(board, "json"))
    assert [(row["status"], row["rank"]) for row in found[-3:]] == [("published", None)] * 3
    assert found[0]["status"] == "own"
    table = [line for line in formats.text(board, "markdown").splitlines() if line.endswith("| published |")]
    assert len(table) == 3
    assert "=a paper, p. 3" in table[0]
    notes = shown(screen.screen(board, 140, ALL))
    assert [line.split()[-1] for line in notes.splitlines() if "not run" in line] == ["published"] * 3
    assert "=a paper, p. 3" in notes


def test_published_files_name_their_source() -> None:
    figures = published.read()
    assert len(figures) == 392
    assert figures["source"].notna().all()
    assert figures["verified"].notna().all()
    best = figures[figures["epoch"] == "best"]
    assert dict(best["paper"].str.split().str[0].value_counts()) == {"OrderDP": 37, "CCS": 4, "InfoBatch": 2}


# two methods head to head


def test_compare_shows_the_paired_difference() -> None:
    text = shown(comparison.screen(usual(), "orderdp", "uniform"))
    assert "orderdp - uniform: +2.00 ± " in text
    assert "better than uniform" in text
    assert "94.00" in text


def test_compare_on_the_command_line(checked_in: Board) -> None:
    done = CliRunner().invoke(app, ["compare", "orderdp", "el2n", "--grid", "made"])
    assert "orderdp - el2n: +4.00" in done.stdout
    assert "--grid" in str(CliRunner().invoke(app, ["compare", "orderdp", "el2n"]).exception)


def test_compare_with_full_takes_every_keep() -> None:
    text = shown(comparison.screen(usual(), "orderdp", "full"))
    assert text.count("worse than full") == 2


def test_compare_names_what_there_is() -> None:
    with pytest.raises(UsageError, match="it has el2n, full, infobatch"):
        comparison.named(usual(), "absent")
    with pytest.raises(UsageError, match="orderdp and absent have no keep in common"):
        comparison.screen(usual(), "orderdp", "absent")


# MLflow


def test_mlflow_has_a_run_a_row_and_the_files_once(home: Path, tmp_path: Path) -> None:
    from dpbench.reports.send import send_leaderboard
    from dpbench.reports.tracking import COLUMNS, Tracker

    board = make({("uniform", 0.5): around(0.92), ("orderdp", 0.5): around(0.94, noise=0.1)})
    file = tmp_path / "pareto.png"
    file.write_bytes(b"x")
    tracker = Tracker()
    for _ in range(2):
        key, _ = send_leaderboard(tracker, "0", board, [file])
    runs = tracker.client.search_runs([key])
    assert len(runs) == len(board.table)
    files = {run.info.run_id: {file.path for file in tracker.client.list_artifacts(run.info.run_id)} for run in runs}
    assert all("row.json" in names for names in files.values())
    holders = [key for key, names in files.items() if "pareto.png" in names]
    assert len(holders) == 1
    tags = tracker.client.get_experiment(key).tags
    assert holders[0] in tags["mlflow.note.content"]
    best = next(run for run in runs if run.data.params["method"] == "orderdp")
    assert best.data.tags["to random"].startswith("+2.00 ± ")
    assert best.data.tags["verdict_uniform"] == "better than random"
    for column in COLUMNS:
        kind, name = column.rstrip("`").split(".`")
        assert name in getattr(best.data, kind)


def test_overlap_is_kept_until_a_run_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board, asked = usual(), []
    found = overlap.Overlap({("d", "m", "a", 0.3): (0.5, float("nan"))}, pd.DataFrame(
        [["d", "m", 0.3, "a", "b", 0.25, 0.1]], columns=[*overlap.PAIR, "jaccard", "chance"]
    ))  # fmt: skip
    results, path = list(board.results.values()), tmp_path / "o.json"

    def kept(of: list[Any]) -> overlap.Overlap:
        find = lambda results: asked.append(1) or found  # noqa: E731
        return cached.of_runs(find, of, "selections.npz", path, overlap.written, overlap.read)

    for _ in range(2):
        again = kept(results)
        assert again.seeds[("d", "m", "a", 0.3)][0] == 0.5
        assert np.isnan(again.seeds[("d", "m", "a", 0.3)][1])
        pd.testing.assert_frame_equal(again.methods, found.methods)
    assert len(asked) == 1
    kept(results[1:])
    assert len(asked) == 2
    path.write_text("{}")
    kept(results)
    assert len(asked) == 3, "a damaged file is made again"
    kept(results[::-1])
    assert len(asked) == 4, "rows and pairs stand in the order of the runs"
    store.write(store.run_folder(results[0]["hash"]) / "selections.npz", lambda file: file.write_text("a"))
    kept(results[::-1])
    assert len(asked) == 5
    monkeypatch.setattr(source, "everything", lambda: "other code")
    kept(results[::-1])
    assert len(asked) == 6
