"""A place where commands of a test run: a node, or the switch between the nodes."""

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from os import PathLike

from tests.rig import process


class Place(ABC):
    """A place runs commands as root."""

    #: How many times longer things take there than on this machine.
    slowness = 1

    @abstractmethod
    def command(self, argv: Sequence[str | PathLike[str]]) -> Sequence[str | PathLike[str]]:
        """Return the command of this machine that runs argv in this place.

        Its streams are argv's, it ends as argv ends, and signals sent to it reach argv.
        """

    def brief_command(self, argv: Sequence[str | PathLike[str]]) -> Sequence[str | PathLike[str]]:
        """Return such a command that need not pass on signals.

        SIGKILL alone ends argv as well. A place has a cheaper command for this where it can.
        """
        return self.command(argv)

    def run(
        self,
        argv: Sequence[str | PathLike[str]],
        *,
        check: bool = True,
        input: str | None = None,
        timeout: float | None = process.DEFAULT_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, and return its exit status and its output.

        Raises CommandFailed if its status is not 0, unless check is False, and CommandTimedOut if
        it has not ended after timeout seconds of a place that is not slow.
        """
        return process.run(
            argv,
            whole=self.brief_command(argv),
            check=check,
            input=input,
            timeout=None if timeout is None else timeout * self.slowness,
        )

    def popen(
        self,
        argv: Sequence[str | PathLike[str]],
        *,
        stdin: process.Stream = subprocess.DEVNULL,
        stdout: process.Stream = None,
        stderr: process.Stream = None,
    ) -> subprocess.Popen[str]:
        """Start a command that the caller will wait for."""
        return process.popen(self.command(argv), stdin=stdin, stdout=stdout, stderr=stderr)
