"""README.md and docs/*.md: the code runs, the commands parse, the links lead somewhere, the results are computed."""

import re
import shlex
from itertools import groupby
from pathlib import Path

import pytest
import typer
from benchmarks import power

from dpbench import catalog, claims
from dpbench.cli.app import Misused, app
from dpbench.grid_file import read_grid
from dpbench.reports import summary
from dpbench.training import conformance

ROOT = Path(__file__).parent.parent
PAGES = summary.pages()
TEXTS = {page.name: page.read_text() for page in PAGES}
README = TEXTS["README.md"]
STANDS_FOR = {"GRID": "quick", "METHOD": "el2n", "NAME": "el2n", "D": "digits", "K": "0.3", "E": "0.9", "N": "30"}
COMMANDS = typer.main.get_command(app)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code(first_line: str) -> str:
    """The README's block of Python that begins with this line."""
    [found] = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if block.startswith(first_line)]
    return str(found)


def commands(text: str) -> list[list[str]]:
    """The arguments of every dpbench command of a page, in code blocks and in the text."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    lines = re.findall(r"^    (?:\w+=\S+ )?(?:\S*/)?dpbench (.*)$", text, re.M)
    spans = re.findall(r"`(?:\S*/)?dpbench ([^`]+)`", re.sub(r"^    .*$", "", text, flags=re.M))
    return [[STANDS_FOR.get(word, word) for word in shlex.split(line, comments=True)] for line in lines + spans]


def parse(arguments: list[str]) -> None:
    """Raise if dpbench takes no such command line. A bare name needs only be a command's; options of all are known."""
    command = COMMANDS
    while arguments and hasattr(command, "commands"):
        if arguments[0] in ("--help", "--install-completion"):
            return
        assert arguments[0] in command.commands, arguments
        command, arguments = command.commands[arguments[0]], arguments[1:]
    if arguments:
        command.make_context("dpbench", list(arguments))


def headings(text: str) -> list[str]:
    """The names that links give to a page's sections."""
    return [re.sub(r"[^\w-]", "", line.lower().replace(" ", "-")) for line in re.findall(r"^## (.*)$", text, re.M)]


def test_the_method_conforms(tmp_path: Path, unplug: None) -> None:
    file = tmp_path / "hardest.py"
    file.write_text(code("import torch"))
    assert not any(conformance.check(catalog.resolve("methods", str(file))).values())


def test_the_grid_is_a_grid() -> None:
    text, claimed = re.findall(r"```yaml\n(.*?)```", TEXTS["grids.md"], re.S)
    assert [one.test for one in claims.parse(claimed, "grids.md")] == ["equivalent", "better", "order-predicts-order"]
    grid = read_grid(text, "docs/grids.md", "example")
    assert len(grid.runs()) == 5 * (1 + 2 * 4)


@each_page
def test_commands_parse(page: Path) -> None:
    for arguments in commands(TEXTS[page.name]):
        parse(arguments)


def test_commands_are_found_and_wrong_ones_refused() -> None:
    assert len([line for text in TEXTS.values() for line in commands(text)]) > 40
    text = "    A=b dpbench run quick --keep 0.3  # so\nand `dpbench show NAME`\n```\n    dpbench no\n```\n"
    assert commands(text) == [["run", "quick", "--keep", "0.3"], ["show", "el2n"]]
    with pytest.raises(AssertionError):
        parse(["runs", "quick"])
    for wrong in (["run", "--keeps", "0.3"], ["run", "--keep", "much"], ["show", "el2n", "k_center"]):
        with pytest.raises(Misused):
            parse(wrong)


@each_page
def test_what_is_computed_is_up_to_date(page: Path) -> None:
    assert summary.rewrite(TEXTS[page.name]) == TEXTS[page.name], "run python -m dpbench.reports.summary"


def test_what_is_computed_is_there() -> None:
    blocks = {name: [found[1:3] for found in summary.BLOCK.findall(text)] for name, text in TEXTS.items()}
    assert blocks["README.md"] == [("few", "quick"), ("headline", "quick")]
    boards = ["quick", "dynamic_quick", "static_quick", "fashion_mnist", "tables", "texts"]
    assert [name for kind, name in blocks["results.md"] if kind == "results"] == boards
    assert power.power() in TEXTS["statistics.md"], "run python tests/benchmarks/power.py"


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page.name]):
        path, _, heading = target.partition("#")
        if not path.startswith("http"):
            assert (page.parent / path).exists(), target
            if path.endswith(".md") and heading:
                assert heading in headings((page.parent / path).read_text()), target
    assert TEXTS[page.name].count("#L") == len(summary.REFERENCE.findall(TEXTS[page.name])), "a line not kept true"


def test_a_sample_is_followed_through_nine_modules_and_none_twice() -> None:
    path = TEXTS["flow.md"].partition("## Where to look")[0]
    modules = [module for module, _ in groupby(found[2] for found in summary.REFERENCE.findall(path))]
    assert len(modules) == len(set(modules)) == 9, modules
    assert (modules[0], modules[-1]) == ("dpbench/cli/run.py", "dpbench/reports/screen.py")


def test_every_page_is_reached_from_the_readme() -> None:
    assert {page.name for page in PAGES if page.parent != ROOT} == set(re.findall(r"\]\(docs/(\w+\.md)\)", README))
    assert len(README.splitlines()) <= 120


def test_one_word_for_one_verdict() -> None:
    for file in [*ROOT.glob("dpbench/**/*.py"), *ROOT.glob("dpbench/reports/page/*"), *PAGES]:
        assert "undecided" not in file.read_text(), file
