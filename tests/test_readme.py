"""The README's plugin is a plugin, and the commands it names exist."""

import re
from pathlib import Path

from benchmarks import power

from dpbench import catalog
from dpbench.cli.app import app
from dpbench.reports import summary
from dpbench.training import conformance

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_plugin_conforms(tmp_path: Path, unplug: None) -> None:
    code = re.search(r"```python\n(import torch.*?)```", TEXT, re.S)
    assert code is not None
    file = tmp_path / "hardest.py"
    file.write_text(code[1])
    assert not any(conformance.check(catalog.resolve(str(file))).values())


def test_commands_exist() -> None:
    named = set(re.findall(r"(?:`|    )dpbench ([a-z]+)\b", TEXT))
    known = {command.name or command.callback.__name__.rstrip("_") for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    assert named <= known | {"entry"}, named - known


def test_what_it_says_of_results_is_computed_from_the_boards() -> None:
    assert summary.rewrite(TEXT) == TEXT, "run python -m dpbench.reports.summary README.md"
    assert power.power() in TEXT, "run python tests/benchmarks/power.py"
    assert len(summary.BLOCK.findall(TEXT)) == 7


def test_one_word_for_one_verdict() -> None:
    for file in [*ROOT.glob("dpbench/*.py"), *ROOT.glob("dpbench/page/*"), ROOT / "README.md"]:
        assert "undecided" not in file.read_text(), file


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (ROOT / target).exists(), target
