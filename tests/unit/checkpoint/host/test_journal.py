"""Tests of checkpoint/host/journal.py: what a power cut, a full disk and another process leave."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from checkpoint.errors import DataInvalid
from checkpoint.host import journal
from checkpoint.host.journal import Journal, Place
from tests.unit.helpers.checkout import ROOT

OWNER = "tests.unit.checkpoint.host.programs.journal_owner"
ENTRIES: list[dict[str, Any]] = [
    {"state": "armed", "at": 1},
    {"state": "höld\n", "what": ["a", {"b": None}]},
    {},
]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return the place of a journal that has ENTRIES, in RAM and on disk."""
    with Journal(in_directory(tmp_path)) as written:
        for entry in ENTRIES:
            written.append(entry)
        written.sync()
    return written.place


def in_directory(directory: Path) -> Place:
    for name in ("ram", "disk"):
        (directory / name).mkdir()
    name = "0123456789ab.source"
    return Place(ram=directory / "ram" / name, disk=directory / "disk" / name)


def cut_power(place: Place) -> None:
    """Lose what is in RAM."""
    place.ram.unlink(missing_ok=True)


def test_what_was_appended_is_read_again(place: Place) -> None:
    assert journal.read(place)[0] == ENTRIES
    with Journal(place) as again:
        assert again.entries == ENTRIES
        again.append({"state": "done"})
    assert journal.read(place)[0] == [*ENTRIES, {"state": "done"}]
    for path in (place.ram, place.disk):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_power_cut_leaves_what_was_synced(place: Place) -> None:
    with Journal(place) as again:
        again.append({"state": "frozen"})
    cut_power(place)
    assert journal.read(place)[0] == ENTRIES
    assert not journal.has_owner(place)
    with Journal(place) as after:
        assert after.entries == ENTRIES
        after.append({"state": "rolled back"})
        assert journal.read(place)[0] == [*ENTRIES, {"state": "rolled back"}]


def test_a_retired_journal_is_on_disk_alone(place: Place) -> None:
    with Journal(place) as again:
        again.append({"state": "done"})
        again.retire()
        assert not journal.has_owner(place)
    assert not place.ram.exists()
    assert journal.read(place)[0] == [*ENTRIES, {"state": "done"}]


def test_a_journal_that_is_retired_while_it_is_waited_for_is_opened_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file in RAM is nobody's then."""
    first, flock = Journal(place), fcntl.flock

    def retired_first(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.append({"state": "done"})
        first.retire()
        first.close()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", retired_first)
    with Journal(place) as second:
        assert second.entries == [*ENTRIES, {"state": "done"}]
        second.append({"state": "again"})
    assert journal.read(place)[0] == [*ENTRIES, {"state": "done"}, {"state": "again"}]


def test_a_disk_that_is_full_keeps_the_copy_that_was_there(mounted: Path, tmp_path: Path) -> None:
    place = in_directory(mounted)
    ram = Path(f"{tmp_path}-ram")
    with Journal(Place(ram=ram, disk=place.disk)) as written:
        written.append(ENTRIES[0])
        written.sync()
        (mounted / "filler").write_bytes(bytes((64 << 20) - 16384))
        written.append({"much": "x" * (1 << 20)})
        with pytest.raises(OSError, match="No space left"):
            written.sync()
        assert journal.read(written.place)[0] == written.entries
    ram.unlink()
    assert journal.read(written.place)[0] == ENTRIES[:1]


def test_a_journal_that_ends_anywhere_has_the_entries_before(place: Place) -> None:
    content = place.disk.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content)):
        whole = sum(end <= size for end in ends)
        assert journal.entries_in(content[:size]) == ENTRIES[:whole]
        # A file system may have grown the file without its content.
        assert journal.entries_in(content[:size] + bytes(100)) == ENTRIES[:whole]


def test_no_altered_byte_goes_unseen(place: Place) -> None:
    content = place.disk.read_bytes()
    for index in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[index] ^= 1 << bit
            if index == len(content) - 1:  # without its newline the last line is a piece of one
                assert journal.entries_in(bytes(damaged)) == ENTRIES[:-1]
                continue
            with pytest.raises(DataInvalid, match=r"line \d is damaged"):
                journal.entries_in(bytes(damaged))


def test_an_entry_that_was_lost_or_put_elsewhere_is_damage(place: Place) -> None:
    """The entries before it are not all that the journal has come to."""
    first, second, third = place.disk.read_bytes().splitlines(keepends=True)
    for content in (first + third, first + second + second + third, second + first):
        with pytest.raises(DataInvalid):
            journal.entries_in(content)


@pytest.mark.parametrize("text", [b"7", b"[]", b"{", b"", b"[" * 100_000])
def test_only_objects_are_entries(text: bytes) -> None:
    with pytest.raises(DataInvalid):
        journal.entries_in(b"%08x %s\n" % (zlib.crc32(text), text))


@pytest.mark.parametrize("of_ram", [True, False])
def test_the_next_owner_goes_on_after_the_last_sound_entry(place: Place, of_ram: bool) -> None:
    if not of_ram:
        cut_power(place)
    with (place.ram if of_ram else place.disk).open("ab") as file:
        file.write(b"deadbeef {torn")
    with Journal(place) as again:
        assert again.entries == ENTRIES
        again.append({"state": "rolled back"})
        again.sync()
    cut_power(place)
    assert journal.read(place)[0] == [*ENTRIES, {"state": "rolled back"}]


def test_full_memory_leaves_the_entries_that_were_there(mounted: Path) -> None:
    with Journal(in_directory(mounted)) as written:
        written.append(ENTRIES[0])
        with pytest.raises(OSError, match="No space left"):
            written.append({"much": "x" * (65 << 20)})
        assert written.entries == ENTRIES[:1]
        written.append(ENTRIES[1])
    assert journal.read(written.place)[0] == ENTRIES[:2]


def test_one_process_at_a_time_owns_a_journal(place: Place) -> None:
    assert not journal.has_owner(place)
    with Journal(place):
        assert journal.has_owner(place)
        with pytest.raises(BlockingIOError):
            Journal(place)
    assert not journal.has_owner(place)


def test_a_journal_without_its_process_is_without_an_owner(place: Place) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", OWNER, str(place.ram), str(place.disk)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        assert journal.has_owner(place)
        os.kill(owner.pid, signal.SIGKILL)
        owner.communicate()
    assert not journal.has_owner(place)
    assert journal.read(place)[0] == [*ENTRIES, {"state": "held"}]


def test_a_symlink_is_no_journal(place: Place) -> None:
    linked = Place(ram=place.ram.with_name("link"), disk=place.disk.with_name("link"))
    linked.ram.symlink_to(place.ram)
    for look in (Journal, journal.read, journal.has_owner):
        with pytest.raises(OSError, match="symbolic links"):
            look(linked)
    linked.ram.unlink()
    linked.disk.symlink_to(place.disk)
    for look in (Journal, journal.read):
        with pytest.raises(OSError, match="symbolic links"):
            look(linked)
