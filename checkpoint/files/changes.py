"""Comparison of two looks at a tree: which files changed, judged by more than their mtime."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, NamedTuple

from checkpoint.bounded import FileTime, Size, TreePath
from checkpoint.files import beneath
from checkpoint.files.beneath import Attributes, TreeRoot
from checkpoint.host import proc
from checkpoint.schema import Range

#: (mode, size, mtime_ns, ctime_ns, inode, uid, gid, number of names)
Signature = tuple[int, int, int, int, int, int, int, int]
MODE, MTIME, CTIME, INODE, LINKS = 0, 2, 3, 4, 7
#: The signature of a directory on which something is mounted, which is not part of the tree.
MOUNT_POINT: Signature = (0, 0, 0, 0, 0, 0, 0, 0)
#: Time stamps of files may be older than the clock by a tick before Linux 6.13. A tick is 10 ms at
#: HZ=100; twice that is allowed for.
TICK_NS = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of a tree at one look: relative path -> signature; "" is the root itself.

    `taken_ns` is CLOCK_REALTIME in ns before the walk. `attributes` are the extended attributes,
    ACLs among them, of directories, by path. Directories need them, because the
    change time of a directory also moves when its entries change. The change time of a file tells
    by itself that its attributes may have changed.
    """

    root: TreeRoot
    taken_ns: int
    files: dict[str, Signature]
    attributes: dict[str, Attributes]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The work that makes a copy equal to a tree, in relative paths, parents before children.

    "" is the root itself, which is never in `removed`.

    `removed` is to be deleted first, then `changed` is to be copied. `directories` are (path,
    mtime_ns) of directories of which only the time of modification differs, or will differ because
    of the copying and deleting. For that reason these times are to be set last. (CRIU itself
    touches /tmp in every dump.)
    """

    changed: tuple[str, ...]
    removed: tuple[str, ...]
    directories: tuple[tuple[str, int], ...]


def snapshot(root: TreeRoot, *, attributes: bool = True) -> Snapshot:
    """Return the state of a tree, as far as it is on the file system of its root.

    A file that vanishes during the walk is left out. `attributes` are only needed in the earlier of
    two snapshots that are compared. Raises OSError.
    """
    taken_ns = time.time_ns()
    state = os.fstat(root.fd)
    files = {"": signature(state)}
    directories: dict[str, Attributes] = {}
    for directory, fd, entries in root.walk():
        if attributes:
            directories[directory] = beneath.attributes(fd)
        for path, found in entries:
            mounted = _is_mount_point(found, state.st_dev)
            files[path] = MOUNT_POINT if mounted else signature(found)
    return Snapshot(root=root, taken_ns=taken_ns, files=files, attributes=directories)


def _is_mount_point(found: os.stat_result, device: int) -> bool:
    """Return whether something is mounted on an entry of a tree whose root has this st_dev.

    The device tells that only of directories: on an overlay, files have other devices than the
    overlay itself.
    """
    return found.st_dev != device and stat.S_ISDIR(found.st_mode)


class FileState(NamedTuple):
    """One file of a copy on the target: its path, mode with type, size and time of modification.

    `size` is in bytes for regular files and symlinks, otherwise 0. `mtime_s` is in seconds, because
    rsync and tar make times equal in seconds only; it is 0 for directories.
    """

    path: TreePath
    mode: Annotated[int, Range(0, 0o177777)]
    size: Size
    mtime_s: FileTime

    @classmethod
    def of(cls, path: str, signature: Signature) -> FileState:
        """Return the state that a true copy of a file with this signature has."""
        mode, size, mtime_ns = signature[:3]
        sized = stat.S_ISREG(mode) or stat.S_ISLNK(mode)
        return cls(path, mode, size if sized else 0, 0 if stat.S_ISDIR(mode) else mtime_ns // 10**9)


def listing(root: TreeRoot) -> Iterator[FileState]:
    """Yield the state of each file of a copy, the root's first, while the walk goes on.

    Mount points are left out. Raises OSError.
    """
    state = os.fstat(root.fd)
    yield FileState.of("", signature(state))
    for _, _, entries in root.walk():
        for path, found in entries:
            if not _is_mount_point(found, state.st_dev):
                yield FileState.of(path, signature(found))


def differing(
    looked_at: Snapshot, sent: Iterable[str], copies: Iterable[FileState]
) -> dict[str, int]:
    """Return the sent files whose copies differ from the source: path -> mode on the target.

    `looked_at` is the snapshot of the source before the files `sent` were copied; files that it
    lacks, and mount points, are ignored. `copies` is what the target has. The mode is 0 if the
    target has no such file. A copy can differ because a container may swap directories between the
    look and the copy, and back.
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
    """Return what to copy and delete, so that a copy made after `before` was taken equals `after`.

    `always` are files that may have changed without a trace in their time stamps. `sent` are the
    files that were copied since `before` was taken; `wrong` is what `differing` returned for them.
    """
    recent_ns = before.taken_ns - TICK_NS
    changed = {
        path
        for path, signature in after.files.items()
        if before.files.get(path) != signature or signature[CTIME] >= recent_ns
    }
    changed |= {*always, *wrong, *_below_moved(after, recent_ns, sent)} & after.files.keys()
    changed |= _other_names(after, changed)
    removed = before.files.keys() - after.files.keys()
    # A path that changed its type is removed first: rsync does not replace a directory that has
    # content by a file.
    types = {path: before.files[path][MODE] for path in changed & before.files.keys()} | dict(wrong)
    retyped = {
        path
        for path, mode in types.items()
        if mode and path in changed and stat.S_IFMT(mode) != stat.S_IFMT(after.files[path][MODE])
    }
    touched = {path for path in changed - wrong.keys() if _only_touched(path, before, after)}
    changed, gone = changed - touched, removed | retyped
    # Copying into a directory and deleting from it change its time of modification on the target.
    touched |= {os.path.dirname(path) for path in changed | gone} & after.files.keys() - changed
    return Changes(
        changed=tuple(sorted(changed)),
        removed=tuple(sorted(gone)),
        directories=tuple((path, after.files[path][MTIME]) for path in sorted(touched)),
    )


