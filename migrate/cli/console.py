"""The parser of arguments, a check and the printing that both commands share.

A reader may close a stream at any time. Printed text may contain file names and messages that a
peer, a container, CRIU or an engine chose. A terminal obeys control characters, so none is printed
(`one_line`).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import sys
from typing import Any, NoReturn, TextIO

from checkpoint.schema import harmless
from migrate.errors import BadRequest, NotRoot
from migrate.logs import BRIEF_FORMAT, FORMAT, formatter

STDOUT, STDERR = 1, 2
#: In characters: an escape like \U0001f600.
LONGEST_ESCAPE = 10


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises BadRequest instead of ending the program.

    It accepts no abbreviated options.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise BadRequest(message, f"see '{self.prog} --help'")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print the help or the version; a closed stream is ignored."""
        _put(message.rstrip("\n"), file or sys.stderr)


class Printing(logging.Handler):
    """A log handler that prints each record on standard error at once.

    Without `debug`, it prints those of level INFO only, and leaves out threads and modules.
    """

    def __init__(self, *, debug: bool) -> None:
        super().__init__(logging.DEBUG if debug else logging.INFO)
        self.setFormatter(formatter(FORMAT if debug else BRIEF_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def check_root() -> None:
    """Raise NotRoot unless root runs this command, which acts on this host."""
    if os.geteuid() != 0:
        raise NotRoot(None, platform.node())


def open_standard_streams() -> None:
    """Open /dev/null as standard input, output or error where the caller closed it.

    Otherwise a socket or an image file would get that descriptor number, and all that is printed.
    """
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= STDERR:
        os.set_inheritable(fd, True)
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)
    sys.stdout = sys.stdout or open(STDOUT, "w", closefd=False)  # noqa: SIM115  (open to the end)
    sys.stderr = sys.stderr or open(STDERR, "w", closefd=False)  # noqa: SIM115


def one_line(text: str) -> str:
    """Return text in a form that a terminal shows and does not obey.

    All characters that are not printable are written as escapes: control and escape characters,
    line ends, marks that change the direction of writing, lone surrogates.
    """
    return harmless(text, most=len(text) * LONGEST_ESCAPE)


def say(text: str) -> None:
    """Print a line on standard error; a closed stream is ignored."""
    _put(one_line(text), sys.stderr)


def put(text: str) -> None:
    """Print a line on standard output; a closed stream is ignored."""
    _put(one_line(text), sys.stdout)


def _put(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):
        # At its end, Python would write the rest again and report that failure.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
