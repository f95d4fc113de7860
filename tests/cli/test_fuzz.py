"""Grid files and command lines as nobody should write them: each ends well, or in one clear line for each fault."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpbench.cli import app
from dpbench.errors import RunFailed

GRIDS, LINES = 100, 8  # tried; of command lines for each command
REACHED = "the work would begin"
GRID = """\
name: mine
description: some words
datasets: [digits, "synthetic[n=100]"]
models: [cnn, "mlp[width=8]"]
methods:
  - full
  - "orderdp[explore=0.9]"
  - uniform
keep: [0.3, 0.5]
seeds: 2
delta: 0.5
recipe:
  epochs: 3
  batch_size: 32
  lr: 0.05
  momentum: 0.9
  schedule: cosine
  augment: crop
  pad: 2
  nesterov: true
budget: {unit: time, seconds: 3}
probe: {every: 1, samples: 64}
tuned: {"orderdp[explore=0.9]": 3}
"""
BOMB = "&a [x, x]\nb: &b [*a, *a]\n" + "".join(
    f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n" for x, y in zip("bcdefghijk", "cdefghijkl", strict=True)
)
VALUES = [
    "", "null", "~", "true", "[]", "{}", "[[]]", "[1, [2, [3]]]", "{a: {b: [c]}}", "-1", "0", "1e999", ".nan", "-.inf",
    "1" + "0" * 30, "9" * 5000, "0x_", "0x" + "f" * 90, "1:30", "2020-13-45", "0001-01-01T00:00:00+23:59", "word",
    "'orderdp[a=1,a=2]'", "'orderdp[[x]]'", "'orderdp[explore'", "'orderdp[explore=[1]]'", "'orderdp[explore=&a *a]'",
    "['orderdp[explore=!!int x]']", "['~nobody_at_all/x.py']", "['cnn[width=word]']", "['cnn[width=-1]']", "['']",
    "[/nowhere/x.py]", "[/tmp]", "['a.py:']", "['.py:X']", "['subset[id=../../x]']", "['synthetic[n=-5]']",
    "'\\0'", '"\\0"', '"a\\nb"', '"\\ud800"', "x" * 5000, f"[{'x' * 5000}]", "!!binary a", "!!python/name:os.system x",
    "!!timestamp x", "!!bool x", "!!set {a, b}", "&a [*a]", "*a", BOMB, "[" * 5000, "{a: " * 5000, "- " * 5000,
    "? [a]\n: b", "{? {a: b} : c}", "{1: 2, true: 3, null: 4}", "{a: 1, a: 2}", "{<<: {a: 1}}", "\tx", "%YAML 9.9",
    "|\n  text", "--- a\n---", "'", '"', "@", "`", "[1, 2", "1000000", str([0.5 + i * 1e-6 for i in range(9000)]),
    str(list(range(20000))), "[digits, digits]", "[nan]", "[.nan]", "[true]", "['1e-3']", "\u00e9" * 100, "\U0001f600",
]  # fmt: skip
ODD = [
    "", "\0", "a\nb", "\x1b[31m", "\udcff", "x" * 300, "x" * 5000, "nan", "inf", "-inf", "-1", "0", "1e-320", "1e999",
    "99999999999999999999", "9" * 5000, "1.5", "true", "null", "\u00e9", "\U0001f600", "\u202e", "/", "/tmp", ".", "..",
    "~", "~nobody_at_all/x.py", "/dev/null", "/dev/null/x", "/proc/self/mem", "*", "%", "{}", "--", "-", "[", "]", "a[",
    "a]", "a[b", "orderdp[a=1,a=2]", "orderdp[[x]]", "orderdp[explore=]", "orderdp[=1]", "orderdp[explore=&a *a]",
    "orderdp[explore=!!int x]", "orderdp[explore=" + "[" * 900 + "]", "orderdp[explore={a: 1}]", "orderdp[,,]",
    "orderdp:X", ":", "x.py", ".py", "x.py:", "tests", "README.md", "README.md:X", "quick", "quick.yaml", ".yaml",
    "../quick", "quick/../quick", "digits", "digits[n=1]", "synthetic[n=1]", "synthetic[n=99999999999999]", "cnn",
    "cnn[width=x]", "cnn[width=0]", "mlp[depth=-1]", "el2n", "orderdp", "uniform", "full", "infobatch[r=2]", "subset",
    "subset[id=../../etc/passwd]", "subset[id=null]", "score[by=score]", "score[by=nothing]", "score[by=1]",
    "deepcore", "deepcore[name=x]", "http://", "sqlite://", "sqlite:////nowhere/x.db", "postgresql://u:p@h/d", "x.npz",
    "x.png", "x.svg", "/tmp/x.png/y.png", "explore", "loss",
]  # fmt: skip
COMMANDS: dict[str, tuple[int, list[str]]] = {  # how many arguments, which options
    "run": (1, ["--method", "--only", "--from", "--dataset", "--model", "--keep", "--seeds", "--jobs", "--threads",
                "--device", "--name", "--tracking-uri", "--data-root", "--columns", "--sort"]),
    "list": (1, ["--json", "--kind", "--search"]),
    "show": (1, []),
    "subset": (1, ["-o", "--dataset", "--keep", "--seed", "--model", "--grid", "--data-root"]),
    "check": (1, []),
    "leaderboard": (1, ["--format", "-o", "--tracking-uri", "--columns", "--sort"]),
    "compare": (2, ["--grid"]),
    "merge": (1, []),
    "submit": (1, ["-o"]),
    "verify": (1, ["--cells", "--seed", "--jobs", "--data-root"]),
    "explain": (1, ["--n", "--keep", "--explore", "--figure"]),
    "tune": (1, ["--dataset", "--model", "--keep", "--trials", "--seeds", "--param", "--recipe", "--grid", "--storage",
                 "--jobs", "--data-root"]),
    "figure4": (1, ["--to"]),
    "samples": (1, ["--method", "--keep", "-o", "--data-root"]),
    "sync": (1, ["--tracking-uri", "--data-root"]),
    "theory": (0, ["--to"]),
    "cache list": (0, []),
    "log": (0, []),
    "cache clear": (1, []),
    "ui": (1, ["--port"]),
}  # fmt: skip
SOUND = {
    "run": ["run", "--method", "uniform"], "subset": ["subset", "el2n", "-o", "x.npz"], "tune": ["tune", "orderdp"],
    "explain": ["explain", "orderdp", "--n", "100", "--keep", "0.3"], "compare": ["compare", "a", "b"],
    "leaderboard": ["leaderboard", "quick"], "check": ["check", "uniform"], "list": ["list", "grids"],
    "figure4": ["figure4"], "theory": ["theory"], "cache list": ["cache", "list"], "cache clear": ["cache", "clear"],
    "show": ["show", "quick"], "log": ["log"], "ui": ["ui"], "merge": ["merge", "/tmp"],
    "submit": ["submit", "quick", "-o", "x.zip"], "verify": ["verify", "x.zip"],
    "samples": ["samples", "quick"], "sync": ["sync", "quick"],
}  # fmt: skip


@pytest.fixture
def ends_well(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Give `ends_well(*arguments)`, which runs a command up to its work and returns what it says on its errors."""

    def reached(*_: Any, **__: Any) -> Any:
        raise RunFailed(REACHED)

    for work in (
        "experiments.grid.run_grid", "experiments.subsets.choose", "training.conformance.check",
        "reports.study.run", "reports.ui.serve", "orderdp.experiments.run",
    ):  # fmt: skip
        monkeypatch.setattr(f"dpbench.{work}", reached)
    monkeypatch.setattr("dpbench.reports.tracking.Tracker", lambda *_: None)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["dpbench", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            app.main()
        code, said = int(end.value.code or 0), capsys.readouterr().err
        lines = [line for line in said.splitlines() if line.strip()]
        what = f"{[text[:200] for text in arguments]}: {code}: {said[:2000]}"
        assert code in (0, 1, 2), what
        assert "Traceback" not in said, what
        assert "a bug of dpbench" not in said, what
        if code:
            assert lines[-1 if len(lines) == 1 else 0].startswith("dpbench: "), what
            assert len(lines) <= 11, what
            assert len(said) < 5000, what
        return said

    return run


def mutated(rng: random.Random) -> bytes:
    """A grid with a few faults."""
    lines = GRID.splitlines()
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.randrange(len(lines))
        key, _, _ = lines[at].partition(":")
        kind = rng.randrange(6)
        if kind <= 2:
            lines[at] = f"{key}: {rng.choice(VALUES)}"
        elif kind == 3:
            lines.insert(at, rng.choice([lines[at], rng.choice(VALUES), f"{rng.choice(VALUES)}: 1", "  - x", "x: 1"]))
        elif kind == 4:
            del lines[at]
        else:
            cut = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:cut] + rng.choice(VALUES)[:50] + lines[at][cut:]
    content = "\n".join(lines).encode(errors="surrogatepass")
    if rng.random() < 0.1:
        at = rng.randrange(len(content))
        content = content[:at] + rng.randbytes(3) + content[at:]
    return content


def test_grid_files(ends_well: Callable[..., str], tmp_path: Path) -> None:
    assert REACHED in ends_well("run", _file(tmp_path, GRID.encode()))
    rng = random.Random(0)
    for _ in range(GRIDS):
        ends_well("run", _file(tmp_path, mutated(rng)))


def _file(folder: Path, content: bytes) -> str:
    path = folder / "mine.yaml"
    path.write_bytes(content)
    return str(path)


def test_command_lines(ends_well: Callable[..., str]) -> None:
    rng = random.Random(0)
    for command, (count, options) in COMMANDS.items():
        for _ in range(LINES):
            if rng.random() < 0.5:
                line = list(SOUND[command])
            else:
                line = [*command.split(), *(rng.choice(ODD) for _ in range(count))]
            for option in rng.sample(options, min(len(options), rng.choice([1, 1, 2]))):
                value = rng.choice(ODD)
                line += rng.choice([[option, value], [option, value], [f"{option}={value}"], [option]])
            ends_well(*line)
