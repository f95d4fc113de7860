"""The HTML page in headless Chromium: it answers, sorts, filters, links to what is shown, and asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_board import around, costing, make, usual
from used import N, board_of

from dpbench.analysis.board import Board
from dpbench.analysis.overlap import PAIR, Overlap
from dpbench.reports import html, summary
from dpbench.training import loading

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's Chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LINES = "#board tbody tr:not(.detail):not([hidden])"
NAMES = f"[...document.querySelectorAll('{LINES} td.method button')].map(button => button.textContent)"
AT_COST = f"""[...document.querySelectorAll('{LINES}')].map(line =>
    ['td.method button', 'td.to_random'].map(name => line.querySelector(name).innerText))"""
WIDTH = "document.documentElement.scrollWidth"
MARKS = "[...document.querySelectorAll('#pareto .mark')].map(mark => mark.dataset.method + ' ' + mark.dataset.keep)"
TOPS = """Object.fromEntries([...document.querySelectorAll('#pareto .mark')].map(mark =>
    [mark.dataset.method, mark.getBoundingClientRect().top]))"""
BOXES = """[...document.querySelectorAll('#pareto text.name')].map(text => {
    const box = text.getBoundingClientRect();
    return [box.left, box.top + 3, box.right, box.bottom - 3];
})"""
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
        page.set_default_timeout(60_000)  # a busy machine takes many seconds
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
    page.get_by_role("combobox", name="Keep").select_option("0.3")
    assert len(page.evaluate(NAMES)) == 5
    page.get_by_label("Method", exact=True).fill("ORDER")
    assert page.evaluate(NAMES) == ["orderdp"]
    assert page.locator("#status").inner_text() == "1 of 11 rows"


def test_weights_move_ranks_and_reset_brings_them_back(opened: Callable[..., Any]) -> None:
    times = {"orderdp": {"time_total_s": 9.0}, "el2n": {"time_total_s": 1.0}}
    page = opened(usual(metrics=times))
    page.locator("summary", has_text="Rank by").click()
    before = page.evaluate(NAMES)
    assert before[0] == "orderdp"
    for _ in range(20):
        page.get_by_role("slider", name="time").press("ArrowRight")
    page.get_by_role("slider", name="accuracy").press("Home")
    assert page.get_by_role("slider", name="time").input_value() == "100"
    assert page.evaluate(NAMES)[0] == "el2n"
    assert "was 4" in page.locator("#board tbody tr").first.inner_text()
    page.get_by_role("button", name="Reset").click()
    assert page.evaluate(NAMES) == before


def test_verdicts_and_notes_are_badges(opened: Callable[..., Any]) -> None:
    page = opened(usual(), "#columns=difference_uniform")
    first = page.locator("#board tbody tr").first
    assert first.locator(".badge.better").first.inner_text() == "▲ better"
    assert "better than random" in first.locator(".badge.better").first.get_attribute("title")
    page.get_by_role("tab", name="Trust").click()
    assert "1 of 5 runs failed: small_loss.select failed" in page.locator("#findings").inner_text()


def test_a_row_with_diverged_seeds_comes_last_by_any_weights(opened: Callable[..., Any]) -> None:
    values = [*around(0.99, seeds=4), ("diverged", "NaN")]
    board = make(
        {("a", 0.5): values, ("uniform", 0.5): around(0.9), ("b", 0.5): around(0.8)}, {"a": {"time_total_s": 0.1}}
    )
    page = opened(board)
    assert page.evaluate(NAMES) == ["uniform", "b", "a"]
    page.locator("summary", has_text="Rank by").click()
    page.get_by_role("slider", name="time").press("End")
    assert page.evaluate(NAMES)[-1] == "a"
    assert "diverged 1/5" in page.locator("#board tbody tr").last.inner_text()
    assert page.locator("#board tbody tr").last.locator("td.accuracy_mean").inner_text() == "diverged 1/5"
    assert "the Pareto front is uniform at 0.5" in page.locator("#pareto svg").first.get_attribute("aria-label")
    assert "some of its seeds diverged" in page.locator("#pareto-note").inner_text()


def test_the_difference_to_random_is_at_the_cost_of_the_row(opened: Callable[..., Any]) -> None:
    accuracies = {("full", 1.0): around(0.95), ("a", 0.5): around(0.92, noise=0.1), ("b", 0.5): around(0.9)}
    metrics = {"a": costing(0.7), "b": costing(0.9)}
    page = opened(make(accuracies, metrics, controls={0.7: around(0.94)}))
    cells = dict(page.evaluate(AT_COST))
    assert len(cells["full"]) == 1, "a dash"
    assert cells["b"].split() == ["missing", "at", "0.9"]
    assert "2.00 ± 0.28" in cells["a"]  # at once with the two to full
    assert "at 0.7" in cells["a"]
    badge = page.locator("td.to_random .badge")
    assert "worse than random at its cost, corrected p =" in badge.get_attribute("title")


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


@cache
def many(methods: int = 60) -> Board:
    """Many methods close to each other at three keeps, one far below, one that diverged."""
    rows: dict[tuple[str, float], Any] = {("full", 1.0): around(0.95, seeds=3)}
    for keep in (0.1, 0.3, 0.5):
        rows[("uniform_epoch", keep)] = around(0.91 + keep / 20, seeds=3)
        for i in range(methods):
            rows[(f"a_method_with_a_long_name_{i}", keep)] = around(0.9 + keep / 20 + i % 17 / 500, seeds=3)
    rows[("far_below", 0.3)] = around(0.1, seeds=3)
    rows[("diverged", 0.3)] = [("diverged", "the loss is NaN")] * 3
    return make(rows, {f"a_method_with_a_long_name_{i}": costing(0.4 + i % 23 / 60) for i in range(methods)})


@pytest.mark.parametrize("width", [420, 1280])
@pytest.mark.parametrize("tab", ["overview", "curves", "samples", "trust"])
def test_no_part_scrolls_sideways(opened: Callable[..., Any], tab: str, width: int) -> None:
    page = opened(many(), f"#tab={tab}", viewport={"width": width, "height": 900})
    assert page.get_by_role("tab", selected=True).get_attribute("id") == f"tab-{tab}"
    assert page.evaluate(WIDTH) <= width
    if tab == "overview":
        assert page.evaluate("document.querySelector('#board').offsetWidth") <= width
        page.locator("td.method button").first.click()
        assert page.evaluate(WIDTH) <= width


def test_labels_of_the_picture_do_not_collide(opened: Callable[..., Any]) -> None:
    for width in (420, 1280):
        boxes = opened(many(), viewport={"width": width, "height": 900}).evaluate(BOXES)
        assert len(boxes) > 2
        for i, a in enumerate(boxes):
            assert 0 <= a[0] < a[2] <= width
            for b in boxes[:i]:
                assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_an_outlier_does_not_squeeze_the_picture_or_the_bars(opened: Callable[..., Any]) -> None:
    page = opened(many(5))
    tops = page.evaluate(TOPS)
    near = [top for method, top in tops.items() if method != "far_below"]
    assert max(near) - min(near) > 100, "pixels"
    assert tops["far_below"] > max(near)
    assert "1 row below" in page.locator("#pareto-note").inner_text()
    assert "diverged 0.3 (diverged 3/3)" in page.locator("#pareto-note").inner_text()
    assert page.locator("#board tr", has_text="far_below").locator(".bar em").count() == 1
    assert page.locator("#board .bar em").count() == 1


def test_the_picture_has_every_row_the_front_and_the_lines_to_beat(opened: Callable[..., Any]) -> None:
    board = usual()
    page = opened(board)
    drawn = page.evaluate(MARKS)
    assert sorted(drawn) == sorted(f"{row.method} {row.keep:g}" for row in board.table.itertuples())
    front = board.table[board.table["pareto"]].sort_values("cost_with_proxy")
    told = ", ".join(f"{row.method} at {row.keep:g}" for row in front.itertuples())
    assert page.locator("#pareto svg").first.get_attribute("aria-label").endswith(f"the Pareto front is {told}")
    assert page.locator("#pareto-canvas svg line.full").count() == 1
    assert page.locator("#pareto-canvas svg .range").count() == 0
    page.get_by_label("95 % intervals").check()
    assert page.locator("#pareto-canvas svg .range").count() == (board.table["trouble"] == "").sum()
    page.get_by_label("Against").select_option("wall time")
    assert "wall time" in page.locator("#pareto-canvas svg").text_content()


def test_the_picture_names_what_is_under_the_pointer_and_opens_it(opened: Callable[..., Any]) -> None:
    page = opened(usual(), "#keep=0.5")
    box = page.locator("#pareto .mark[data-method=el2n][data-keep='0.3']").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator("#pareto .tip").inner_text().startswith("el2n, keep 0.3\n88")
    page.mouse.down()
    page.mouse.up()
    assert page.get_by_role("button", name="el2n", expanded=True).count() == 1
    assert page.get_by_role("combobox", name="Keep").input_value() == ""


def test_begins_with_the_sentences_of_the_terminal(opened: Callable[..., Any]) -> None:
    board = usual()
    page = opened(board)
    sentences = [line.replace("`", "") for line in summary.headlines(board)]
    assert [text.split("rows at")[0].strip() for text in page.locator("#headlines li").all_inner_texts()] == sentences
    page.get_by_role("button", name="rows at 0.5").click()
    assert page.locator("#status").inner_text() == "5 of 11 rows"


def test_a_click_anywhere_on_a_row_opens_and_closes_it(opened: Callable[..., Any]) -> None:
    page = opened(usual())
    page.locator("#board tbody td.cost_with_proxy").first.click()
    assert page.locator("tr.detail").count() == 1
    assert page.locator("td.method button").first.get_attribute("aria-expanded") == "true"
    page.locator("tr.detail dl").click()
    assert page.locator("tr.detail").count() == 1, "only the row itself closes it"
    page.locator("#board tbody td.rank").first.click()
    assert page.locator("tr.detail").count() == 0
    page.locator("#board tbody td.pick input").first.check()
    assert page.locator("tr.detail").count() == 0


def test_what_is_chosen_is_in_the_address_and_survives_a_reload(opened: Callable[..., Any]) -> None:
    page = opened(usual())
    page.get_by_role("combobox", name="Keep").select_option("0.3")
    page.get_by_label("Method", exact=True).fill("o")
    page.locator("summary", has_text="Columns").click()
    page.get_by_role("checkbox", name="Pruned").check()
    page.get_by_role("checkbox", name="Seeds", exact=True).uncheck()
    page.locator("summary", has_text="Rank by").click()
    page.get_by_role("slider", name="time").press("End")
    page.get_by_role("button", name="Accuracy %").click()
    page.locator("#board tbody td.pick input").nth(1).check()
    page.locator("#board tbody td.keep").nth(1).click()
    page.get_by_label("95 % intervals").check()
    shown = """() => [...document.querySelectorAll('#board th, #board td:not(.pick), #status')].map(x => x.innerText)"""
    before = page.evaluate(shown)
    page.wait_for_url(lambda url: "intervals=1" in url)
    page.reload()
    assert page.evaluate(shown) == before
    assert "1 of 11 rows" not in page.locator("#status").inner_text()
    assert page.locator("th[aria-sort]").inner_text() == "Accuracy %"
    assert page.locator("th", has_text="Pruned").count() == 1
    assert page.locator("th", has_text="Seeds").count() == 0
    assert page.locator("tr.detail").count() == 1
    assert page.locator("td.pick input").nth(1).is_checked()
    assert page.get_by_label("95 % intervals").is_checked()
    page.get_by_role("tab", name="Curves").click()
    page.wait_for_url(lambda url: "tab=curves" in url)
    page.reload()
    assert page.locator("#curves figure").count() == 3


def test_curves_of_chosen_rows_lie_over_each_other(opened: Callable[..., Any]) -> None:
    page = opened(usual(), "#tab=curves")
    curves = page.locator("#curves figure").first.locator("polyline")
    usually = {curve.get_attribute("data-method") for curve in curves.all()}
    assert {"full", "orderdp", "el2n"} <= usually
    page.get_by_label("Add a row").select_option("orderdp 0.5")
    assert curves.count() == len(usually) + 1
    page.get_by_role("button", name="Leave out el2n 0.3").click()
    assert "el2n" not in {curve.get_attribute("data-method") for curve in curves.all()}
    page.get_by_role("tab", name="Overview").click()
    assert page.locator("td.pick input:checked").count() == len(usually)


def test_a_thousand_rows(opened: Callable[..., Any]) -> None:
    rows = {(f"method_{i}", keep): [0.5 + i / 1000] for i in range(250) for keep in (0.1, 0.2, 0.3, 0.4)}
    board = make(rows)
    assert len(board.table) == 1000
    assert len(html.page(board)) < 5_000_000
    page = opened(board)
    assert len(page.evaluate(NAMES)) == 150
    page.get_by_label("Method", exact=True).fill("method_1")
    page.get_by_role("combobox", name="Keep").select_option("0.2")
    assert page.locator("#status").inner_text() == "111 of 1000 rows"
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Show all").click()
    assert len(page.evaluate(NAMES)) == 1000


def test_critical_differences_are_in_the_page_in_its_colours(opened: Callable[..., Any]) -> None:
    means = {"uniform": 0.8, EVIL: 0.85, "__DATA__": 0.9, "fill: none</svg>": 0.92}
    board = make({(name, 0.5): around(mean, noise=0.2) for name, mean in means.items()}, datasets=tuple("vwxyz"))
    page = opened(board, "#tab=trust", color_scheme="dark")
    assert page.locator(".diagrams figure").count() == 1
    texts = page.locator(".diagrams svg text").all_text_contents()
    assert all(any(name in text for text in texts) for name in means)
    colours = "[...document.querySelectorAll('.diagrams text')].map(text => getComputedStyle(text).fill)"
    assert {"rgb(230, 231, 233)"} == set(page.evaluate(colours)), "light on dark"
    page.get_by_role("button", name="light and dark").click()
    assert {"rgb(29, 33, 38)"} == set(page.evaluate(colours))
    assert page.locator("#across p").count() == 0


def test_published_and_over_datasets(opened: Callable[..., Any]) -> None:
    page = opened(make({("full", 1.0): around(0.95)}, datasets=("cifar10", "cifar100")), "#tab=trust")
    assert "None are known" in page.locator("#published").inner_text()
    assert "at least 5 of them, this grid has 2" in page.locator("#across").inner_text()


def test_samples_shows_the_most_and_least_used_and_who_chooses_alike(home: Path, opened: Callable[..., Any]) -> None:
    epochs = [[sample for sample in range(N) if sample > epoch] for epoch in range(N)]  # sample i is used i times
    board = board_of({"full": [[range(N)]], "orderdp": [epochs], EVIL: [[[0, 1], [1]]]})
    lines = [("synthetic[n=100,n_test=50,d=16,classes=4]", "cnn", 0.3, "orderdp", EVIL, 0.25, 0.125)]
    alike = Overlap({}, pd.DataFrame(lines, columns=[*PAIR, "jaccard", "chance"]))
    page = opened(replace(board, overlap=alike))
    page.locator("#board td.method", has_text="orderdp").click()
    page.get_by_role("button", name="Which samples it used").click()
    data = loading.load_data(lines[0][0], None)
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
    assert page.evaluate(WIDTH) <= 420
    page.wait_for_url(lambda url: "g-class" in url)
    page.reload()
    assert samples.locator("#samples-rows h3").all_inner_texts() == ["orderdp at keep 0.3", f"{EVIL} at keep 0.3"]
    assert samples.locator(".strip.most").count() == 2


def test_samples_says_why_there_are_none(home: Path, opened: Callable[..., Any]) -> None:
    page = opened(replace(usual(), checked_in=True), "#tab=samples")
    assert "dpbench run made makes them" in page.locator("#samples-note").inner_text()
    assert page.locator("#samples select").count() == 0
