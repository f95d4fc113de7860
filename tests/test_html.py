"""The HTML page in headless Chromium: it sorts, filters and ranks anew, runs no name as code and asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_board import around, costing, make, usual
from used import N, board_of

from dpbench import html, runner
from dpbench.board import Board
from dpbench.overlap import PAIR, Overlap

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's Chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LINES = "#board tbody tr:not(.detail):not([hidden])"
NAMES = f"[...document.querySelectorAll('{LINES} td.method button')].map(button => button.textContent)"
AT_COST = f"""[...document.querySelectorAll('{LINES}')].map(line =>
    ['td.method button', 'td.difference_control'].map(name => line.querySelector(name).innerText))"""
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Give `opened(board)`: the page from disk; afterwards it must have been silent, and alone."""
    troubles: list[str] = []
    pages = []

    def open_page(board: Board, fragment: str = "", **options: Any) -> Any:
        file = tmp_path / "board.html"
        file.write_text(html.page(board), encoding="utf-8")
        page = browser.new_page(**options)
        pages.append(page)
        page.on("console", lambda message: troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: troubles.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
        )
        page.goto(file.as_uri() + fragment)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert troubles == []


def test_starts_in_the_order_of_ranks(opened: Callable[..., Any]) -> None:
    board = usual()
    page = opened(board)
    assert page.evaluate(NAMES) == list(board.table["method"])
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Rank")
    assert page.locator("h1").inner_text() == "made"


def test_sorts_by_a_column_both_ways(opened: Callable[..., Any]) -> None:
    page = opened(usual())
    page.get_by_role("button", name="Accuracy %").click()
    assert page.evaluate(NAMES)[:2] == ["full", "orderdp"]
    page.get_by_role("button", name="Accuracy %").press("Enter")
    assert page.evaluate(NAMES)[0] == "el2n"
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Accuracy")


def test_filters(opened: Callable[..., Any]) -> None:
    page = opened(usual())
    page.get_by_label("Keep").select_option("0.3")
    assert len(page.evaluate(NAMES)) == 5
    page.get_by_label("Method", exact=True).fill("ORDER")
    assert page.evaluate(NAMES) == ["orderdp"]
    assert page.locator("#status").inner_text() == "1 of 11 rows"


def test_weights_move_ranks_and_reset_brings_them_back(opened: Callable[..., Any]) -> None:
    times = {"orderdp": {"time_total_s": 9.0}, "el2n": {"time_total_s": 1.0}}
    page = opened(usual(metrics=times))
    before = page.evaluate(NAMES)
    assert before[0] == "orderdp"
    for _ in range(20):
        page.get_by_label("time").press("ArrowRight")
    page.get_by_label("accuracy").press("Home")
    assert page.get_by_label("time").input_value() == "100"
    assert page.evaluate(NAMES)[0] == "el2n"
    assert "was 4" in page.locator("#board tbody tr").first.inner_text()
    page.get_by_role("button", name="Reset").click()
    assert page.evaluate(NAMES) == before


def test_verdicts_and_notes_are_badges(opened: Callable[..., Any]) -> None:
    page = opened(usual())
    first = page.locator("#board tbody tr").first
    assert first.locator(".badge.better").first.inner_text() == "▲ better"
    assert "better than random" in first.locator(".badge.better").first.get_attribute("title")
    assert "1 of 5 runs failed: small_loss.select failed" in page.locator("#findings").inner_text()


def test_a_row_with_diverged_seeds_comes_last_by_any_weights(opened: Callable[..., Any]) -> None:
    values = [*around(0.99, seeds=4), ("diverged", "NaN")]
    board = make(
        {("a", 0.5): values, ("uniform", 0.5): around(0.9), ("b", 0.5): around(0.8)}, {"a": {"time_total_s": 0.1}}
    )
    page = opened(board)
    assert page.evaluate(NAMES) == ["uniform", "b", "a"]
    page.get_by_label("time").press("End")
    assert page.evaluate(NAMES)[-1] == "a"
    assert "1 of 5 seeds diverged" in page.locator("#board tbody tr").last.inner_text()
    assert "the Pareto front is uniform at 0.5" in page.locator("#charts svg").first.get_attribute("aria-label")


