"""Tests of migrate/cli/status.py: what this host is told to have of migrations."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from migrate.agent.control import SUFFIX, ControlSocket
from migrate.cli import ctl, status
from migrate.journal.book import MigrationJournal
from migrate.journal.records import SOURCE, TARGET
from tests.unit.helpers.begun import ID, begun
from tests.unit.helpers.holding import answering

OTHER = "ba9876543210"
WEB = "container 'web' (podman) from alpha to beta"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory in which this host has its files in RAM, and be root."""
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setattr(status, "RUN", run)
    monkeypatch.setattr(status, "abandoned", dict)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(time, "localtime", time.gmtime)
    return run


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs `migratectl status` and returns what it prints."""

    def run(*words: str) -> str:
        assert ctl.main(["status", *words]) == 0
        return capsys.readouterr().out

    return run


def test_a_host_without_migrations_has_nothing_to_say(shown: Any) -> None:
    assert shown() == ""
    found = json.loads(shown("--json"))
    assert (found["schema"], found["migrations"], found["leftovers"]) == (1, [], [])


def test_each_migration_is_on_a_line_with_how_it_is(
    shown: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrate.journal.book.now_ms", lambda: 1_795_000_001_000)
    with MigrationJournal(begun()) as ended:
        ended.end("rolled back", "the link was lost")
    with MigrationJournal(begun(migration_id=OTHER)) as under_way:
        under_way.entered("armed")
        assert shown() == (
            f"{OTHER}: {WEB}: under way, armed since 2026-11-18 11:06:41\n"
            f"{ID}: {WEB}: ended, rolled back since 2026-11-18 11:06:41: the link was lost\n"
        )


@pytest.mark.parametrize(
    ("side", "state", "advice"),
    [
        (SOURCE, "killed", f"'migratectl recover {ID}' ends it"),
        (TARGET, "held", f"'migratectl recover {ID}' on alpha ends it"),
    ],
)
def test_one_that_was_cut_off_says_what_ends_it(
    shown: Any, side: str, state: str, advice: str
) -> None:
    with MigrationJournal(begun(side)) as cut_off:
        cut_off.entered(state)
    assert shown().startswith(f"{ID}: {WEB}: cut off on this host when it was {state}, ")
    assert shown().endswith(f"; {advice}\n")


def test_json_has_all_of_it(shown: Any) -> None:
    with MigrationJournal(begun()) as kept:
        kept.entered("armed")
        [found] = json.loads(shown("--json"))["migrations"]
    assert found.pop("since_unix_ms") > 1_700_000_000_000
    assert found == {
        "id": ID,
        "side": "source",
        "engine": "podman",
        "container": "web",
        "source": "alpha",
        "target": "beta",
        "condition": "under way",
        "state": "armed",
        "began_unix_ms": 1_795_000_000_000,
        "error": None,
    }


def test_a_held_container_comes_first_and_once(shown: Any, here: Path) -> None:
    with MigrationJournal(begun(migration_id=OTHER)) as ended:
        ended.end("done")
    with MigrationJournal(begun(TARGET)) as held, ControlSocket(here / f"{ID}{SUFFIX}") as control:
        held.entered("held")
        agent = answering(control)
        first, second = shown().splitlines()
        agent.join(20)
    assert first.startswith(f"{ID}: \U0001f600")
    assert second.startswith(OTHER)


def test_what_killed_migrations_left_in_ram_comes_last(
    shown: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "abandoned", lambda: {ID: 3 << 20})
    assert shown() == (
        f"{ID}: left by a move that was killed, 3.0 MiB of RAM; the next move here removes it\n"
    )
    assert json.loads(shown("--json"))["leftovers"] == [{"id": ID, "bytes": 3 << 20}]


def test_status_waits_for_no_agent_that_hangs(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "STATUS_S", 0.2)
    hangs, answers = (here / f"{number * 12}{SUFFIX}" for number in "01")
    with ControlSocket(hangs), ControlSocket(answers) as control:
        agent = answering(control)
        assert ctl.main(["status"]) == 0
        agent.join(20)
    said = capsys.readouterr()
    assert said.err == (
        f"migratectl: {'0' * 12}: its agent does not answer within 0.2 s;"
        " it may hold a container, so ask again and do not end it\n"
    )
    assert said.out.startswith(f"{'1' * 12}: \U0001f600")
