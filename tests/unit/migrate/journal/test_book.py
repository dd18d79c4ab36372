"""Tests of migrate/journal/book.py: the journals of a host, and what is left of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from checkpoint.host import journal, proc
from migrate.journal import book
from migrate.journal.book import MigrationJournal, listed
from migrate.journal.records import SOURCE, TARGET
from tests.unit.helpers.begun import ID, begun


def states() -> dict[str, tuple[str | None, bool, bool]]:
    """Return {file: (state, whether it has ended, whether it is owned)} of the journals."""
    return {
        each.place.name: (each.account.state, each.account.ended is not None, each.owned)
        for each in listed()
    }


def test_a_journal_is_listed_from_its_beginning_on(journals: Path) -> None:
    assert listed() == []
    with MigrationJournal(begun()) as kept:
        assert states() == {f"{ID}.source": (None, False, True)}
        kept.entered("prepared")
        assert states() == {f"{ID}.source": ("prepared", False, True)}
        kept.end("rolled back", "the link was lost")
    assert states() == {f"{ID}.source": ("rolled back", True, False)}
    [found] = listed()
    assert found.account.ended is not None
    assert found.account.ended.error == "the link was lost"
    assert journals.stat().st_mode & 0o777 == 0o700


def test_both_ends_of_a_migration_may_be_on_one_host() -> None:
    with MigrationJournal(begun(SOURCE)), MigrationJournal(begun(TARGET)):
        assert set(states()) == {f"{ID}.source", f"{ID}.target"}


def test_no_journal_is_begun_twice() -> None:
    with MigrationJournal(begun()):
        pass
    with pytest.raises(FileExistsError):
        MigrationJournal(begun())
    assert len(listed()) == 1


def test_a_full_disk_keeps_a_migration_from_beginning(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "DIRECTORY", mounted / "journal")
    (mounted / "journal").mkdir()
    (mounted / "filler").write_bytes(bytes((64 << 20) - 8192))
    with pytest.raises(OSError, match="No space left"):
        for number in range(64):
            MigrationJournal(begun(migration_id=f"{number:012x}")).close()


def test_a_full_disk_later_ends_no_migration(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with MigrationJournal(begun()) as kept:
        kept.entered("armed")
        monkeypatch.setattr(journal.Journal, "append", full)
        kept.entered("frozen")
        kept.end("done")
    assert [record.getMessage() for record in caplog.records] == [
        "the journal lacks 'frozen': [Errno 28] No space left on device",
        "the journal lacks its end: [Errno 28] No space left on device",
    ]
    assert states() == {f"{ID}.source": ("armed", False, False)}


def test_the_ended_ones_that_ended_last_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "MOST_ENDED", 2)
    for number, end_ms in enumerate([30, 10, 20, 40]):
        with MigrationJournal(begun(migration_id=f"{number:012x}")) as kept:
            monkeypatch.setattr(book, "now_ms", lambda end_ms=end_ms: end_ms)
            kept.end("done")
    with MigrationJournal(begun(migration_id="ba9876543210", at_ms=0)) as cut_off:
        cut_off.entered("killed")
    book.prune()
    assert set(states()) == {
        "000000000000.source",
        "000000000003.source",
        "ba9876543210.source",
    }


def test_pieces_of_copies_go_when_nobody_writes_them(journals: Path) -> None:
    journals.mkdir()
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    left = {f".{ID}.source.{ended.pid}.new", f".{ID}.source.{os.getpid()}.new", ".somebodys.new"}
    for name in left:
        (journals / name).touch()
    book.prune()
    assert {path.name for path in journals.iterdir()} == left - {f".{ID}.source.{ended.pid}.new"}


def test_a_file_that_is_no_journal_is_left_alone(
    journals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journals.mkdir()
    (journals / f"{ID}.source").write_text("what somebody wrote\n")
    assert listed() == []
    book.prune()
    assert (journals / f"{ID}.source").exists()
    assert "is no journal" in caplog.records[0].getMessage()


def test_a_journal_reads_the_same_to_who_writes_it() -> None:
    with MigrationJournal(begun()) as kept:
        kept.entered("held")
        assert kept.account() == listed()[0].account


@pytest.mark.parametrize("left", [None, b""], ids=["removed", "emptied"])
def test_what_was_in_ram_and_is_gone_in_the_same_boot_may_have_said_anything(
    journals: Path, left: bytes | None
) -> None:
    """The copy on disk may lack the kill: who believed it would drop the only copy."""
    with MigrationJournal(begun(boot_id=proc.boot_id())) as kept:
        kept.entered("armed")
        kept.sync()
        kept.entered("killed")
    [found] = listed()
    found.place.ram.unlink()
    if left is not None:
        found.place.ram.write_bytes(left)
    assert listed() == []
    assert book.find(ID, SOURCE) is None
    assert book.is_damaged(ID)
    assert not book.is_damaged("0" * 12)
