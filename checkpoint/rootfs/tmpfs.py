"""The tmpfs mounts of a container: made and filled on the target beforehand, given to CRIU as mounts from outside.

CRIU itself runs tar and gzip for each of them while the container stands still, and again in the restore (criu/
filesystems.c, tmpfs_dump); a runtime's default container has four. The content is archived the same way here.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from checkpoint.bounded import ContainerPath
from checkpoint.errors import CommandFailed
from checkpoint.host import proc
from checkpoint.host.run import run, start
from checkpoint.schema import Pattern

#: tmpfs(5), with the commas between them.
MountOptions = Annotated[str, Pattern(r'[A-Za-z0-9_=,:.%"-]{0,1024}')]
PIECE_BYTES = 1 << 20
PRESERVE = ("--sparse", "--numeric-owner", "--preserve-permissions")
CREATE = ("--create", "--no-recursion", "--null", "--files-from=-")


@dataclass(frozen=True, kw_only=True)
class Tmpfs:
    """One, by its mount point in the container and its options as mountinfo has them (proc_pid_mountinfo(5))."""

    path: ContainerPath
    options: MountOptions

    @property
    def read_only(self) -> bool:
        return "ro" in self.options.split(",")


def tmpfs_mounts(pid: int, pids: Iterable[int]) -> list[Tmpfs]:
    """Those that can be made ahead: each mounted whole, once, and shared with nobody.

    None where a container has several mount namespaces, or a user namespace, whose the mounts would have to be.
    """
    if len({_namespace(each, "mnt") for each in pids} - {None}) != 1:
        return []
    if _namespace(pid, "user") != _namespace(os.getpid(), "user"):
        return []
    mounts = proc.mounts(pid)
    devices = Counter(mount.device for mount in mounts if mount.root == "/")
    points = Counter(mount.point for mount in mounts)
    return [
        Tmpfs(path=mount.point, options=mount.options)
        for mount in mounts
        # The optional fields tell whom a mount is shared with.
        if not mount.propagation and mount.kind == "tmpfs" and mount.root == "/" and mount.point != "/"
        if devices[mount.device] == 1 and points[mount.point] == 1
    ]


def make(mount: Tmpfs, at: Path) -> None:
    """Mount an empty one of that kind; writable for now."""
    options = ",".join(option for option in mount.options.split(",") if option not in ("ro", "seclabel"))
    run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)])
    run(["mount", "--make-private", str(at)])


def _namespace(pid: int, kind: str) -> int | None:
    with contextlib.suppress(OSError):  # it is ending
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    return None


def pack(root: Path, names: Iterable[str], *, complete: bool) -> Iterator[bytes]:
    """An archive of these files, in pieces. Raises CommandFailed if some are not in it, unless that is expected."""
    argv = ["tar", "--directory", str(root), *PRESERVE, *CREATE]  # the directory holds for what follows it
    with tempfile.TemporaryFile() as listed:
        listed.write(b"".join(os.fsencode(name) + b"\0" for name in names))
        listed.seek(0)
        tar = start(argv, stdin=listed.fileno(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with tar:
        assert tar.stdout is not None and tar.stderr is not None
        while piece := tar.stdout.read(PIECE_BYTES):
            yield piece
        told = tar.stderr.read().decode(errors="replace")
    if complete and tar.returncode != 0:
        raise CommandFailed(argv, tar.returncode, told)


class Unpacking:
    """An archive on its way into a directory."""

    def __init__(self, root: Path) -> None:
        self._argv = ["tar", "--extract", "--delay-directory-restore", *PRESERVE, "--directory", str(root)]
        self._tar = start(self._argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE)

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """The next piece. Raises CommandFailed."""
        assert self._tar.stdin is not None
        try:
            self._tar.stdin.write(piece)
        except BrokenPipeError:
            self.finish()

    def kill(self) -> None:
        """The rest will not come."""
        self._tar.kill()
        self._tar.communicate()

    def finish(self) -> None:
        """After the last piece. Raises CommandFailed."""
        assert self._tar.stderr is not None
        _, told = self._tar.communicate()
        if self._tar.returncode != 0:
            raise CommandFailed(self._argv, self._tar.returncode, told.decode(errors="replace"))


class PreparedTmpfs:
    """The mounts on the target, by index, until they are the container's. Use as a context."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "tmpfs"
        self._mounts: list[Tmpfs] = []
        self._unpacking: Unpacking | None = None

    def __enter__(self) -> PreparedTmpfs:
        self._directory.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        if self._unpacking is not None:
            self._unpacking.kill()
        for index in range(len(self._mounts)):
            if os.path.ismount(self.root(index)):  # a runtime may have taken it away with what it restored
                run(["umount", "--lazy", str(self.root(index))])

    def root(self, index: int) -> Path:
        """Where one is mounted here."""
        return self._directory / str(index)

    def make(self, mount: Tmpfs) -> None:
        """Mount the next one, empty. Raises CommandFailed: this kernel does not know its options."""
        root = self.root(len(self._mounts))
        root.mkdir(exist_ok=True)
        make(mount, root)
        self._mounts.append(mount)

    def unpack(self, index: int, piece: bytes | bytearray | memoryview, *, last: bool) -> None:
        """The next piece of an archive. Raises CommandFailed."""
        if self._unpacking is None:
            self._unpacking = Unpacking(self.root(index))
        self._unpacking.write(piece)
        if last:
            self._unpacking.finish()
            self._unpacking = None
            if self._mounts[index].read_only:
                run(["mount", "-o", "remount,ro", str(self.root(index))])

    def external_mounts(self) -> tuple[tuple[str, str], ...]:
        """(mount point in the container, what CRIU is to bind there)."""
        return tuple((mount.path, str(self.root(index))) for index, mount in enumerate(self._mounts))
