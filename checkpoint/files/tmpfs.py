"""A container's tmpfs mounts: made and filled on the target ahead of the restore.

CRIU is given these mounts as external ones. By itself, CRIU would run tar and gzip for each mount
while the container is frozen, and again in the restore (criu/filesystems.c, tmpfs_dump); a
runtime's default container has four. This module archives the content in the same way, with tar.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Annotated

from checkpoint.bounded import ContainerPath
from checkpoint.errors import CommandFailed
from checkpoint.files.beneath import TreeRoot
from checkpoint.files.complaints import Complaints
from checkpoint.files.enclosure import TREE, Gate, start_enclosed
from checkpoint.host import proc
from checkpoint.host.run import run
from checkpoint.host.worker import Worker
from checkpoint.schema import Pattern, Range

#: Options of a tmpfs (tmpfs(5)), separated by commas.
MountOptions = Annotated[str, Pattern(r'[A-Za-z0-9_=,:.%"-]{0,1024}')]
#: The position of a mount among those that the target has made.
TmpfsIndex = Annotated[int, Range(0, 4095)]
#: The unit of st_blocks (stat(2)), on every file system.
STAT_BLOCK_BYTES = 512
PIECE_BYTES = 1 << 20
PRESERVE = ("--sparse", "--numeric-owner", "--preserve-permissions", "--warning=none")
CREATE = ("--create", "--no-recursion", "--null", "--files-from=-")


@dataclass(frozen=True, kw_only=True)
class Tmpfs:
    """A tmpfs mount of a container.

    `path` is the mount point in the container. `options` are those that mountinfo has for the file
    system (proc_pid_mountinfo(5)). `device` is the st_dev of the files in the mount, 0 if unknown.
    """

    path: ContainerPath
    options: MountOptions
    device: int = 0

    @property
    def read_only(self) -> bool:
        return "ro" in self.options.split(",")


def tmpfs_mounts(pid: int, pids: Iterable[int]) -> list[Tmpfs]:
    """Return the tmpfs mounts of a container that can be made on the target ahead of the restore.

    `pid` is the container's init and `pids` are all its processes. Each mount returned shows its
    whole file system, is the only one that does, is alone at its mount point, and is shared with
    nobody. Returns [] if the container uses several mount namespaces, or a user namespace: the
    mounts would have to belong to that namespace. Raises OSError and ProcError.
    """
    if len({_namespace(each, "mnt") for each in pids} - {None}) != 1:
        return []
    if _namespace(pid, "user") != _namespace(os.getpid(), "user"):
        return []
    mounts = proc.mounts(pid)
    devices = Counter(mount.device for mount in mounts if mount.root == "/")
    points = Counter(mount.point for mount in mounts)
    return [
        _tmpfs(mount)
        for mount in mounts
        # The optional fields of mountinfo name the peer groups that a mount is shared with.
        if not mount.propagation
        and mount.kind == "tmpfs"
        and mount.root == "/"
        and mount.point != "/"
        if devices[mount.device] == 1 and points[mount.point] == 1
    ]


def _tmpfs(mount: proc.Mount) -> Tmpfs:
    device = os.makedev(*map(int, mount.device.split(":")))
    return Tmpfs(path=mount.point, options=mount.options, device=device)


def exchanged(pid: int, mounts: Iterable[Tmpfs]) -> list[str]:
    """Return the paths at which process `pid` does not have these mounts any more, as they were.

    Something else is mounted there, or nothing, or the mount has other options. Raises OSError.
    """
    found = {_tmpfs(mount) for mount in proc.mounts(pid)}
    return [mount.path for mount in mounts if mount not in found]


def content_bytes(pid: int, mounts: Iterable[Tmpfs]) -> int:
    """Return how many bytes of RAM the files in these mounts of process `pid` take.

    A mount that is gone by now counts as 0.
    """
    total = 0
    for mount in mounts:
        with contextlib.suppress(OSError), TreeRoot.mounted(pid, mount.path, mount.device) as tree:
            total += bytes_in(tree)
    return total


def bytes_in(tree: TreeRoot) -> int:
    """Return how many bytes of RAM the files in the tmpfs `tree` take. Raises OSError."""
    found = os.fstatvfs(tree.fd)
    if found.f_blocks:
        return found.f_frsize * (found.f_blocks - found.f_bfree)
    # A tmpfs without a limit reports no blocks (shmem_statfs, mm/shmem.c).
    files = {state.st_ino: state for _, _, entries in tree.walk() for _, state in entries}
    return sum(state.st_blocks * STAT_BLOCK_BYTES for state in files.values())


def make(mount: Tmpfs, at: Path) -> None:
    """Mount an empty, private tmpfs with the options of `mount` at `at`, but writable.

    Raises CommandFailed.
    """
    options = ",".join(
        option for option in mount.options.split(",") if option not in ("ro", "seclabel")
    )
    run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)])
    run(["mount", "--make-private", str(at)])


def _namespace(pid: int, kind: str) -> int | None:
    with contextlib.suppress(OSError):  # the process is ending
        return os.stat(proc.path(pid, "ns", kind)).st_ino
    return None


class Packing:
    """A tar on the source, enclosed with one tmpfs of the container, that waits for file names.

    `root` is the tmpfs; `mount_namespace` is a descriptor of the container's mount namespace.
    """

    def __init__(self, root: TreeRoot, mount_namespace: int) -> None:
        # --directory applies only to the options that follow it.
        self._argv = [
            "tar",
            "--directory",
            TREE,
            *PRESERVE,
            *CREATE,
        ]
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
        self._complaints = Complaints(self._tar)

    def wait_ready(self) -> None:
        """Wait until tar runs and waits for names, or has ended.

        The start of tar takes processor time, which is not to be spent in the freeze.
        """
        self._gate.wait()

    def archive(self, names: Iterable[str], *, complete: bool) -> Iterator[bytes]:
        """Yield an archive of the files `names` in pieces of at most PIECE_BYTES.

        Names are relative to the root of the tmpfs, and "" is the root itself; a directory comes
        without its content. If `complete`, raises CommandFailed at the end if tar failed, for
        example because a file was missing. Otherwise tar's failure is ignored: files vanish while
        the container runs.
        """
        self.wait_ready()
        try:
            with self._tar as tar:
                assert tar.stdin is not None
                assert tar.stdout is not None
                listed = b"".join(os.fsencode(name or ".") + b"\0" for name in names)
                # In a thread of its own: tar may write output before it has read all names.
                writer = Worker("tar", partial(_write_all, tar.stdin, listed))
                while piece := tar.stdout.read(PIECE_BYTES):
                    yield piece
                writer.wait()
        finally:
            told = self._complaints.text()
        if complete and tar.returncode != 0:
            raise CommandFailed(self._argv, tar.returncode, told)

    def kill(self) -> None:
        """End tar without an archive. Harmless after `archive`."""
        self._tar.kill()
        self.wait_ready()
        with self._tar:
            self._complaints.text()


def _write_all(pipe: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), pipe:  # tar says why it ended on its standard error
        pipe.write(data)


class Unpacking:
    """A tar on the target, enclosed with the tree `root`, that waits for an archive."""

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
        self._complaints = Complaints(self._tar)

    def wait_ready(self) -> None:
        """Wait until tar runs and waits for the archive, or has ended."""
        self._gate.wait()

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Give tar the next piece of the archive. Raises CommandFailed if tar has ended."""
        assert self._tar.stdin is not None
        try:
            self._tar.stdin.write(piece)
            self._tar.stdin.flush()
        except (BrokenPipeError, ValueError):  # ValueError: an earlier piece has failed already
            self.finish()
            told = "it ended before the archive did"
            raise CommandFailed(self._argv, self._tar.returncode, told) from None

    def kill(self) -> None:
        """End tar before the archive is complete. Harmless after `finish`."""
        self._tar.kill()
        self.wait_ready()
        self._end()

    def finish(self) -> None:
        """End the archive after its last piece, and wait for tar. Raises CommandFailed."""
        self.wait_ready()
        told = self._end()
        if self._tar.returncode != 0:
            raise CommandFailed(self._argv, self._tar.returncode, told)

    def _end(self) -> str:
        """End the input of tar, and wait for its end; return what it complained of."""
        self._tar.communicate()
        return self._complaints.text()


