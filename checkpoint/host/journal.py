"""Journals: files that outlive a task, its process and its host, and say what it has done.

A journal is a sequence of entries, which are JSON objects. Each entry is a line of its own, with a
checksum in front: the CRC-32 (zlib) of this entry and of all before it. So an entry that was torn,
altered, lost or put elsewhere ends the journal, and all entries before it are sound.

A journal is written in RAM, where no disk that hangs or is full keeps anybody waiting, and copied
to disk by `sync`. An entry outlives this process once `append` returns, and this host once `sync`
does. After a reboot only the copy on disk is there. The owner of a journal holds flock(2) on the
file in RAM, so that a journal without an owner is one whose task was cut off. A descriptor that
another process inherits keeps the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint.errors import DataInvalid
from checkpoint.host import whole

#: A reader takes no more of a file: a journal has some hundred entries of some hundred bytes, and a
#: description of the container (MAX_HEADER of transport/framing.py bounds that).
MOST_BYTES = 16 << 20
#: The checksum has so many hexadecimal digits, and a space follows it.
CHECKSUM_DIGITS = 8
MODE = 0o600
#: How long after a look at the lock that found it taken the next look comes.
LOOK_AGAIN_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a journal is: the file in RAM, and its copy on disk. Either may be missing."""

    ram: Path
    disk: Path

    @property
    def name(self) -> str:
        return self.disk.name

    def exists(self) -> bool:
        return self.ram.exists() or self.disk.exists()

    def unlink(self) -> None:
        """Remove both files, if they are there. Raises OSError."""
        self.ram.unlink(missing_ok=True)
        self.disk.unlink(missing_ok=True)


class Journal:
    """A journal that this process has open to append to. Use it as a context, or close it.

    `entries` are those that the journal has, also those that were there before.
    """

    def __init__(self, place: Place) -> None:
        """Open the journal, which is made if it is missing, and become its owner.

        What follows the last sound entry is cut off. Raises BlockingIOError if another process owns
        the journal, and OSError.
        """
        fd = _owned(place.ram)
        try:
            if not os.fstat(fd).st_size and place.disk.exists():
                whole.write(fd, _content_of(place.disk))
            self._read(place, fd)
        except BaseException:
            if not os.fstat(fd).st_size:
                place.ram.unlink(missing_ok=True)
            os.close(fd)
            raise

    @classmethod
    def inherited(cls, place: Place, fd: int) -> Journal:
        """Return the journal that another process has owned by the same open file.

        `fd` is a copy of that process's descriptor. Raises OSError.
        """
        found = cls.__new__(cls)
        found._read(place, fd)
        return found

    def _read(self, place: Place, fd: int) -> None:
        self.place, self._fd, self._syncing = place, fd, threading.Lock()
        self.entries, self._end, self._checksum = _sound(_content(fd))
        os.ftruncate(fd, self._end)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor that holds the lock."""
        return self._fd

    def append(self, entry: Mapping[str, Any]) -> None:
        """Append an entry. Raises OSError; the journal then has the entries before and no more."""
        line, checksum = line_of(entry, self._checksum)
        try:
            whole.write(self._fd, line)
        except BaseException:
            # The next entry must not follow a piece of this one.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise
        self._end += len(line)
        self._checksum = checksum
        self.entries.append(json.loads(line[CHECKSUM_DIGITS + 1 :]))

    def sync(self) -> None:
        """Copy all entries to disk. Raises OSError: the copy then is as it was before."""
        with self._syncing:
            whole.replace(self.place.disk, _content(self._fd), MODE)
            sync_directory(self.place.disk.parent)

    def retire(self) -> None:
        """Copy all entries to disk, and remove the file in RAM: there will be no more.

        Raises OSError: the file in RAM stays then.
        """
        self.sync()
        self.place.ram.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the journal up. The files stay."""
        fd, self._fd = self._fd, -1  # a `sync` in another thread fails then
        os.close(fd)


def line_of(entry: Mapping[str, Any], before: int) -> tuple[bytes, int]:
    """Return the line of an entry, and the checksum up to it. `before` is that of the last one."""
    text = json.dumps(entry, separators=(",", ":"), allow_nan=False).encode()
    checksum = zlib.crc32(text, before)
    return b"%0*x %s\n" % (CHECKSUM_DIGITS, checksum, text), checksum


def entries_in(content: bytes) -> list[dict[str, Any]]:
    """Return the sound entries in the content of a journal. Raises DataInvalid."""
    return _sound(content)[0]


def read(place: Place) -> tuple[list[dict[str, Any]], bool]:
    """Return the entries of a journal, which another process may own, and whether RAM has them.

    Those on disk may lack the last ones. Raises OSError, and DataInvalid for a damaged journal.
    """
    with contextlib.suppress(FileNotFoundError):
        if content := _content_of(place.ram):  # without any it is about to be read from disk
            return entries_in(content), True
    return entries_in(_content_of(place.disk)), False


def has_owner(place: Place) -> bool:
    """Return whether a process owns the journal. Raises OSError."""
    try:
        fd = os.open(place.ram, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        # A shared lock: two processes that look at once do not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _owned(path: Path) -> int:
    """Open a file in RAM, which is made if it is missing, and return a descriptor with its lock.

    Raises BlockingIOError if another process owns the journal, and OSError.
    """
    while True:
        fd = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, MODE
        )
        try:
            _own(fd)
            if path.exists() and os.path.samestat(os.fstat(fd), path.lstat()):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its owner has retired it meanwhile


def _own(fd: int) -> None:
    """Take the lock of a journal. Raises BlockingIOError if another process owns the journal.

    `has_owner` of another process holds the lock for a moment, too: hence the second try.
    """
    for _ in range(2):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(LOOK_AGAIN_S)
    return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync_directory(path: Path) -> None:
    """Have the file system write the names in a directory to its device. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _content_of(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return _content(fd)
    finally:
        os.close(fd)


def _content(fd: int) -> bytes:
    content = bytearray(min(os.fstat(fd).st_size, MOST_BYTES))
    whole.pread(fd, memoryview(content), 0)
    return bytes(content)


def _sound(content: bytes) -> tuple[list[dict[str, Any]], int, int]:
    """Return the sound entries, where the last of them ends, and its checksum.

    A writer that is killed leaves a piece of a line at the end. Raises DataInvalid for a whole line
    that is not sound: what the journal has come to cannot be known then.
    """
    entries: list[dict[str, Any]] = []
    end = checksum = 0
    for number, line in enumerate(_lines(content), 1):
        digits, _, text = line.partition(b" ")
        following = zlib.crc32(text, checksum)
        if digits != b"%0*x" % (CHECKSUM_DIGITS, following) or (entry := _entry(text)) is None:
            raise DataInvalid(f"its line {number} is damaged")
        entries.append(entry)
        end, checksum = end + len(line) + 1, following
    return entries, end, checksum


def _entry(text: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text)
        return found if isinstance(found, dict) else None
    return None


def _lines(content: bytes) -> Iterator[bytes]:
    """Yield the lines that a newline ends, without the newline."""
    *lines, _ = content.split(b"\n")
    yield from lines
