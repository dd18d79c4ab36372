"""The one door to rsync and tar: programs start in an enclosure with a single tree (enclose.py)."""

from __future__ import annotations

import functools
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from checkpoint.errors import CommandFailed
from checkpoint.files.enclose import TREE
from checkpoint.host.run import find_program, run, start

__all__ = ["TREE", "Gate", "start_enclosed"]

#: A line of ldd(1): the name of a library and the file it is found in, or the loader's file alone.
LIBRARY = re.compile(r"(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)")


class Gate:
    """A pipe that tells when a program runs in its enclosure, or has failed to get there.

    Use as a context around `start_enclosed`, which takes `held` as its `gate`. The process holds
    that end of the pipe open until it becomes the program.
    """

    def __init__(self) -> None:
        self._end, self.held = os.pipe()
        self._over = False

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        os.close(self.held)
        if kind is not None:  # nothing was started
            self.wait()

    def wait(self) -> None:
        """Wait until the program runs, or has ended, and close the gate.

        To be called after the context, at least once.
        """
        if not self._over:
            os.read(self._end, 1)  # short result: only the pipe's end is waited for
            os.close(self._end)
            self._over = True


def start_enclosed(
    argv: Sequence[str],
    tree: int,
    *,
    mount_namespace: int | None = None,
    gate: int | None = None,
    handed: Sequence[int] = (),
    helpers: Sequence[str] = (),
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a program of this host that sees a tree at TREE, and no other files but its own.

    `argv[0]` and the `helpers`, programs that it may execute, are looked up on PATH. `tree` is a
    descriptor of the tree's root. `mount_namespace` is a descriptor of the mount namespace that the
    tree is in, unless that is the caller's. `gate` is a descriptor (Gate.held). The process closes
    `tree` and `gate` when it becomes the program. The `handed` descriptors become the program's 3,
    4 and so on. `stdin`, `stdout` and `stderr` are as in subprocess.

    Raises CommandFailed if a program is not installed, or no process can be started. If anything
    else keeps the program from running, the process says so on its standard error, and ends.
    """
    programs = [_program(name) for name in (argv[0], *helpers)]
    files = sorted({file for program in programs for file in (program, *_libraries(program))})
    library_path = ":".join(
        sorted({str(Path(file).parent) for program in programs for file in _libraries(program)})
    )
    named = ["-" if fd is None else str(fd) for fd in (tree, mount_namespace, gate)]
    words = [*named, ",".join(map(str, handed)) or "-", str(len(files))]
    return start(
        [sys.executable, "-ISc", _source(), *words, *files, programs[0], *argv[1:]],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "LD_LIBRARY_PATH": library_path},
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=[fd for fd in (tree, mount_namespace, gate, *handed) if fd is not None],
    )


@functools.cache
def _source() -> str:
    """Return the text of enclose.py, also if this package is in a zipapp."""
    source = pkgutil.get_data(__package__, "enclose.py")
    assert source is not None
    return source.decode()


def _program(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise CommandFailed([name], 127, f"{name} is not installed")
    return str(found)


@functools.cache
def _libraries(program: str) -> tuple[str, ...]:
    """Return the files of the loader and of the libraries that a program is linked with.

    Returns () for a program that is not linked dynamically. Raises CommandFailed.
    """
    try:
        told = run(["ldd", program])
    except CommandFailed as error:
        if error.status == 1:  # not a dynamic executable
            return ()
        raise
    return tuple(LIBRARY.findall(told))
