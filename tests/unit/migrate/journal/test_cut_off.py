"""Tests of migrate/journal/cut_off.py: what killed migrations made is removed by the next one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from checkpoint.files.made import MadeDirectory
from checkpoint.host import proc
from checkpoint.host.identity import PathRecord
from checkpoint.host.journal import Journal
from checkpoint.network.netns import NetworkNamespace
from migrate.journal import book, cut_off
from migrate.journal.account import CUT_OFF
from migrate.journal.book import MigrationJournal
from migrate.journal.records import SOURCE, TARGET, ProcessRecord
from tests.unit.helpers.begun import ID, begun
from tests.unit.helpers.obedient import Child

OTHER = "ba9876543210"
ABORTED = ("aborted", CUT_OFF)


def sweep() -> list[str]:
    """Sweep this host, and return what is told."""
    told: list[str] = []
    cut_off.sweep(told.append)
    return told


def ends() -> dict[str, tuple[str, str | None] | None]:
    """Return {journal: (outcome, error)} of all journals; None for one that has not ended."""
    return {
        each.place.name: (ended.outcome, ended.error) if (ended := each.account.ended) else None
        for each in book.listed()
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "made/deep").mkdir(parents=True)
    return tmp_path / "made"


def killed(directory: Path, state: str = "armed", **fields: str) -> MadeDirectory:
    """Leave the journal of an agent that made a directory and was killed; return the directory."""
    thing = MadeDirectory(path=PathRecord.of(directory), whole=True)
    with MigrationJournal(begun(TARGET, **{"boot_id": proc.boot_id(), **fields})) as journal:
        journal.made(thing)
        journal.entered(state)
    return thing


def test_what_a_killed_agent_made_is_removed_and_told(directory: Path) -> None:
    killed(directory)
    assert sweep() == [
        f"the move {ID}, which was cut off, is undone on this host: directory {directory}"
    ]
    assert not directory.exists()
    assert ends() == {f"{ID}.target": ABORTED}
    assert sweep() == []


def test_a_copy_that_nobody_holds_any_more_is_undone(directory: Path) -> None:
    killed(directory, state="held")
    assert len(sweep()) == 1
    assert not directory.exists()
    assert ends() == {f"{ID}.target": ABORTED}


def test_one_that_goes_on_is_left_alone(directory: Path) -> None:
    with MigrationJournal(begun(TARGET)) as journal:
        journal.made(MadeDirectory(path=PathRecord.of(directory), whole=True))
        assert sweep() == []
        assert directory.exists()


def test_what_cannot_be_removed_now_is_tried_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: MadeDirectory) -> None:
        raise OSError("it is mounted")

    killed(directory)
    with monkeypatch.context() as broken:
        broken.setattr(MadeDirectory, "remove", fails)
        for _ in range(2):
            [told] = sweep()
            assert told.endswith(
                f"cannot be undone on this host: directory {directory} (it is mounted)"
            )
    assert ends() == {f"{ID}.target": None}
    assert len(sweep()) == 1
    assert ends() == {f"{ID}.target": ABORTED}


def test_after_a_reboot_only_what_is_on_disk_is_looked_for(directory: Path) -> None:
    before = "01234567-89ab-cdef-0123-456789abcdef"
    gone = NetworkNamespace(path=PathRecord.of(directory))
    with MigrationJournal(begun(TARGET, migration_id=OTHER, boot_id=before)) as journal:
        journal.made(gone)
    killed(directory, boot_id=before)
    assert sweep() == [
        f"the move {ID}, which was cut off, is undone on this host: directory {directory}"
    ]
    assert set(ends().values()) == {ABORTED}


def test_what_could_be_another_is_told_and_left(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkpoint.host.kernel.file_handle", lambda _: "")
    killed(directory)
    [told] = sweep()
    assert told.startswith(f"directory {directory} of the move {ID} may be left here")
    assert directory.exists()
    assert ends() == {f"{ID}.target": ABORTED}


def test_a_thing_of_another_version_is_told_and_waits_for_that_version(directory: Path) -> None:
    killed(directory)
    with Journal(book.listed()[0].place) as journal:
        journal.append({"entry": "MadeThing", "at_ms": 1, "thing": {"kind": "Teapot", "name": "x"}})
    told = sweep()
    assert not directory.exists()
    assert "another version of this program made" in told[-1]
    assert ends() == {f"{ID}.target": None}


def source_killed(child: Child, state: str, *, ticks: int = 0) -> None:
    """Leave the journal of a coordinator that was killed, and whose container has `child` as init.

    `ticks` are added to the start time of the child.
    """
    started = proc.start_ticks(proc.read(child.pid, "stat"))
    init = ProcessRecord(child.pid, started + ticks)
    with MigrationJournal(begun(boot_id=proc.boot_id(), init=init)) as journal:
        journal.entered(state)


@pytest.mark.parametrize("state", ["held", "killing"])
def test_a_copy_of_a_container_that_lives_is_told_of_by_whoever_gives_it_up(
    child: Child, state: str
) -> None:
    """A sweep does not: the target may still say that it holds none."""
    source_killed(child, state)
    assert sweep() == []
    assert ends() == {f"{ID}.source": None}
    told: list[str] = []
    [found] = book.listed()
    cut_off.end_back(found, told.append)
    assert told == [
        f"beta may hold a copy: 'migratectl recover {ID} --abort --on root@beta:2222' drops that"
    ]
    assert ends() == {f"{ID}.source": ("rolled back", f"{CUT_OFF}; {told[0]}")}


@pytest.mark.parametrize(("side", "outcome"), [(SOURCE, "done"), (TARGET, "finished")])
def test_one_whose_target_had_resumed_it_is_finished(
    directory: Path, side: str, outcome: str
) -> None:
    """What was passing goes on either host, and what was made stays."""
    passing = directory.with_name("passing")
    passing.mkdir()
    with MigrationJournal(begun(side, boot_id=proc.boot_id())) as journal:
        journal.made(MadeDirectory(path=PathRecord.of(directory), whole=True))
        journal.made(MadeDirectory(path=PathRecord.of(passing), whole=True), passing=True)
        journal.entered("resumed")
    assert sweep() == []
    assert (directory.exists(), passing.exists()) == (True, False)
    assert ends() == {f"{ID}.{side}": (outcome, CUT_OFF)}


def test_one_that_cannot_be_finished_now_is_tried_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: MadeDirectory) -> None:
        raise OSError("docker does not answer")

    with MigrationJournal(begun(boot_id=proc.boot_id())) as journal:
        journal.made(MadeDirectory(path=PathRecord.of(directory), whole=True), passing=True)
        journal.entered("resumed")
    with monkeypatch.context() as broken:
        broken.setattr(MadeDirectory, "remove", fails)
        [told] = sweep()
        assert told.endswith(
            f"cannot be finished on this host: directory {directory} (docker does not answer)"
        )
        assert ends() == {f"{ID}.source": None}
    assert sweep() == []
    assert ends() == {f"{ID}.source": ("done", CUT_OFF)}


@pytest.mark.parametrize("how", ["dead", "another process", "another boot"])
def test_of_a_container_that_does_not_live_this_host_knows_nothing(
    child: Child, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    source_killed(child, "killing", ticks=how == "another process")
    if how == "dead":
        child.end()
    if how == "another boot":
        monkeypatch.setattr(proc, "boot_id", lambda: "f" * 36)
    assert sweep() == []
    assert ends() == {f"{ID}.source": None}


def test_a_container_that_was_sent_sigkill_is_not_taken_for_alive(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_killed(child, "killing")
    monkeypatch.setattr(proc, "pending_signals", lambda _: 1 << (signal.SIGKILL - 1))
    assert sweep() == []
    assert ends() == {f"{ID}.source": None}
