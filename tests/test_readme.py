"""The README's plugin is a plugin, and the commands it names exist."""

import re
from pathlib import Path

from dpbench import catalog, conformance
from dpbench.cli import app

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


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (ROOT / target).exists(), target
