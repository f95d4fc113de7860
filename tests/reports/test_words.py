"""One word for one verdict: the same in the terminal, on the page, in every file and in MLflow."""

from __future__ import annotations

import io
import re
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from synthetic_board import around, make

from dpbench.analysis.board import Board
from dpbench.analysis.stats import EQUIVALENT, WORDS
from dpbench.reports import comparison, formats, send
from dpbench.reports.screen import Wanted, screen

# Other words for what a verdict says, which have stood in one place or another, or might.
OTHERS = re.compile(
    r"does as well|do as well|for certain|under 3 seeds|indistinguishable|(?<!not )\bseparated\b|insignificant"
    r"|significant(?! digits)|no difference|inconclusive|undecided|decidable|did not hold|\bties?\b|\bon par\b"
    r"|seeds? (?:have )?diverged(?! or failed)|\bsimilar to\b|comparable to|outperform",
    re.IGNORECASE,
)
COLUMNS = ("verdict_uniform", "verdict_uniform_epoch", "verdict_full", "verdict_control")


@pytest.fixture(scope="module")
def board() -> Board:
    """A board on which every verdict is given, and none where seeds are few, diverged or failed."""
    rows: dict[tuple[str, float], Any] = {("full", 1.0): around(0.95), ("uniform", 0.3): around(0.90)}
    rows |= {("uniform_epoch", 0.3): around(0.91), ("orderdp", 0.3): around(0.95, noise=0.05)}
    rows |= {("el2n", 0.3): around(0.88, noise=0.1), ("infobatch", 0.3): around(0.9, noise=0.5)}
    rows |= {
        ("ucb", 0.3): around(0.9, seeds=2),
        ("small_loss", 0.3): [*around(0.9, seeds=3), ("diverged", "NaN"), "it broke"],
    }
    return make(rows)


def texts(board: Board) -> dict[str, str]:
    """All that a reader may see of a board, by where that is."""
    shown = {}
    for name, wanted in (("screen", Wanted()), ("notes", Wanted(wide=True, every=True, notes=True))):
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(screen(board, 100, wanted))
        shown[name] = console.export_text()
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(comparison.screen(board, "orderdp", "small_loss"))
    console.print(comparison.screen(board, "orderdp", "infobatch"))
    shown["compare"] = console.export_text()
    shown |= {form: formats.text(board, form) for form in ("csv", "json", "markdown", "latex", "html", "summary")}
    shown["MLflow"] = send.describe(board, "#") + "".join(str(send._texts(row)) for row in formats.plain(board.table))
    return shown


def test_no_other_word_is_used_anywhere(board: Board) -> None:
    for place, text in texts(board).items():
        assert not (found := OTHERS.findall(text)), f"{place}: {found}"
        assert "diverged 1/5" in text, place


def test_every_verdict_is_one_of_the_words(board: Board) -> None:
    assert all(word == WORDS[key] and word.split(" ")[0] == key for key, word in WORDS.items())
    given = [text for name in COLUMNS for text in board.table[name] if text]
    known = (*WORDS.values(), "diverged 1/5, failed 1/5", "random: diverged")
    assert all(text.startswith(known) for text in given), given
    assert all(any(text.startswith(word) for text in given) for word in WORDS.values()), "each is given here"
    equal = [text for text in board.table["equivalence_full"] if text]
    assert all(text.startswith((*EQUIVALENT.values(), WORDS["no"], "diverged")) for text in equal)
    assert all(any(text.startswith(word) for text in equal) for word in EQUIVALENT.values())


def test_the_page_and_mlflow_have_the_words_of_the_table(board: Board) -> None:
    page = formats.text(board, "html")
    assert '"words":{"better":"▲ better","worse":"▼ worse","not":"≈ not separable","no":"no verdict"}' in page
    for row in formats.plain(board.table):
        tags = send._texts(row)
        assert {name: tags.get(name, "") for name in ("verdict_uniform", "verdict_full", "equivalence_full")} == {
            name: row[name] for name in ("verdict_uniform", "verdict_full", "equivalence_full")
        }
    lines = pd.read_csv(io.StringIO(formats.text(board, "csv"))).set_index("method")
    assert lines.loc["small_loss", "trouble"] == "diverged 1/5, failed 1/5"
    assert lines.loc["orderdp", "verdict_full"] == "not separable from full"
    assert lines.loc["orderdp", "equivalence_full"] == "equivalent to full within 0.5"