def test_the_control_at_cost_is_a_column_where_a_row_needs_one(opened: Callable[..., Any]) -> None:
    accuracies = {("full", 1.0): around(0.95), ("a", 0.5): around(0.92, noise=0.1), ("b", 0.5): around(0.9)}
    metrics = {"a": costing(0.7), "b": costing(0.9)}
    page = opened(make(accuracies, metrics, controls={0.7: around(0.94)}))
    cells = dict(page.evaluate(AT_COST))
    assert len(cells["full"]) == 1, "a dash"
    assert cells["b"].split() == ["missing", "random", "at", "0.9"]
    assert "2.00 ± 0.28" in cells["a"]  # at once with the two to full
    assert cells["a"].endswith("random at 0.7")
    badge = page.locator("td.difference_control .badge")
    assert "worse than random at its cost, corrected p =" in badge.get_attribute("title")
    assert opened(usual()).get_by_role("button", name="At its cost").count() == 0


def test_a_row_opens_by_keyboard_to_its_runs_and_their_config(opened: Callable[..., Any]) -> None:
    board = usual()
    page = opened(board)
    button = page.locator("td.method button").first
    button.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    detail = page.locator("tr.detail")
    key = next(key for key, spec in board.cells.items() if spec.row == ("digits", "cnn", "orderdp", 0.3))
    detail.get_by_role("link", name=key).press("Enter")
    assert f'"hash": "{key}"' in detail.locator("pre").inner_text()
    assert '"batch_size": 10' in detail.locator("pre").inner_text()
    button.press("Enter")
    assert page.locator("tr.detail").count() == 0


def test_a_link_to_a_hash_opens_its_run(opened: Callable[..., Any]) -> None:
    board = usual()
    key = list(board.cells)[-3]
    assert key in opened(board, f"#run-{key}").locator("tr.detail pre").inner_text()


def test_a_name_is_never_code(opened: Callable[..., Any]) -> None:
    board = make({(EVIL, 0.5): [0.9, f"{EVIL} broke"], ("--><img src=x onerror=alert(2)>", 0.5): around(0.8, seeds=2)})
    page = opened(board)
    assert EVIL in page.evaluate(NAMES)
    page.locator("td.method button").first.click()
    assert page.locator("img").count() == 0
    assert EVIL not in html.page(board)


def test_light_and_dark(opened: Callable[..., Any]) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    page = opened(usual(), color_scheme="dark")
    dark = page.evaluate(colour)
    page.get_by_role("button", name="light and dark").click()
    light = page.evaluate(colour)
    assert sum(map(int, dark[4:-1].split(","))) < 150 < 600 < sum(map(int, light[4:-1].split(",")))


