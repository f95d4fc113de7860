"""The two ways a command can fail, and the exit code of each."""


class UsageError(Exception):
    """Something the user wrote is wrong (exit code 2)."""


class RunFailed(Exception):
    """A run could not be carried to its end (exit code 1)."""
