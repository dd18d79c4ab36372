"""The interface of a connection to another host, which runs commands with streams of their own.

`transport.ssh` implements it over a network; tests have an implementation in memory.
"""

from __future__ import annotations

from typing import Protocol

from transport.destination import Destination


class Process(Protocol):
    """A command that runs on the other host; its stdin and stdout are a framing.ByteStream."""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes of the command's stdout; b"" at the end. Raises StreamError."""

    def read_into(self, view: memoryview) -> int:
        """Fill the start of `view` with bytes of stdout that have come, and return how many.

        0 is the end of stdout. Raises StreamError.
        """

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data` to the command's stdin. Raises StreamError."""

    def patience(self, seconds: float | None) -> None:
        """Bound the wait of each later read or write, in seconds; None is no bound.

        A read or write that waits longer raises StreamError.
        """

    def read_errors(self, size: int) -> bytes:
        """Return up to `size` bytes of the command's stderr; b"" at the end."""

    def end_input(self) -> None:
        """Close the command's stdin."""

    def ended(self) -> bool:
        """Return whether the command's exit status is known."""

    def wait(self) -> int:
        """Wait for the command's exit status and return it; -1 if the other host reports none."""

    def close(self) -> None:
        """Close the command's streams."""


class Connection(Protocol):
    """An authenticated connection to one host."""

    @property
    def destination(self) -> Destination:
        """The other host, as the user wrote it."""

    def run(self, command: str) -> Process:
        """Start a command, given as one string for the login shell on the other host.

        Raises StreamError.
        """
