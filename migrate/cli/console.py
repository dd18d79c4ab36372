"""What the commands share: arguments whose errors are told like all others, and what is printed.

Streams may be closed by whoever reads them. Text may hold what a peer, a container, CRIU or an engine chose: file
names, messages. A terminal obeys control characters, so none is printed (`one_line`).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from typing import Any, NoReturn, TextIO

from checkpoint.schema import harmless
from migrate.errors import BadRequest
from migrate.logs import FORMAT

STDOUT, STDERR = 1, 2
#: \U0001f600, for one.
LONGEST_ESCAPE = 10


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises BadRequest instead of ending the program, and takes no option by halves."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise BadRequest(message, f"see '{self.prog} --help'")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print the help or the version, if anybody reads it."""
        _put(message.rstrip("\n"), file or sys.stderr)


class Verbose(logging.Handler):
    """Prints what the program logs on standard error, as it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(FORMAT, "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def open_standard_streams() -> None:
    """Open /dev/null as standard input, output or error where the caller closed it.

    A socket or an image would get that number otherwise, and be written to by whoever prints.
    """
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= STDERR:
        os.set_inheritable(fd, True)
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)
    sys.stdout = sys.stdout or open(STDOUT, "w", closefd=False)  # noqa: SIM115  (until the end)
    sys.stderr = sys.stderr or open(STDERR, "w", closefd=False)  # noqa: SIM115


def one_line(text: str) -> str:
    """Text as a terminal shows it and does not obey it.

    What is no printable character is written as an escape: control and escape characters, line ends, marks that
    turn the direction of writing, lone surrogates.
    """
    return harmless(text, most=len(text) * LONGEST_ESCAPE)


def say(text: str) -> None:
    """Print a line on standard error, if anybody reads it."""
    _put(one_line(text), sys.stderr)


def put(text: str) -> None:
    """Print a line on standard output, if anybody reads it."""
    _put(one_line(text), sys.stdout)


def _put(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):
        # What could not be written would be tried again, and complained of, when Python ends.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