def _other_names(after: Snapshot, changed: Iterable[str]) -> set[str]:
    """Return all names of the files of `changed` that have several (hard links).

    A file that is copied under one of its names only would be two files on the target. Files of an
    overlay may have the same inode by chance; then one is copied that need not be.
    """
    linked = {
        signature[INODE]
        for signature in (after.files[path] for path in changed)
        if signature[LINKS] > 1 and not stat.S_ISDIR(signature[MODE])
    }
    if not linked:
        return set()
    return {path for path, signature in after.files.items() if signature[INODE] in linked}


def _below_moved(after: Snapshot, recent_ns: int, sent: Iterable[str]) -> Iterator[str]:
    """Yield the files of `sent` below a directory that may have been renamed since `recent_ns`.

    When such a file was copied, its path may have led through another directory. A rename of a
    directory sets its change time, but not its time of modification. (A new entry in the directory
    sets both. A container that hides a rename in this way mixes up only its own files.)
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
    """Return whether `path` is the same directory still, with the same owner, mode and attributes.

    The attributes are read from the tree now, because `after` need not have them.
    """
    old, new = before.files.get(path), after.files[path]
    same = old is not None and (old[MODE], *old[INODE:LINKS]) == (new[MODE], *new[INODE:LINKS])
    return (
        same
        and stat.S_ISDIR(new[MODE])
        and before.attributes.get(path) == after.root.attributes(path)
    )


def written_through_mappings(pids: Iterable[int]) -> set[str]:
    """Return the paths of files that these processes have mapped shared and writable.

    Paths are relative to the root of the processes. Processes that have ended are ignored. Stores
    through such a mapping need not change the time stamps of the file: on tmpfs only a store that
    begins with a page fault does (mm/memory.c), and on ext4, xfs and btrfs only the first store to
    a page. Raises ProcError.
    """
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for mapping in proc.mappings(pid):
                if mapping.permissions[:2] == "rw" and mapping.permissions[3] == "s":
                    with contextlib.suppress(OSError):  # the file is not mapped any more
                        found.add(proc.mapped_file(pid, mapping).lstrip("/"))
    return found


def below(directory: str, paths: Iterable[str]) -> set[str]:
    """Return those of `paths` that are below `directory`, relative to it.

    `directory` and `paths` are relative to the same root.
    """
    inside = f"{directory.strip('/')}/".lstrip("/")
    return {path.removeprefix(inside) for path in paths if path.startswith(inside)}


def signature(found: os.stat_result) -> Signature:
    """Return what snapshots compare of a file."""
    return (
        found.st_mode,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_ino,
        found.st_uid,
        found.st_gid,
        found.st_nlink,
    )
