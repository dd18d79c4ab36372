"""Which files of a tree changed since a moment, found by looking, not by guessing from mtime."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, NamedTuple

from checkpoint.bounded import FileTime, RelativePath, Size
from checkpoint.host import proc
from checkpoint.rootfs import beneath
from checkpoint.rootfs.beneath import Attributes, TreeRoot
from checkpoint.schema import Range

#: (mode, size, mtime_ns, ctime_ns, inode, uid, gid)
Signature = tuple[int, int, int, int, int, int, int]
MODE, MTIME, CTIME, INODE = 0, 2, 3, 4
#: What is mounted there is not of this tree.
MOUNT_POINT: Signature = (0, 0, 0, 0, 0, 0, 0)
#: File time stamps may be that much older than the clock (one tick at HZ=100, before Linux 6.13).
TICK_NS = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of a tree: relative path -> signature. `taken_ns` is CLOCK_REALTIME before the walk.

    `attributes` are the extended attributes (ACLs are such) of directories: a file's change time tells
    when they change, a directory's also moves with what is in it.
    """

    root: TreeRoot
    taken_ns: int
    files: dict[str, Signature]
    attributes: dict[str, Attributes]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Relative paths, parents before children.

    `directories` are those of which only the time of modification is another, or will be: (path, mtime_ns). To be
    set last, since copying and deleting change it. CRIU itself touches /tmp in every dump.
    """

    changed: tuple[str, ...]
    removed: tuple[str, ...]
    directories: tuple[tuple[str, int], ...]


def snapshot(root: TreeRoot, *, attributes: bool = True) -> Snapshot:
    """Walk `root` without leaving its file system. What vanishes during the walk is left out.

    Only the earlier one of two snapshots needs the `attributes`.
    """
    taken_ns = time.time_ns()
    files: dict[str, Signature] = {}
    directories: dict[str, Attributes] = {}
    device = os.fstat(root.fd).st_dev
    for directory, fd, entries in root.walk():
        if attributes and directory:
            directories[directory] = beneath.attributes(fd)
        for path, found in entries:
            # Of directories only: on an overlay files have other devices than it has.
            mounted = found.st_dev != device and stat.S_ISDIR(found.st_mode)
            files[path] = MOUNT_POINT if mounted else signature(found)
    return Snapshot(root=root, taken_ns=taken_ns, files=files, attributes=directories)


class FileState(NamedTuple):
    """What the target has by a path: a copy's mode and type, the size of what has one, and when it was modified.

    Both programs that copy make times equal in seconds only.
    """

    path: RelativePath
    mode: Annotated[int, Range(0, 0o177777)]
    size: Size
    mtime_s: FileTime

    @classmethod
    def of(cls, path: str, signature: Signature) -> FileState:
        """Of a file that was looked at, so far as a copy is like it."""
        mode, size, mtime_ns = signature[:3]
        sized = stat.S_ISREG(mode) or stat.S_ISLNK(mode)
        return cls(path, mode, size if sized else 0, 0 if stat.S_ISDIR(mode) else mtime_ns // 10**9)


def differing(
    looked_at: Snapshot, sent: Iterable[str], copies: Iterable[FileState]
) -> dict[str, int]:
    """Which of the files sent are on the target other than they were looked at, and the mode each has there, or 0.

    A container may swap directories between the look and the copy, and back.
    """
    found = {copy.path: copy for copy in copies}
    wrong = {}
    for path in sent:
        signature = looked_at.files.get(path, MOUNT_POINT)
        copy = found.get(path)
        if signature != MOUNT_POINT and copy != FileState.of(path, signature):
            wrong[path] = copy.mode if copy is not None else 0
    return wrong


def changes(
    before: Snapshot,
    after: Snapshot,
    always: Iterable[str] = (),
    *,
    sent: Iterable[str] = (),
    wrong: Mapping[str, int] = MappingProxyType({}),
) -> Changes:
    """What to copy and what to delete so that a copy made since `before` was taken equals `after`.

    `always` names files that may have changed without a trace in their time stamps. `sent` are those that were copied
    since `before` was taken; `wrong` is what `differing` said of them.
    """
    recent_ns = before.taken_ns - TICK_NS
    changed = {
        path
        for path, signature in after.files.items()
        if before.files.get(path) != signature or signature[CTIME] >= recent_ns
    }
    changed |= {*always, *wrong, *_below_moved(after, recent_ns, sent)} & after.files.keys()
    removed = before.files.keys() - after.files.keys()
    # A name that changed its type must go first: rsync does not replace a full directory by a file.
    types = {path: before.files[path][MODE] for path in changed & before.files.keys()} | dict(wrong)
    retyped = {
        path
        for path, mode in types.items()
        if mode and path in changed and stat.S_IFMT(mode) != stat.S_IFMT(after.files[path][MODE])
    }
    touched = {path for path in changed - wrong.keys() if _only_touched(path, before, after)}
    changed, gone = changed - touched, removed | retyped
    # Copying into a directory and deleting from it touch it, too.
    touched |= {os.path.dirname(path) for path in changed | gone} & after.files.keys() - changed
    return Changes(
        changed=tuple(sorted(changed)),
        removed=tuple(sorted(gone)),
        directories=tuple((path, after.files[path][MTIME]) for path in sorted(touched)),
    )


def _below_moved(after: Snapshot, recent_ns: int, sent: Iterable[str]) -> Iterator[str]:
    """Those files whose way led through a directory that may have been another one when they were copied.

    A rename is seen at the directory renamed: its time of change, and not that of modification, is the rename's. (What
    comes into a directory sets both; a container that hides a rename so gets its own files mixed up.)
    """
    moved = {
        path
        for path, signature in after.files.items()
        if stat.S_ISDIR(signature[MODE])
        and signature[CTIME] >= recent_ns
        and signature[CTIME] != signature[MTIME]
    }
    if moved:
        for path in sent:
            parts = path.split("/")
            if any("/".join(parts[:depth]) in moved for depth in range(1, len(parts))):
                yield path


def _only_touched(path: str, before: Snapshot, after: Snapshot) -> bool:
    """Whether it is the same directory with the same owner, mode and attributes."""
    old, new = before.files.get(path), after.files[path]
    same = old is not None and (old[MODE], *old[INODE:]) == (new[MODE], *new[INODE:])
    return (
        same
        and stat.S_ISDIR(new[MODE])
        and before.attributes.get(path) == after.root.attributes(path)
    )


def written_through_mappings(pids: Iterable[int]) -> set[str]:
    """Files mapped shared and writable by these processes, relative to their root.

    Stores through such a mapping need not touch a file's time stamps (on tmpfs they never do).
    """
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for mapping in proc.mappings(pid):
                if mapping.permissions[:2] == "rw" and mapping.permissions[3] == "s":
                    with contextlib.suppress(OSError):  # it is not mapped any more
                        found.add(proc.mapped_file(pid, mapping).lstrip("/"))
    return found


def below(directory: str, paths: Iterable[str]) -> set[str]:
    """Those of `paths` that are below a directory, relative to it. Both are relative to the same root."""
    inside = f"{directory.strip('/')}/".lstrip("/")
    return {path.removeprefix(inside) for path in paths if path.startswith(inside)}


def signature(found: os.stat_result) -> Signature:
    """What is compared of a file."""
    return (
        found.st_mode,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_ino,
        found.st_uid,
        found.st_gid,
    )
