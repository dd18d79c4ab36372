"""Start a program in an enclosure, where it sees nothing but one tree (enclose.py): the one door to rsync and tar."""

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
from checkpoint.host.run import find_program, run, start
from checkpoint.rootfs.enclose import TREE

__all__ = ["TREE", "Gate", "start_enclosed"]

#: A line of ldd(1): a library by name and the file it is found in, or the loader's file alone.
LIBRARY = re.compile(r"(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)")


class Gate:
    """Tells when a program runs in its enclosure, or has failed to get there.

    Use as a context around `start_enclosed`, which takes `held`.
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
        """Wait until the program runs, or has ended. To be called after the context: it frees the gate."""
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
    """Start a program of this host that sees a tree at TREE, and no other file but its own.

    `argv[0]` and the `helpers`, which it may execute, are looked up on PATH. `tree` is a descriptor of the tree's root;
    `mount_namespace` is one of the mount namespace that the tree is in, where that is not the caller's. The `handed`
    descriptors become the program's 3, 4 and so on. The process has let go of `tree` and of the `gate`, a descriptor
    too, when it has become the program. Raises CommandFailed when a program is not there; what else keeps
    it from being started, the process says on its standard error.
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
    """The lone program's text; from a zipapp, too."""
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
    """The files of the loader and the libraries that a program is linked with."""
    try:
        told = run(["ldd", program])
    except CommandFailed as error:
        if error.status == 1:  # not a dynamic executable
            return ()
        raise
    return tuple(LIBRARY.findall(told))
