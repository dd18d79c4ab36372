"""What a hostile peer must not bring about: a file opened outside what is its own, memory taken without bound."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Most memory that one sequence may take.
MOST_BYTES = 64 << 20
#: Events of sys.addaudithook whose first argument is a path; docs.python.org/3/library/audit_events.html.
PATHS = frozenset(
    {
        "open",
        "os.chmod",
        "os.chown",
        "os.link",
        "os.listdir",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
    }
    | {"os.scandir", "os.setxattr", "os.symlink", "os.truncate", "os.utime", "shutil.rmtree"}
)
#: Of the interpreter, the kernel, and what the product has under fixed names.
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
#: Python finds a module; nobody else's words are in that.
OF_PYTHON = (".py", ".pyc", ".so")


class Opened:
    """Paths that were opened, made or removed by any thread while `watching`, outside of what is allowed.

    There is one for the whole process: an audit hook stays.
    """

    def __init__(self) -> None:
        self._allowed: tuple[str, ...] | None = None
        #: What else may be touched, and nothing beneath it.
        self.also: set[str] = set()
        self.outside: list[str] = []
        sys.addaudithook(self._hear)

    @contextmanager
    def watching(self, allowed: Iterable[Path]) -> Iterator[None]:
        """Raise AssertionError after the block if something else than these was touched."""
        self.outside.clear()
        self.also.clear()
        self._allowed = (*ALWAYS, *map(str, allowed))
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
            return  # a descriptor: it was opened before, and heard of then
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_DIRECTORY:
            return  # what is done by it is heard of
        text = os.path.normpath(os.fsdecode(path))
        if event == "os.mkdir" and os.path.isdir(text):
            return  # it fails
        inside = (
            text.startswith(tuple(f"{each}/" for each in self._allowed)) or text in self._allowed
        )
        beneath = not os.path.isabs(text) and ".." not in text.split(
            "/"
        )  # of a directory's descriptor
        if not (inside or text in self.also or beneath or text.endswith(OF_PYTHON)):
            self.outside.append(f"{event} {text} in {threading.current_thread().name}")


@contextmanager
def bounded() -> Iterator[None]:
    """Raise AssertionError after the block if this process took more than MOST_BYTES in it (proc_pid_status(5))."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = _status("VmRSS")
    yield
    assert (taken := _status("VmHWM") - before) < MOST_BYTES, f"{taken >> 20} MiB were taken"


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(name)
