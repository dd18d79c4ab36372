"""Tests of migrate/cli/ctl.py: however migratectl ends, one line and a documented exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.docker import install
from checkpoint.files.made import MadeDirectory
from checkpoint.host import proc
from checkpoint.host.identity import PathRecord
from migrate import errors
from migrate.agent import control
from migrate.agent import control as recover
from migrate.agent.control import ControlSocket
from migrate.cli import ctl
from migrate.cli.exit_codes import CODES, CTL_CODES
from migrate.errors import NotRoot
from migrate.journal import book
from migrate.journal.book import MigrationJournal
from migrate.journal.records import ProcessRecord
from tests.unit.helpers.begun import begun
from tests.unit.helpers.holding import answering
from tests.unit.helpers.obedient import Child
from transport.destination import Destination
from transport.errors import HostKeyUnknown


@pytest.mark.parametrize("words", [["status"], ["recover", "0123456789ab"], ["docker-runtime"]])
def test_a_user_other_than_root_is_told_to_be_root(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert ctl.main(words) == CODES[NotRoot]
    said = capsys.readouterr().err
    assert said.startswith("migratectl: not root on ")
    assert said.endswith("run as root\n")
    assert len(said.splitlines()) == 1


def test_any_user_may_ask_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(
        ctl, "ask_on", lambda *_: control.Reply(outcome=control.Outcome.OK, text="it is held")
    )
    assert ctl.main(["recover", "0123456789ab", "--on", "beta"]) == 0


def test_help_and_version_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--help", "--version"):
        with pytest.raises(SystemExit) as ended:
            ctl.main([word])
        assert ended.value.code == 0
        assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyError("id"), 70, "a defect in this program, please report it: KeyError"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (errors.TargetUnreachable("no route"), 20, "no route"),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
            61,
            "Connection refused",
        ),
    ],
)
def test_each_end_of_recover_has_its_code_and_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    words: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(recover, "ask", fail)
    assert ctl.main(["recover", "0123456789ab", "--go", "--source-is-dead"]) == code
    said = capsys.readouterr()
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(recover.Outcome.OK, 0), (recover.Outcome.REFUSED, 62), (recover.Outcome.FAILED, 62)],
)
@pytest.mark.parametrize("text", ["ok: not at all", "container?", "failed: it did not"])
def test_recover_goes_by_the_outcome_and_not_by_the_words(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: recover.Outcome,
    code: int,
    text: str,
) -> None:
    monkeypatch.setattr(recover, "ask", lambda *_: recover.Reply(outcome=outcome, text=text))
    assert ctl.main(["recover", "0123456789ab", "--abort"]) == code
    assert capsys.readouterr().out == f"migratectl: {outcome.value}: {text}\n"


@pytest.mark.parametrize(
    "text", ["", "x", "../0123456789ab", "0123456789AB", "0123456789ab0", "0123456789ab\n"]
)
@pytest.mark.parametrize("on", [[], ["--on", "beta"]])
def test_recover_takes_no_path_for_an_id(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    on: list[str],
) -> None:
    def asked(*_: object) -> None:
        pytest.fail("an agent was asked")

    monkeypatch.setattr(recover, "ask", asked)
    monkeypatch.setattr(ctl, "by_ssh", asked)
    assert ctl.main(["recover", text, "--go", *on]) == CODES[errors.BadRequest] == 2
    said = capsys.readouterr().err
    assert "is no migration's id" in said
    assert len(said.splitlines()) == 1


def test_a_docker_that_cannot_be_prepared_has_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> list[str]:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(install, "install", fail)
    assert ctl.main(["docker-runtime"]) == CTL_CODES["NoDockerRuntime"]
    assert "stay as they are" in capsys.readouterr().err


ID = "0123456789ab"


class Remote:
    """A command that has run on the other host."""

    def __init__(self, command: str) -> None:
        done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=30, check=False)
        self._said, self._errors = done.stdout, done.stderr

    def read(self, size: int) -> bytes:
        piece, self._said = self._said[:size], self._said[size:]
        return piece

    def read_errors(self, size: int) -> bytes:
        return self._errors[:size]

    def patience(self, seconds: float | None) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Destination]:
    """Return the hosts that were reached so far, each of which is this host."""
    found: list[Destination] = []

    @contextlib.contextmanager
    def by_ssh(destination: Destination) -> Iterator[Any]:
        found.append(destination)
        yield type("Connection", (), {"run": staticmethod(Remote)})

    monkeypatch.setattr(ctl, "by_ssh", by_ssh)
    monkeypatch.setattr(control, "RUN", tmp_path)
    return found


def test_an_agent_on_another_host_is_asked(
    reached: list[Destination], capsys: pytest.CaptureFixture[str]
) -> None:
    with ControlSocket(control.control_path(ID)) as socket:
        agent = answering(socket)
        assert ctl.main(["recover", ID, "--on", "root@beta"]) == 0
        agent.join(20)
    assert reached == [Destination(name="beta", user="root")]
    assert capsys.readouterr().out.startswith("migratectl: ok: \U0001f600")


def test_a_host_without_an_agent_holds_nothing(
    reached: list[Destination], capsys: pytest.CaptureFixture[str]
) -> None:
    code = ctl.main(["recover", ID, "--on", "beta", "--abort"])
    assert code == CTL_CODES["NothingHeld"]
    said = capsys.readouterr().err
    assert said.startswith(f"migratectl: no agent on beta holds a container for migration {ID} (")
    assert len(said.splitlines()) == 1


def test_a_host_that_cannot_be_reached_has_the_exit_code_of_its_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(destination: Destination) -> None:
        raise HostKeyUnknown(f"no key of {destination.name} in known_hosts")

    monkeypatch.setattr(ctl, "by_ssh", unknown)
    assert ctl.main(["recover", ID, "--on", "beta"]) == CODES[errors.UnknownHostKey]
    assert "no key of beta" in capsys.readouterr().err


def source_of(child: Child, state: str) -> MigrationJournal:
    """Return the journal of a coordinator here, whose container has `child` as its init."""
    init = ProcessRecord(child.pid, proc.start_ticks(proc.read(child.pid, "stat")))
    journal = MigrationJournal(begun(boot_id=proc.boot_id(), init=init))
    journal.entered(state)
    return journal


def outcome() -> str | None:
    [found] = [each.account for each in book.listed()]
    return found.ended.outcome if found.ended is not None else None


def test_where_the_container_lives_nobody_has_it_run_twice(
    reached: list[Destination], child: Child, capsys: pytest.CaptureFixture[str]
) -> None:
    source_of(child, "held").close()
    words = ["recover", ID, "--on", "beta", "--go", "--source-is-dead"]
    assert ctl.main(words) == CTL_CODES["NotRecovered"]
    assert reached == []
    assert f"(process {child.pid}), and would run twice" in capsys.readouterr().err
    assert outcome() is None


def test_where_nothing_shows_the_death_it_must_be_said(
    reached: list[Destination], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl.main(["recover", ID, "--on", "beta", "--go"]) == CTL_CODES["NotRecovered"]
    assert reached == []
    said = capsys.readouterr().err
    assert "'--source-is-dead'" in said
    assert said.endswith("; nothing was changed\n")


def test_a_dead_container_is_run_on_the_target_and_its_journal_ends(
    reached: list[Destination], child: Child
) -> None:
    source_of(child, "killed").close()
    child.end()
    assert ctl.main(["recover", ID, "--on", "beta", "--abort"]) == CTL_CODES["NotRecovered"]
    with ControlSocket(control.control_path(ID)) as socket:
        agent = answering(socket)
        assert ctl.main(["recover", ID, "--on", "beta", "--go"]) == 0
        agent.join(20)
    assert outcome() == "resumed"


def test_a_copy_is_dropped_and_what_was_changed_here_undone(
    reached: list[Destination], child: Child, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    with source_of(child, "held") as journal:
        journal.made(MadeDirectory(path=PathRecord.of(tmp_path / "made"), whole=True))
    with ControlSocket(control.control_path(ID)) as socket:
        agent = answering(socket, link_alive=False)
        assert ctl.main(["recover", ID, "--on", "beta", "--abort"]) == 0
        agent.join(20)
    assert outcome() == "rolled back"
    assert not (tmp_path / "made").exists()


def test_a_migration_that_goes_on_is_left_to_its_coordinator(
    reached: list[Destination], child: Child, capsys: pytest.CaptureFixture[str]
) -> None:
    with source_of(child, "killed"):
        child.end()
        for word in ("--go", "--abort"):
            assert ctl.main(["recover", ID, "--on", "beta", word]) == CTL_CODES["NotRecovered"]
            assert "the migration goes on" in capsys.readouterr().err
    assert reached == []


def test_an_option_in_place_of_a_host_is_a_bad_request(
    reached: list[Destination], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl.main(["recover", ID, "--on", "-oProxyCommand=x"]) == CODES[errors.BadRequest]
    assert reached == []
    assert "migratectl recover --help" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["recover", ID], ["status"], ["docker-runtime"]])
def test_on_this_host_only_root_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ctl.main(words) == CODES[errors.NotRoot]
    assert "root" in capsys.readouterr().err
