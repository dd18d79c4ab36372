"""Tests of checkpoint/host/journal.py: what a power cut, a full disk and another process leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from checkpoint.host import journal
from checkpoint.host.journal import Journal
from tests.unit.helpers.checkout import ROOT

OWNER = "tests.unit.checkpoint.host.programs.journal_owner"
ENTRIES: list[dict[str, Any]] = [
    {"state": "armed", "at": 1},
    {"state": "höld\n", "what": ["a", {"b": None}]},
    {},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Journal(tmp_path / "0123456789ab.source") as written:
        for entry in ENTRIES:
            written.append(entry)
        written.sync()
    return written.path


def test_what_was_appended_is_read_again(path: Path) -> None:
    assert journal.read(path) == ENTRIES
    with Journal(path) as again:
        assert again.entries == ENTRIES
        again.append({"state": "done"})
    assert journal.read(path) == [*ENTRIES, {"state": "done"}]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_journal_that_ends_anywhere_has_the_entries_before(path: Path) -> None:
    content = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content)):
        whole = sum(end <= size for end in ends)
        assert journal.entries_in(content[:size]) == ENTRIES[:whole]
        # A file system may have grown the file without its content.
        assert journal.entries_in(content[:size] + bytes(100)) == ENTRIES[:whole]


def test_no_altered_byte_goes_unseen(path: Path) -> None:
    content = path.read_bytes()
    for index in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[index] ^= 1 << bit
            found = journal.entries_in(bytes(damaged))
            assert found == ENTRIES[: content[:index].count(b"\n")]


def test_an_entry_that_was_lost_or_put_elsewhere_ends_the_journal(path: Path) -> None:
    first, second, third = path.read_bytes().splitlines(keepends=True)
    assert journal.entries_in(first + third) == ENTRIES[:1]
    assert journal.entries_in(first + second + second + third) == ENTRIES[:2]
    assert journal.entries_in(second + first) == []


@pytest.mark.parametrize("text", [b"7", b"[]", b"{", b"", b"[" * 100_000])
def test_only_objects_are_entries(text: bytes) -> None:
    assert journal.entries_in(b"%08x %s\n" % (zlib.crc32(text), text)) == []


def test_the_next_owner_goes_on_after_the_last_sound_entry(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"deadbeef {torn")
    with Journal(path) as again:
        assert again.entries == ENTRIES
        again.append({"state": "rolled back"})
    assert journal.read(path) == [*ENTRIES, {"state": "rolled back"}]


def test_a_full_disk_leaves_the_entries_that_were_there(mounted: Path) -> None:
    with Journal(mounted / "journal") as written:
        written.append(ENTRIES[0])
        with pytest.raises(OSError, match="No space left"):
            written.append({"much": "x" * (65 << 20)})
        assert written.entries == ENTRIES[:1]
        written.append(ENTRIES[1])
    assert journal.read(written.path) == ENTRIES[:2]


def test_one_process_at_a_time_owns_a_journal(path: Path) -> None:
    assert not journal.has_owner(path)
    with Journal(path):
        assert journal.has_owner(path)
        with pytest.raises(BlockingIOError):
            Journal(path)
    assert not journal.has_owner(path)


def test_a_journal_without_its_process_is_without_an_owner(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", OWNER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        assert journal.has_owner(path)
        os.kill(owner.pid, signal.SIGKILL)
        owner.communicate()
    assert not journal.has_owner(path)
    assert journal.read(path) == [*ENTRIES, {"state": "held"}]


def test_a_symlink_is_no_journal(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    for look in (Journal, journal.read, journal.has_owner):
        with pytest.raises(OSError, match="symbolic links"):
            look(link)
