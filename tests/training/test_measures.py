"""A measure is declared once: what a run records is declared, and what is declared is in the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from synthetic_board import usual

from dpbench.reports import columns
from dpbench.spec import RunSpec
from dpbench.training import runner
from dpbench.training.measures import MEASURES, tabled


def test_what_a_run_records_is_declared_and_nothing_else(spec: Callable[..., RunSpec], home: Path) -> None:
    result = runner.run(spec("el2n", shifts=True), torch.device("cpu"))
    of_some = {"peak_device_memory_mb", "accuracy_cifar_c"}
    of_some |= {"gradient_cosine_surrogate", "gradient_norm_ratio_surrogate"}
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
