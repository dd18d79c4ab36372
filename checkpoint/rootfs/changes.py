"""Which files of a tree changed since a moment, found by looking, not by guessing from mtime."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from checkpoint.host import proc

#: (mode, size, mtime_ns, ctime_ns, inode, uid, gid)
Signature = tuple[int, int, int, int, int, int, int]
Attributes = tuple[tuple[str, bytes], ...]
MODE, MTIME, INODE = 0, 2, 4
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

    root: Path
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


def snapshot(root: Path, *, attributes: bool = True) -> Snapshot:
    """Walk `root` without leaving its file system. What vanishes during the walk is left out.

    Only the earlier one of two snapshots needs the `attributes`.
    """
    taken_ns = time.time_ns()
    files: dict[str, Signature] = {}
    directories: dict[str, Attributes] = {}
    device = root.stat().st_dev
    pending = [""]
    while pending:
        directory = pending.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(root / directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    path = f"{directory}/{entry.name}" if directory else entry.name
                    # Of directories only: on an overlay files have other devices than it has.
                    mounted = stat.S_ISDIR(found.st_mode) and found.st_dev != device
                    files[path] = MOUNT_POINT if mounted else _signature(found)
                    if stat.S_ISDIR(found.st_mode) and found.st_dev == device:
                        pending.append(path)
                        if attributes:
                            directories[path] = _attributes(entry.path)
    return Snapshot(root=root, taken_ns=taken_ns, files=files, attributes=directories)


def changes(before: Snapshot, after: Snapshot, always: Iterable[str] = ()) -> Changes:
    """What to copy and what to delete so that a copy made since `before` was taken equals `after`.

    `always` names files that may have changed without a trace in their time stamps.
    """
    recent_ns = before.taken_ns - TICK_NS
    changed = {
        path
        for path, signature in after.files.items()
        if before.files.get(path) != signature or signature[3] >= recent_ns
    }
    changed |= set(always) & after.files.keys()
    removed = before.files.keys() - after.files.keys()
    # A name that changed its type must go first: rsync does not replace a full directory by a file.
    retyped = {
        path
        for path in changed & before.files.keys()
        if stat.S_IFMT(before.files[path][0]) != stat.S_IFMT(after.files[path][0])
    }
    touched = {path for path in changed if _only_touched(path, before, after)}
    changed, gone = changed - touched, removed | retyped
    # Copying into a directory and deleting from it touch it, too.
    touched |= {os.path.dirname(path) for path in changed | gone} & after.files.keys() - changed
    return Changes(
        changed=tuple(sorted(changed)),
        removed=tuple(sorted(gone)),
        directories=tuple((path, after.files[path][MTIME]) for path in sorted(touched)),
    )


def _only_touched(path: str, before: Snapshot, after: Snapshot) -> bool:
    """Whether it is the same directory with the same owner, mode and attributes."""
    old, new = before.files.get(path), after.files[path]
    same = old is not None and (old[MODE], *old[INODE:]) == (new[MODE], *new[INODE:])
    return same and stat.S_ISDIR(new[MODE]) and before.attributes.get(path) == _attributes(after.root / path)


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


def _attributes(path: str | Path) -> Attributes:
    with contextlib.suppress(OSError):
        names = sorted(os.listxattr(path, follow_symlinks=False))
        return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    return ()


def _signature(found: os.stat_result) -> Signature:
    return (
        found.st_mode,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_ino,
        found.st_uid,
        found.st_gid,
    )
