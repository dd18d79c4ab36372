"""Tests of migrate/guardian/recovery.py: a power cut at every write of a journal.

The next start ends the migration rightly each time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.files.made import MadeDirectory
from checkpoint.host import proc
from checkpoint.host.identity import PathRecord
from migrate.agent.control import ABORT_PROVED, GO, Outcome
from migrate.guardian import recovery
from migrate.journal import book, cut_off
from migrate.journal.book import MigrationJournal
from migrate.journal.records import SOURCE, TARGET
from tests.unit.helpers.begun import BOOT, begun
from tests.unit.migrate.guardian.scene import Far


def synced(kept: MigrationJournal, state: str) -> None:
    kept.entered(state)
    kept.sync()


#: What a coordinator writes, in order, and what the source must say to the target after a power cut
#: that comes right then: in the freeze the container failed with its host until it was killed.
WRITES: list[tuple[str, Callable[[MigrationJournal], object], list[str]]] = [
    ("begun", lambda _: None, []),
    ("planned", lambda kept: kept.entered("planned"), []),
    ("prepared", lambda kept: kept.entered("prepared"), []),
    ("armed", lambda kept: synced(kept, "armed"), [ABORT_PROVED]),
    ("frozen", lambda kept: kept.entered("frozen"), [ABORT_PROVED]),
    ("held", lambda kept: kept.entered("held"), [ABORT_PROVED]),
    ("killing", lambda kept: kept.must_enter("killing"), [ABORT_PROVED]),
    ("killed", lambda kept: synced(kept, "killed"), [GO]),
    ("resumed", lambda kept: kept.entered("resumed"), [GO]),
    ("done", lambda kept: kept.end("done"), []),
]


@pytest.fixture(params=[False, True])
def cut(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], None]]:
    """Yield what cuts the power; also with a copy of the journal that was half written."""

    def cut() -> None:
        shutil.rmtree(book.RAM)
        if request.param:
            (book.DIRECTORY / ".0123456789ab.source.999999.new").write_text("00000000 {half")
        monkeypatch.setattr(proc, "boot_id", lambda: BOOT.replace("0", "9"))

    monkeypatch.setattr(proc, "boot_id", lambda: BOOT)
    yield cut
    assert list(book.DIRECTORY.glob(".*")) == []


@pytest.mark.parametrize("last", range(len(WRITES)), ids=[name for name, _, _ in WRITES])
def test_a_source_knows_what_the_target_is_to_do(
    tmp_path: Path, cut: Callable[[], None], last: int
) -> None:
    with MigrationJournal(begun()) as kept:
        for _, write, _ in WRITES[: last + 1]:
            write(kept)
    cut()
    log, told = tmp_path / "said", list[str]()
    far = Far(log, Outcome.OK)
    recovery.end_all(lambda _: far.connect(), told.append)
    cut_off.sweep(told.append)
    assert (log.read_text().split("\n")[:-1] if log.exists() else []) == WRITES[last][2]
    [found] = book.listed()
    assert found.account.ended is not None
    assert found.account.ended.outcome == ("done" if last >= 7 else "rolled back")


@pytest.mark.parametrize("state", ["prepared", "armed", "held", "resumed", "synced", "finished"])
def test_a_target_keeps_the_files_of_what_the_source_may_have_removed(
    tmp_path: Path, cut: Callable[[], None], state: str
) -> None:
    """The source removes nothing before the target has synced that it runs the container."""
    files = tmp_path / "rootfs"
    states = ["prepared", "armed", "held", "resumed", "synced", "finished"]
    with MigrationJournal(begun(TARGET, boot_id=BOOT)) as kept:
        files.mkdir()
        kept.made(MadeDirectory(path=PathRecord.of(files), whole=True))
        for entered in states[: states.index(state) + 1]:
            if entered == "synced":
                kept.sync()
            elif entered == "finished":
                kept.end(entered)
            else:
                kept.entered(entered)
    cut()
    cut_off.sweep(lambda _: None)
    assert files.exists() is (state in ("synced", "finished"))
    [found] = book.listed()
    assert found.account.ended is not None
    assert found.account.begun.side != SOURCE
