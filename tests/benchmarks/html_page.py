"""How quickly the HTML page of 1,000 rows filters, in headless Chromium."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))  # the board that the tests write down

from synthetic_board import make

from dpbench.reports import html

CHROMIUM = "/usr/bin/chromium"
REPEATS = 5
TARGET = 200.0  # ms
ROUNDS = """repeats => {
    const timed = action => {
        const start = performance.now();
        action();
        document.body.offsetHeight;  // waits for the layout
        return performance.now() - start;
    };
    const search = document.getElementById("search"), keep = document.getElementById("keep");
    const choose = (element, value, event) => () => { element.value = value; element.dispatchEvent(new Event(event)); };
    const actions = {
        "filter by text": choose(search, "method_1", "input"),
        "filter by keep": choose(keep, "0.2", "change"),
        "clear the text": choose(search, "", "input"),
        "clear the keep": choose(keep, "", "change"),
    };
    const times = Object.fromEntries(Object.keys(actions).map(name => [name, []]));
    for (let i = 0; i < repeats; i++)
        for (const [name, action] of Object.entries(actions)) times[name].push(timed(action));
    return times;
}"""


def filtering() -> list[tuple[str, float, str, float]]:
    """Milliseconds until the table is laid out again, of at most 150 rows, median of five; the picture follows."""
    from playwright.sync_api import sync_playwright

    board = make({(f"method_{i}", keep): [0.5 + i / 1000] for i in range(250) for keep in (0.1, 0.2, 0.3, 0.4)})
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "board.html"
        file.write_text(html.page(board), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(file.as_uri())
        times = page.evaluate(ROUNDS, REPEATS)
        browser.close()
    return [(f"HTML page of 1,000 rows, {name}", median(found), "ms", TARGET) for name, found in times.items()]
