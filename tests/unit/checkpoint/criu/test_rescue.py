"""Tests of checkpoint/criu/rescue.py, on sockets of another process, with a program for nft."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.criu import rescue
from checkpoint.errors import CommandFailed
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
