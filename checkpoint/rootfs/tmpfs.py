"""The tmpfs mounts of a container: made and filled on the target beforehand, given to CRIU as mounts from outside.

CRIU itself runs tar and gzip for each of them while the container stands still, and again in the restore (criu/
filesystems.c, tmpfs_dump); a runtime's default container has four. The content is archived the same way here.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

from checkpoint.bounded import ContainerPath
from checkpoint.errors import CommandFailed
from checkpoint.host import proc
from checkpoint.host.run import run
from checkpoint.rootfs.beneath import TreeRoot
from checkpoint.rootfs.enclosure import TREE, Gate, start_enclosed
from checkpoint.schema import Pattern, Range

#: tmpfs(5), with the commas between them.
MountOptions = Annotated[str, Pattern(r'[A-Za-z0-9_=,:.%"-]{0,1024}')]
#: Of the mounts that a target has made.
TmpfsIndex = Annotated[int, Range(0, 4095)]
#: What st_blocks counts (stat(2)), whatever the file system.
STAT_BLOCK_BYTES = 512
PIECE_BYTES = 1 << 20
PRESERVE = ("--sparse", "--numeric-owner", "--preserve-permissions")
CREATE = ("--create", "--no-recursion", "--null", "--files-from=-")


@dataclass(frozen=True, kw_only=True)
class Tmpfs:
    """One, by its mount point in the container and its options as mountinfo has them (proc_pid_mountinfo(5)).

    `device` is the st_dev of what is in it, where it is known.
    """

    path: ContainerPath
    options: MountOptions
    device: int = 0

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
        Tmpfs(
            path=mount.point,
            options=mount.options,
            device=os.makedev(*map(int, mount.device.split(":"))),
        )
        for mount in mounts
        # The optional fields tell whom a mount is shared with.
        if not mount.propagation
        and mount.kind == "tmpfs"
        and mount.root == "/"
        and mount.point != "/"
        if devices[mount.device] == 1 and points[mount.point] == 1
    ]


def content_bytes(pid: int, mounts: Iterable[Tmpfs]) -> int:
    """The RAM that the files in a process's mounts take. One that is gone by now takes none."""
    total = 0
    for mount in mounts:
        with contextlib.suppress(OSError), TreeRoot.mounted(pid, mount.path, mount.device) as tree:
            found = os.fstatvfs(tree.fd)
            if found.f_blocks:
                total += found.f_frsize * (found.f_blocks - found.f_bfree)
            else:  # one without a limit does not tell (shmem_statfs, mm/shmem.c)
                files = {
                    state.st_ino: state for _, _, entries in tree.walk() for _, state in entries
                }
                total += sum(state.st_blocks * STAT_BLOCK_BYTES for state in files.values())
    return total


def make(mount: Tmpfs, at: Path) -> None:
    """Mount an empty one of that kind; writable for now."""
    options = ",".join(
        option for option in mount.options.split(",") if option not in ("ro", "seclabel")
    )
    run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)])
    run(["mount", "--make-private", str(at)])


def _namespace(pid: int, kind: str) -> int | None:
    with contextlib.suppress(OSError):  # it is ending
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    return None


class Packing:
    """tar in an enclosure with a tmpfs of a container; it waits for the names of what is to be in the archive.

    `mount_namespace` is a descriptor of the container's.
    """

    def __init__(self, root: TreeRoot, mount_namespace: int) -> None:
        self._argv = [
            "tar",
            "--directory",
            TREE,
            *PRESERVE,
            *CREATE,
        ]  # the directory holds for what follows it
        self._gate = Gate()
        with self._gate as gate:
            self._tar = start_enclosed(
                self._argv,
                root.fd,
                mount_namespace=mount_namespace,
                gate=gate.held,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )

    def wait_ready(self) -> None:
        """Wait until tar waits for names: its start takes processor time, which the freeze is to be spared."""
        self._gate.wait()

    def archive(self, names: Iterable[str], *, complete: bool) -> Iterator[bytes]:
        """An archive of these files, in pieces. Raises CommandFailed if one is not in it, unless that is expected."""
        self.wait_ready()
        with self._tar as tar:
            assert tar.stdin is not None and tar.stdout is not None and tar.stderr is not None
            listed = b"".join(os.fsencode(name) + b"\0" for name in names)
            # Beside this thread, for tar may write before it has read them all.
            writer = threading.Thread(
                target=_write_all, args=(tar.stdin, listed), name="tar", daemon=True
            )
            writer.start()
            while piece := tar.stdout.read(PIECE_BYTES):
                yield piece
            writer.join()
            told = tar.stderr.read().decode(errors="replace")
        if complete and tar.returncode != 0:
            raise CommandFailed(self._argv, tar.returncode, told)

    def kill(self) -> None:
        """No names will come. Harmless after `archive`."""
        self._tar.kill()
        self.wait_ready()
        with self._tar:
            pass


