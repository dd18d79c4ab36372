"""What a move needs of a connection to another host: commands run there, each with streams of its own.

`transport.ssh` is the one that crosses a network; tests have another one that stays in memory.
"""

from __future__ import annotations

from typing import Protocol

from transport.destination import Destination


class Process(Protocol):
    """A command that runs on the other host; its stdin and stdout are a framing.ByteStream."""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes of its stdout, b"" at the end. Raises StreamError."""

    def read_into(self, view: memoryview) -> int:
        """Fill `view` from its start with what there is of stdout. 0 is the end. Raises StreamError."""

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data` to its stdin. Raises StreamError."""

    def patience(self, seconds: float | None) -> None:
        """Bound how long a read or write from now on waits; None is for ever. One that takes longer breaks."""

    def read_errors(self, size: int) -> bytes:
        """Return up to `size` bytes of its stderr; b"" at the end."""

    def end_input(self) -> None:
        """Close its stdin."""

    def ended(self) -> bool:
        """Whether its exit status is known."""

    def wait(self) -> int:
        """Wait for its exit status; -1 when the other host did not say."""

    def close(self) -> None:
        """Close its streams."""


class Connection(Protocol):
    """An authenticated connection to one host."""

    @property
    def destination(self) -> Destination:
        """The host, as the user wrote it."""

    def run(self, command: str) -> Process:
        """Start a command, given as one string for the login shell there. Raises StreamError."""
