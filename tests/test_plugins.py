"""What others wrote is taken in with care: imports that end the process, declarations that contradict themselves."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from dpbench import catalog
from dpbench.errors import UsageError
from dpbench.reports import listing
from dpbench.spec import canonical
from dpbench.training import conformance

Plugin = Callable[[str], str]
SELECT = "    def select(self, epoch):\n        return Selection(torch.arange(self.task.k))\n"


def refused(plugin: Plugin, source: str) -> str:
    """The message without the file's name, the same from whatever loads it."""
    path = plugin(source)
    messages = []
    for load in (catalog.load_method, canonical):
        with pytest.raises(UsageError) as found:
            load(path)
        messages.append(str(found.value).removeprefix(f"{Path(path).stem}: "))
    assert len(set(messages)) == 1, messages
    [row] = [row for row in listing.rows("methods") if row["name"] == Path(path).stem]
    assert row["error"] == str(found.value)
    return messages[0]


# imports


@pytest.mark.parametrize(("line", "message"), [
    ("import os; os._exit(0)", "its import ended the process with exit status 0"),
    ("import os; os._exit(3)", "its import ended the process with exit status 3"),
    ("import os; os.kill(os.getpid(), 9)", "its import ended the process by SIGKILL"),
    ("import sys; sys.exit(3)", "importing it raised SystemExit: 3"),
    ("1 / 0", "importing it raised ZeroDivisionError: division by zero"),
    ("torch.set_default_dtype(torch.float64)", "importing it changed torch's default dtype; other plug-ins share it"),
    ("import os; os.environ['OMP_NUM_THREADS'] = '9'", "importing it changed environment variables (OMP_NUM_THREADS)"),
    ("import os; os.chdir('/')", "importing it changed the current folder"),
])  # fmt: skip
def test_an_import_that_does_harm(line: str, message: str, plugin: Plugin) -> None:
    before = torch.get_default_dtype(), os.getcwd(), os.environ["OMP_NUM_THREADS"], torch.get_rng_state().tolist()
    assert refused(plugin, line + "\nclass Made(PruningMethod):\n" + SELECT).startswith(message)
    assert before == (
        torch.get_default_dtype(), os.getcwd(), os.environ["OMP_NUM_THREADS"], torch.get_rng_state().tolist()
    )  # fmt: skip


