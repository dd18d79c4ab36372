"""Tests of checkpoint/criu/rescue.py, on sockets of another process, with a program for nft.

Other processes stand for a CRIU that ends, or does not.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.criu import rescue
from checkpoint.errors import CommandFailed
from tests.unit.helpers.apart import TIMEOUT_S, Apart
from tests.unit.helpers.obedient import Child

#: A process with sockets of several kinds, and descriptors that are none.
SOCKETS = """
import socket
server = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(server.getsockname())
far, _ = server.accept()
others = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM), *socket.socketpair(), open("/dev/null")]
"""
REPAIR = f"near.setsockopt(socket.IPPROTO_TCP, {rescue.TCP_REPAIR}, {{}})"
#: Tells of the tables in a file, and writes down what it is asked to do.
NFT = """#!/bin/sh
echo "$*" >> {directory}/asked
[ "$1" = list ] && exec cat {directory}/tables
exit {status}
"""


@pytest.fixture
def connected(child: Child) -> Child:
    child.do(SOCKETS)
    return child


class Nft:
    """A program that stands for nft."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "bin").mkdir()
        self.has()

    def has(self, *tables: str, status: int = 0) -> None:
        """Let the program have these tables, and end with `status` when one is to be removed."""
        lines = "".join(f"table inet {name}\n" for name in tables)
        (self._directory / "tables").write_text(lines)
        program = self._directory / "bin/nft"
        program.write_text(NFT.format(directory=self._directory, status=status))
        program.chmod(0o755)

    def asked(self) -> list[str]:
        return (self._directory / "asked").read_text().splitlines()


@pytest.fixture
def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nft:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return Nft(tmp_path)


def can_talk(child: Child) -> bool:
    found = child.do("near.send(b'x'); far.settimeout(20); answer = far.recv(1).decode()")
    return bool(found == "x")


def test_a_connection_can_be_used_again(connected: Child, nft: Nft) -> None:
    connected.do(REPAIR.format(1))
    assert rescue.unlock([connected.pid])
    assert not connected.do(f"answer = near.getsockopt(socket.IPPROTO_TCP, {rescue.TCP_REPAIR})")
    assert can_talk(connected)


def test_processes_that_need_no_rescue_are_left_as_they_are(connected: Child, nft: Nft) -> None:
    before = connected.do("import os; answer = len(os.listdir('/proc/self/fd'))")
    assert not rescue.unlock([connected.pid])
    assert nft.asked() == ["list tables inet"]
    assert connected.do("answer = len(os.listdir('/proc/self/fd'))") == before
    assert can_talk(connected)


def test_processes_that_have_ended_are_passed_over(connected: Child, nft: Nft) -> None:
    other = Child()
    other.end()
    connected.do(REPAIR.format(1))
    assert rescue.unlock([connected.pid, other.pid])


def test_only_a_table_of_crius_is_removed(connected: Child, nft: Nft) -> None:
    nft.has("filter", "CRIU-42", "mine-CRIU-1")
    assert rescue.unlock([connected.pid])
    assert nft.asked() == ["list tables inet", "delete table inet CRIU-42"]


def test_a_table_that_cannot_be_removed_is_told(connected: Child, nft: Nft) -> None:
    nft.has("CRIU-42", status=1)
    with pytest.raises(CommandFailed):
        rescue.unlock([connected.pid])


@pytest.mark.parametrize("repair", [False, True])
def test_without_nft_only_sockets_are_rescued(
    connected: Child, monkeypatch: pytest.MonkeyPatch, repair: bool
) -> None:
    monkeypatch.setattr(rescue, "find_program", lambda name: None)
    connected.do(REPAIR.format(int(repair)) if repair else "")
    assert rescue.unlock([connected.pid]) is repair


class Criu(Apart):
    """A process that stands for CRIU: it ends with status 0 when its peer is gone, unless deaf."""

    def __init__(self, *, deaf: bool = False) -> None:
        theirs, self._peer = os.pipe()

        def run() -> None:
            os.close(self._peer)
            os.read(theirs, 1)
            while deaf:
                signal.pause()

        super().__init__(run)
        os.close(theirs)

    def let_go(self) -> None:
        os.close(self._peer)


@pytest.fixture
def criu() -> Iterator[Callable[..., Criu]]:
    """Return a function that starts a CRIU whose peer is gone, and has stopped it if `stopped`."""
    started: list[Criu] = []

    def start(*, deaf: bool = False, stopped: bool = False) -> Criu:
        started.append(found := Criu(deaf=deaf))
        if stopped:
            found.stop()
        found.let_go()
        return found

    yield start
    for each in started:
        each.close()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_criu_that_ends_by_itself_is_waited_for(criu: Callable[..., Criu], stopped: bool) -> None:
    """One that somebody has stopped goes on first."""
    found = criu(stopped=stopped)
    assert rescue.end(found.pidfd, TIMEOUT_S)
    assert found.exit_code() == 0


@pytest.mark.parametrize("timeout_s", [0, TIMEOUT_S])
@pytest.mark.parametrize("reaped", [False, True])
def test_a_criu_that_has_ended_is_no_error(
    criu: Callable[..., Criu], timeout_s: float, reaped: bool
) -> None:
    found = criu()
    assert found.exit_code() == 0 if reaped else not found.lives(for_s=TIMEOUT_S)
    assert rescue.end(found.pidfd, timeout_s)
    assert found.exit_code() == 0


@pytest.mark.parametrize("stopped", [False, True])
def test_a_criu_that_does_not_end_is_killed(criu: Callable[..., Criu], stopped: bool) -> None:
    found = criu(deaf=True, stopped=stopped)
    assert not rescue.end(found.pidfd, 0.01)
    assert not found.lives()
    assert found.exit_code() == -signal.SIGKILL


def test_a_criu_that_is_killed_at_once_does_not_go_on_first(criu: Callable[..., Criu]) -> None:
    """It would undo what must stay."""
    found = criu(stopped=True)
    assert not rescue.end(found.pidfd, 0)
    assert found.exit_code() == -signal.SIGKILL