class Prepared:
    """One tmpfs mount on the target: its place, its tree, and the tar that unpacks into it, if any.

    `unpacking` is that tar: waiting for an archive, or in the middle of one.
    """

    def __init__(self, mount: Tmpfs, place: Path) -> None:
        self.mount, self.place = mount, place
        self.root = TreeRoot(place)
        self.unpacking: Unpacking | None = None

    def close(self) -> None:
        if self.unpacking is not None:
            self.unpacking.kill()
        self.root.close()


class PreparedTmpfs:
    """The tmpfs mounts made on the target for one container, by index. Use as a context.

    They are mounted below `directory`/tmpfs, where CRIU takes them from for the restored container.
    The end of the context detaches them there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "tmpfs"
        self._mounts: list[Prepared] = []

    def __enter__(self) -> PreparedTmpfs:
        self._directory.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        for prepared in self._mounts:
            prepared.close()
            # A runtime may have unmounted it, together with the container that it had restored.
            if os.path.ismount(prepared.place):
                run(["umount", "--lazy", str(prepared.place)])

    def root(self, index: int) -> TreeRoot:
        """Return the tree of the mount with this index."""
        return self._mounts[index].root

    def make(self, mount: Tmpfs) -> None:
        """Make another mount, empty and writable; its index is the number of mounts made before.

        Raises CommandFailed, and counts no mount, if this kernel does not know the mount's options.
        """
        place = self._directory / str(len(self._mounts))
        place.mkdir(exist_ok=True)
        make(mount, place)
        self._mounts.append(Prepared(mount, place))

    def unpack(self, index: int, piece: bytes | bytearray | memoryview, *, last: bool) -> None:
        """Unpack the next piece of an archive into the mount with this index.

        After the `last` piece, wait for tar; a mount that is read-only in the container becomes
        read-only. Raises CommandFailed.
        """
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
        """Start a tar for each writable mount; wait until each of them waits for an archive."""
        for prepared in self._mounts:
            if prepared.unpacking is None and not prepared.mount.read_only:
                prepared.unpacking = Unpacking(prepared.root)
        for prepared in self._mounts:
            if prepared.unpacking is not None:
                prepared.unpacking.wait_ready()

    def external_mounts(self) -> tuple[tuple[str, str], ...]:
        """Return, for each mount, (mount point in the container, path that CRIU binds there)."""
        return tuple((prepared.mount.path, str(prepared.place)) for prepared in self._mounts)
