"""The command line: its commands in the order of the help, and how errors end.

Imports of torch and MLflow wait until a command needs them, so that help is quick.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from dpbench import __version__
from dpbench.cli import bundle, cache, catalog, data, orderdp, results, run, status, subset, tune
from dpbench.cli.terminal import err
from dpbench.errors import RunFailed, UsageError, one_line

app = typer.Typer(
    name="dpbench",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Compare data-pruning methods: exact accounting, paired seeds, a leaderboard in MLflow.

**Examples**

- `dpbench run quick`: nine methods on small digits, a few minutes
- `dpbench ui quick`: its leaderboard in the MLflow UI
- `dpbench run quick --method my_method.py`: your own method beside them
- `dpbench run --method "orderdp[explore=0.9]" --dataset digits --keep 0.3`: a grid of your own
- `dpbench list methods`: all methods

Results are kept under `$DPBENCH_HOME` (`.dpbench/` in the current folder). A finished run is not run again.
""",
)
ARGUMENT = 4096  # characters, as long as a path may be
Misused: Any = typer.BadParameter.__mro__[2]  # ClickException, of the Click that this Typer brings or depends on


def _version(asked: bool) -> None:
    if asked:
        print(f"dpbench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


app.command()(run.run)
app.command("list")(catalog.list_)
app.command()(catalog.show)
app.command()(subset.subset)
app.command()(catalog.check)
app.command()(results.leaderboard)
app.command()(results.samples)
app.command()(status.status)
app.command()(results.sync)
app.command()(results.compare)
app.command()(bundle.submit)
app.command()(bundle.verify)
app.command()(results.merge)
app.command()(bundle.log)
app.command()(orderdp.explain)
app.command()(tune.tune)
app.command("theory")(orderdp.theory_)
app.command()(orderdp.figure4)
app.command()(results.ui)
app.add_typer(cache.cache, name="cache")
app.add_typer(data.data, name="data")


def main() -> None:
    """Run the command line; errors end in one line, exit code 2 for usage and 1 for failed runs."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")  # it is understood anywhere on the line
    try:
        _check_arguments(sys.argv[1:])
        code = app(prog_name="dpbench", standalone_mode=False)
    except (UsageError, RunFailed) as error:
        if debug:
            raise
        _end(str(error), 2 if isinstance(error, UsageError) else 1)
    except Misused as error:
        _end(*_misuse(error))
    except Exception as error:
        if debug:
            raise
        _end(*_accident(error))
    if code == 130:  # what Typer makes of Ctrl-C
        _end("stopped; finished runs are kept, the same command continues", 130)
    sys.exit(code)


def _check_arguments(arguments: list[str]) -> None:
    """Refuse arguments that cannot be a name, a number or a path, before they reach file names, tables and messages."""
    for place, text in enumerate(arguments, start=1):
        if not text or re.fullmatch(r"--[\w-]+=", text):
            raise UsageError(f"argument {place} of the command line is empty{f': {text}' if text else ''}")
        if len(text) > ARGUMENT:
            raise UsageError(f"argument {place} of the command line has more than {ARGUMENT:,} characters")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
            raise UsageError(f"argument {place} of the command line has a character that is not text: {text!r}")


def _end(message: str, code: int) -> NoReturn:
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in message)
    err.print(Text.assemble(("dpbench: ", "bold red"), shown), soft_wrap=True)
    sys.exit(code)


def _misuse(error: Any) -> tuple[str, int]:
    """The line and exit code for what the parser of the command line refuses."""
    message = " ".join(error.format_message().replace(": Value error,", ":").split()).rstrip(".")
    message = message.replace("(Possible options: --help, ", "(Possible options: ")  # which is named below
    if type(error).__name__ == "NoArgsIsHelpError":  # the help has been shown
        sys.exit(2)
    command = error.ctx.command_path if error.ctx else "dpbench"
    return f"{message[:1].lower()}{message[1:]}; {command} --help lists what is allowed", 2


def _accident(error: Exception) -> tuple[str, int]:
    """The line and exit code for an unexpected error: a fault of the machine, or else a bug."""
    text = one_line(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{str(error.filename or 'a file')[:200]}: {error.strerror} (--debug shows the traceback)", 1
    if isinstance(error, MemoryError):
        return f"there is not enough memory{f': {text}' if text else ''} (--debug shows the traceback)", 1
    return f"a bug of dpbench, please report it: {type(error).__name__}: {text} (--debug shows the traceback)", 1
