"""Where commands of a test run: a node, or the switch between them."""

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from os import PathLike

from tests.rig import process


class Place(ABC):
    """Runs commands as root."""

    @abstractmethod
    def command(self, argv: Sequence[str | PathLike[str]]) -> Sequence[str | PathLike[str]]:
        """What this machine runs to have argv run there; its streams and its end are argv's."""

    def run(
        self,
        argv: Sequence[str | PathLike[str]],
        *,
        check: bool = True,
        input: str | None = None,
        timeout: float | None = process.DEFAULT_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return process.run(
            argv, whole=self.command(argv), check=check, input=input, timeout=timeout
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
