"""The ways a command can fail, and the exit code of each."""

import re
from numbers import Real
from typing import Any


class DpbenchError(Exception):
    """An error whose message is written for the user: each argument is one line of it."""

    def __str__(self) -> str:
        return "\n".join(" ".join(str(line).splitlines()) for line in self.args)


class UsageError(DpbenchError):
    """Something the user wrote is wrong (exit code 2)."""


class RunFailed(DpbenchError):
    """A run could not be carried to its end (exit code 1)."""


class MethodFailed(RunFailed):
    """A method's own code raised, or answered wrongly, as it would with another seed."""


class Diverged(RunFailed):
    """A training diverged: a final result of the method and recipe, no error."""


class Untracked(RunFailed):
    """MLflow cannot be reached or written; what was run is kept, and can be sent again."""


def is_share(value: Any) -> bool:
    """Whether it is a share of the samples, a number in (0, 1]."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) <= 1


def check_keep(keep: Any, written: str) -> None:
    """Refuse what is no share of the samples that is kept; `written` is where it stands and how it reads."""
    if not is_share(keep):
        raise UsageError(f"{written} is outside (0, 1]; it is the share of the samples that is kept")


def one_line(text: object, width: int | None = None) -> str:
    """What an error or another object says, in one line, cut after `width` characters."""
    return " ".join(str(text).split())[:width]


def redact(text: str) -> str:
    """Leave passwords out of the URIs in a text, and of a web address the user too, which may be a token."""
    text = re.sub(r"(https?://)[^\s/:@]+@", r"\1***@", text)
    text = re.sub(r"(://[^\s/:@]*):[^\s]*@", r"\1:***@", text)
    return re.sub(r"(?i)([?&](?:password|passwd|pwd|token|secret|\w*key)=)[^&\s]+", r"\1***", text)
