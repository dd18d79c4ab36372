"""The errors of the rig.

RigError                 the rig cannot do what was asked
├── BadUsage             the request itself is wrong (unknown node, name too long, ...)
└── CommandFailed        a command ended with a status other than 0
    └── CommandTimedOut  ... or was killed because it did not end in time
"""

from collections.abc import Sequence
from shlex import join

TAIL_LINES = 20


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a command's output, which have the reason of a failure."""
    return "\n".join(text.rstrip().splitlines()[-lines:])


class RigError(Exception):
    """The rig cannot do what was asked."""


class BadUsage(RigError):
    """The request names something that is not there or cannot be."""


class CommandFailed(RigError):
    """A command ended with a status other than 0.

    The status is negative if a signal ended the command, as in subprocess.
    """

    def __init__(self, argv: Sequence[str], status: int, stdout: str, stderr: str) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = tail(stderr)
        super().__init__(f"{join(argv)}: {self.how()}\n{self.stderr or tail(stdout)}".rstrip())

    def how(self) -> str:
        """Return how the command ended, in words."""
        return f"ended with status {self.status}"


class CommandTimedOut(CommandFailed):
    """A command was killed because it did not end in time."""

    def how(self) -> str:
        """Return how the command ended, in words."""
        return "was killed: it did not end in time"
