"""Tests of migrate/phases/evidence.py: the logs of both hosts are kept if they can be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate import logs
from migrate.limits import Limits
from migrate.phases import evidence
from migrate.wire import protocol
from migrate.wire.values import LogFile

ID = "0123456789ab"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of kept logs. The migration's own directory has a log of CRIU's."""
    monkeypatch.setattr(logs, "DIRECTORY", tmp_path / "kept")
    monkeypatch.setattr(evidence, "directory_of", lambda _: tmp_path / "run")
    (tmp_path / "run/images").mkdir(parents=True)
    (tmp_path / "run/images/dump.log").write_bytes(b"of the source")
    return tmp_path / "kept"


def move(answer: Any) -> Any:
    """Return a migration whose agent gives this answer, or fails with this error."""

    def request(message: Any, *, timeout_s: float) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    notes: list[str] = []
    return SimpleNamespace(
        migration_id=ID,
        options=SimpleNamespace(limits=Limits()),
        target=SimpleNamespace(agent=SimpleNamespace(request=request)),
        report=SimpleNamespace(log_directory=None),
        note=notes.append,
        notes=notes,
    )


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / ID).iterdir()}


def test_the_logs_of_both_hosts_are_kept(kept: Path) -> None:
    files = (LogFile("restore.log", 13), LogFile("agent.log", 3))
    migration = move(protocol.LogsFound(files=files, payload=b"of the targetabc"))
    evidence.keep_logs(migration)
    assert migration.report.log_directory == str(kept / ID)
    assert content(kept) == {
        "source-images-dump.log": b"of the source",
        "target-restore.log": b"of the target",
        "target-agent.log": b"abc",
    }
    assert migration.notes == []


def test_without_the_target_its_own_logs_are_kept_and_that_is_noted(kept: Path) -> None:
    migration = move(ConnectionResetError())
    evidence.keep_logs(migration)
    assert list(content(kept)) == ["source-images-dump.log"]
    assert migration.notes == ["the target's logs could not be had: ConnectionResetError"]


def test_logs_that_cannot_be_kept_are_noted(kept: Path) -> None:
    kept.write_text("no directory")
    migration = move(protocol.LogsFound(files=(), payload=b""))
    evidence.keep_logs(migration)
    assert migration.report.log_directory is None
    assert [note.partition(": ")[0] for note in migration.notes] == [
        "the source's logs could not be kept"
    ]