def _write_all(pipe: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), pipe:  # tar says why it ended
        pipe.write(data)


class Unpacking:
    """tar in an enclosure with a directory; it waits for an archive."""

    def __init__(self, root: TreeRoot) -> None:
        self._argv = [
            "tar",
            "--extract",
            "--delay-directory-restore",
            *PRESERVE,
            "--directory",
            TREE,
        ]
        self._gate = Gate()
        with self._gate as gate:
            self._tar = start_enclosed(
                self._argv, root.fd, gate=gate.held, stdin=subprocess.PIPE, stderr=subprocess.PIPE
            )

    def wait_ready(self) -> None:
        """Wait until tar waits for the archive."""
        self._gate.wait()

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """The next piece. Raises CommandFailed."""
        assert self._tar.stdin is not None
        try:
            self._tar.stdin.write(piece)
            self._tar.stdin.flush()
        except BrokenPipeError:
            self.finish()

    def kill(self) -> None:
        """The rest will not come. Harmless after `finish`."""
        self._tar.kill()
        self.wait_ready()
        self._tar.communicate()

    def finish(self) -> None:
        """After the last piece. Raises CommandFailed."""
        self.wait_ready()
        _, told = self._tar.communicate()
        if self._tar.returncode != 0:
            raise CommandFailed(self._argv, self._tar.returncode, told.decode(errors="replace"))


class Prepared:
    """One of the mounts on the target: its place, its tree, and the tar that waits for the next archive."""

    def __init__(self, mount: Tmpfs, place: Path) -> None:
        self.mount, self.place = mount, place
        self.root = TreeRoot(place)
        self.unpacking: Unpacking | None = None

    def close(self) -> None:
        if self.unpacking is not None:
            self.unpacking.kill()
        self.root.close()


class PreparedTmpfs:
    """The mounts on the target, by index, until they are the container's. Use as a context."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "tmpfs"
        self._mounts: list[Prepared] = []

    def __enter__(self) -> PreparedTmpfs:
        self._directory.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        for prepared in self._mounts:
            prepared.close()
            if os.path.ismount(
                prepared.place
            ):  # a runtime may have taken it away with what it restored
                run(["umount", "--lazy", str(prepared.place)])

    def root(self, index: int) -> TreeRoot:
        """What is in one of them."""
        return self._mounts[index].root

    def make(self, mount: Tmpfs) -> None:
        """Mount the next one, empty. Raises CommandFailed: this kernel does not know its options."""
        place = self._directory / str(len(self._mounts))
        place.mkdir(exist_ok=True)
        make(mount, place)
        self._mounts.append(Prepared(mount, place))

    def unpack(self, index: int, piece: bytes | bytearray | memoryview, *, last: bool) -> None:
        """The next piece of an archive. Raises CommandFailed."""
        prepared = self._mounts[index]
        if prepared.unpacking is None:
            prepared.unpacking = Unpacking(prepared.root)
        prepared.unpacking.write(piece)
        if not last:
            return
        prepared.unpacking.finish()
        prepared.unpacking = None
        if prepared.mount.read_only:
            run(["mount", "-o", "remount,ro", str(prepared.place)])

    def arm(self) -> None:
        """Have a tar wait for the next archive of each mount."""
        for prepared in self._mounts:
            if prepared.unpacking is None and not prepared.mount.read_only:
                prepared.unpacking = Unpacking(prepared.root)
        for prepared in self._mounts:
            if prepared.unpacking is not None:
                prepared.unpacking.wait_ready()

    def external_mounts(self) -> tuple[tuple[str, str], ...]:
        """(mount point in the container, what CRIU is to bind there)."""
        return tuple((prepared.mount.path, str(prepared.place)) for prepared in self._mounts)
