"""migratectl's words to another host: the program that asks there is real, the connection is a shell on this host."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate import errors
from migrate.agent import control
from migrate.agent.control import ControlSocket
from migrate.cli import ctl
from migrate.cli.exit_codes import CODES, CTL_CODES
from tests.unit.test_last_resort import answering
from transport.destination import Destination
from transport.errors import HostKeyUnknown

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


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Destination]:
    """The hosts that were connected to; each of them is this one, with sockets in a directory of the test."""
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


def test_nobody_answers_there(
    reached: list[Destination], capsys: pytest.CaptureFixture[str]
) -> None:
    code = ctl.main(["recover", ID, "--on", "beta", "--abort"])
    assert code == CTL_CODES["NothingHeld"]
    said = capsys.readouterr().err
    assert said.startswith(f"migratectl: no agent on beta holds a container for migration {ID} (")
    assert len(said.splitlines()) == 1


def test_a_host_that_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(destination: Destination) -> None:
        raise HostKeyUnknown(f"no key of {destination.name} in known_hosts")

    monkeypatch.setattr(ctl, "by_ssh", unknown)
    assert ctl.main(["recover", ID, "--on", "beta"]) == CODES[errors.UnknownHostKey]
    assert "no key of beta" in capsys.readouterr().err


def test_a_host_that_is_none(
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
