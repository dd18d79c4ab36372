"""A watch over what a hostile peer must not bring about.

It must not have a file opened outside what is its own, nor memory taken without a bound.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from migrate import logs
from migrate.journal import book

#: The most memory that one sequence may take.
MOST_BYTES = 64 << 20
#: Events of sys.addaudithook whose first argument is a path
#: (docs.python.org/3/library/audit_events.html).
PATHS = frozenset(
    """
    open os.chmod os.chown os.link os.listdir os.mkdir os.remove os.rename os.rmdir os.scandir
    os.setxattr os.symlink os.truncate os.utime shutil.rmtree
    """.split()  # noqa: SIM905
)
#: Paths of the interpreter, of the kernel, and of what the product has under fixed names.
ALWAYS = (
    *{sys.prefix, sys.base_prefix, *(path for path in sys.path if path)},
    "/proc",
    "/sys",
    "/dev/null",
    "/dev/cpu_dma_latency",
    "/run/criu.kdat",
    "/run/migrate",
    "/var/lib/migrate",
)
#: Ends of paths that Python opens when it finds a module; no peer chooses them.
OF_PYTHON = (".py", ".pyc", ".so")


class Opened:
    """Paths outside of what is allowed that a thread opened, made or removed while `watching`.

    There is one for the whole process, because an audit hook stays.
    """

    def __init__(self) -> None:
        self._allowed: tuple[str, ...] | None = None
        #: Paths that may be touched, too, but nothing beneath them.
        self.also: set[str] = set()
        self.outside: list[str] = []
        sys.addaudithook(self._hear)

    @contextmanager
    def watching(self, allowed: Iterable[Path]) -> Iterator[None]:
        """Raise AssertionError after the block if anything outside of `allowed` was touched."""
        self.outside.clear()
        self.also.clear()
        own = (logs.DIRECTORY, book.DIRECTORY)
        self._allowed = (*ALWAYS, *map(str, [*own, *allowed]))
        try:
            yield
        finally:
            self._allowed = None
        assert not self.outside, f"touched outside its trees: {self.outside[:5]}"

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._allowed is None or event not in PATHS or not arguments:
            return
        path = arguments[0]
        if isinstance(path, int):
            return  # of a descriptor was heard when it was opened
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_DIRECTORY:
            return  # of what is done by its descriptor is heard
        text = os.path.normpath(os.fsdecode(path))
        if event == "os.mkdir" and os.path.isdir(text):
            return  # it fails
        inside = (
            text.startswith(tuple(f"{each}/" for each in self._allowed)) or text in self._allowed
        )
        # A relative path is beneath the descriptor of a directory.
        beneath = not os.path.isabs(text) and ".." not in text.split("/")
        if not (inside or text in self.also or beneath or text.endswith(OF_PYTHON)):
            self.outside.append(f"{event} {text} in {threading.current_thread().name}")


@contextmanager
def bounded() -> Iterator[None]:
    """Raise AssertionError after the block if this process took more than MOST_BYTES in it.

    VmHWM of proc_pid_status(5) tells.
    """
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = _status("VmRSS")
    yield
    assert (taken := _status("VmHWM") - before) < MOST_BYTES, f"{taken >> 20} MiB were taken"


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(name)