def test_an_import_in_a_child_is_silent_and_leaves_nothing() -> None:
    code = """
import os
from dpbench.processes import ends_process
print(ends_process(lambda: print('loud', flush=True)))
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child is left")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "None\nno child is left\n"


# declarations


@pytest.mark.parametrize(("body", "message"), [
    ("requires = lambda self: Requires({'los'})", "unknown signal 'los'; known: loss, "),
    ("requires = lambda self: Requires({'loss', 'los'})", "unknown signal 'los'"),
    ("requires = lambda self: Requires({'member'})", "the signal 'member' is of a proxy with at='end' or at='epochs'"),
    ("requires = lambda self: Requires({'member'}, Proxy(1, at='steps'))", "the signal 'member' is of a proxy with"),
    ("requires = lambda self: Requires('loss')", "requires() raised ValueError: signals = 'loss' is not a set"),
    ("requires = lambda self: Requires(proxy=Proxy(0))", "requires() raised ValueError: a proxy of 0 epochs"),
    ("requires = lambda self: {'loss'}", "requires() returned {'loss'}, not what it requires; write return Requires("),
    ("requires = Requires({'loss'})", "requires() raised TypeError: 'Requires' object is not callable"),
    ("rate: float = param(5.0, low=0.0, high=1.0)", "the default rate = 5.0 is outside [0.0, 1.0]"),
    ("rate: float = param(float('nan'), low=0.0)", "the default rate = nan is outside [0.0, inf]"),
    ("kind: str = param('c', choices=('a', 'b'))", "the default kind = 'c' is not one of a, b"),
    ("rate: float", "rate has no default; write rate = param(...)"),
    ("def __post_init__(self):\n        1 / 0", "making it raised ZeroDivisionError: division by zero"),
])  # fmt: skip
def test_a_declaration_that_contradicts_itself(body: str, message: str, plugin: Plugin) -> None:
    assert refused(plugin, f"class Made(PruningMethod):\n    {body}\n{SELECT}").startswith(message)


def test_a_class_without_select_is_refused(plugin: Plugin) -> None:
    message = refused(plugin, "class Made(PruningMethod):\n    paper = 'none'\n")
    assert message.startswith("making it raised TypeError: Can't instantiate abstract class Made")


@pytest.mark.parametrize("stated", ["{'loss'}", "frozenset()", "set(['entropy'][: int(self.rate)])"])
def test_good_declarations_are_taken(stated: str, plugin: Plugin) -> None:
    requires = f"    requires = lambda self: Requires({stated})\n"
    path = plugin(f"class Made(PruningMethod):\n{requires}    rate: float = param(1.0, high=1.0)\n{SELECT}")
    assert catalog.load_method(path).hyperparameters() == {"rate": 1.0}


# lists


def test_lists_survive_broken_entry_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dpbench_ends.py").write_text("import os\nos._exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    values = {"gone": "no_such_module:Thing", "bare": "not a name", "number": "math:pi", "list": "builtins:dict"}
    values["ends"] = "dpbench_ends:Thing"
    broken = {name: EntryPoint(name, value, "") for name, value in values.items()}
    monkeypatch.setattr(catalog, "_installed", lambda group: broken)
    for kind, good in (("methods", "uniform"), ("datasets", "digits"), ("models", "mlp")):
        rows = {row["name"]: row for row in listing.rows(kind)}
        assert "error" not in rows[good]
        assert rows["gone"]["error"].startswith("gone: importing it raised ModuleNotFoundError")
        assert "bare" in rows["bare"]["error"]
        assert rows["number"]["error"].startswith("number: the entry point names 3.14")
        assert rows["ends"]["error"] == "ends: its import ended the process with exit status 0"
        json.dumps(list(rows.values()), default=str)
        texts = [
            [str(cell) for cell in column.cells] for column in listing.table(kind, list(rows.values()), 80).columns
        ]
        assert "gone" in texts[0]
        assert any(text.startswith("cannot be used: gone: importing it") for text in texts[-1])


# the battery


@pytest.mark.parametrize(("line", "what"), [
    ("torch.set_num_threads(torch.get_num_threads() + 1)", "torch's number of threads"),
    ("__import__('os').environ.update(OMP_NUM_THREADS='5')", "environment variables (OMP_NUM_THREADS)"),
])  # fmt: skip
def test_the_battery_finds_changed_settings(line: str, what: str, plugin: Plugin) -> None:
    threads = torch.get_num_threads()
    select = SELECT.replace("        return", f"        {line}\n        return")
    report = conformance.check(catalog.resolve("methods", plugin(f"class Made(PruningMethod):\n{select}")))
    assert report["no_globals"] == [f"setup, select, pick or observe: expected {what} untouched, it was changed"]
    assert torch.get_num_threads() == threads


def test_named(plugin: Plugin) -> None:
    from types import SimpleNamespace

    import pandas as pd

    from dpbench.reports import comparison

    methods = ["orderdp[explore=0.9]", "entropy", "uniform", "el2n"]
    board = SimpleNamespace(table=pd.DataFrame({"method": methods}), grid=SimpleNamespace(name="tiny"))
    assert comparison.named(board, "uniform") == "uniform"  # type: ignore[arg-type]
    assert comparison.named(board, "orderdp[explore=.9]") == "orderdp[explore=0.9]"  # type: ignore[arg-type]
    every = "it has el2n, entropy, orderdp[explore=0.9], uniform"
    for text, hint in {
        "nope": every, "infobatch": every, "uniforn": "did you mean uniform?",
        "orderdp": "did you mean orderdp[explore=0.9]?",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match="^" + re.escape(f"no method {text!r} in the grid tiny; {hint}") + "$"):
            comparison.named(board, text)  # type: ignore[arg-type]