def test_narrow_page_does_not_scroll_sideways(opened: Callable[..., Any]) -> None:
    page = opened(usual(), viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_thousand_rows(opened: Callable[..., Any]) -> None:
    rows = {(f"method_{i}", keep): [0.5 + i / 1000] for i in range(250) for keep in (0.1, 0.2, 0.3, 0.4)}
    board = make(rows)
    assert len(board.table) == 1000
    assert len(html.page(board)) < 5_000_000
    page = opened(board)
    assert len(page.evaluate(NAMES)) == 200
    page.get_by_label("Method", exact=True).fill("method_1")
    page.get_by_label("Keep").select_option("0.2")
    assert page.locator("#status").inner_text() == "111 of 1000 rows"
    page.get_by_label("Method", exact=True).fill("")
    page.get_by_label("Keep").select_option("all")
    page.get_by_role("button", name="Show all").click()
    assert len(page.evaluate(NAMES)) == 1000


def test_critical_differences_are_in_the_page_in_its_colours(opened: Callable[..., Any]) -> None:
    means = {"uniform": 0.8, EVIL: 0.85, "__DATA__": 0.9, "fill: none</svg>": 0.92}
    board = make({(name, 0.5): around(mean, noise=0.2) for name, mean in means.items()}, datasets=tuple("vwxyz"))
    page = opened(board, color_scheme="dark")
    assert page.locator(".diagrams figure").count() == 1
    texts = page.locator(".diagrams svg text").all_text_contents()
    assert all(any(name in text for text in texts) for name in means)
    colours = "[...document.querySelectorAll('.diagrams text')].map(text => getComputedStyle(text).fill)"
    assert {"rgb(230, 231, 233)"} == set(page.evaluate(colours)), "light on dark"
    page.get_by_role("button", name="light and dark").click()
    assert {"rgb(29, 33, 38)"} == set(page.evaluate(colours))
    assert page.locator("#across p").count() == 0


def test_published_and_over_datasets(opened: Callable[..., Any]) -> None:
    page = opened(make({("full", 1.0): around(0.95)}, datasets=("cifar10", "cifar100")))
    assert "None are known" in page.locator("#published").inner_text()
    assert "at least 5 of them, this grid has 2" in page.locator("#across").inner_text()


def test_samples_shows_the_most_and_least_used_and_who_chooses_alike(home: Path, opened: Callable[..., Any]) -> None:
    epochs = [[sample for sample in range(N) if sample > epoch] for epoch in range(N)]  # sample i is used i times
    board = board_of({"full": [[range(N)]], "orderdp": [epochs], EVIL: [[[0, 1], [1]]]})
    lines = [("synthetic[n=100,n_test=50,d=16,classes=4]", "cnn", 0.3, "orderdp", EVIL, 0.25, 0.125)]
    alike = Overlap({}, pd.DataFrame(lines, columns=[*PAIR, "jaccard", "chance"]))
    page = opened(replace(board, overlap=alike))
    data = runner.load_data(lines[0][0], None)
    samples = page.locator("#samples")
    for label in range(4):
        members = (data.train.labels == label).nonzero().flatten().tolist()
        for name, wanted in (("most", members[::-1][:8]), ("least", members[:8])):
            tiles = samples.locator(f".strip.{name}[data-class='{label}'] .tile")
            shown = [tile.get_attribute("data-sample") for tile in tiles.all()]
            assert shown == [str(int(data.positions[i])) for i in wanted]
            assert tiles.first.inner_text().strip() == str(wanted[0])
    sizes = "[...document.querySelectorAll('#samples .picture')].map(tile => getComputedStyle(tile).backgroundImage)"
    assert all(image.startswith('url("data:image/png') for image in page.evaluate(sizes))
    assert "full: all samples are used equally often" in samples.locator("#samples-note").inner_text()
    assert samples.locator("#samples-alike tbody").inner_text().split() == [*EVIL.split(), "0.25", "0.13"]
    assert "orderdp" in samples.locator("#samples-suspected p").inner_text()
    samples.locator("[data-name=other] select").select_option(EVIL)
    samples.locator("[data-name=class] select").select_option("class 2")
    assert samples.locator("#samples-rows h3").all_inner_texts() == ["orderdp at keep 0.3", f"{EVIL} at keep 0.3"]
    assert samples.locator(".strip.most").count() == 2
    assert samples.locator("#samples-controls select:focus").count() == 1
    page.set_viewport_size({"width": 420, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 420


def test_samples_says_why_there_are_none(home: Path, opened: Callable[..., Any]) -> None:
    page = opened(replace(usual(), checked_in=True))
    assert "dpbench run made makes them" in page.locator("#samples-note").inner_text()
    assert page.locator("#samples select").count() == 0
