"""Tests of transport/ssh.py: a process on another host, over a real connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import paramiko
import pytest
from paramiko.common import AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from tests.unit.transport.ssh.user import LIMIT_S, NAME, User, connected
from tests.unit.transport.sshd import Sshd
from transport import ssh
from transport.destination import Destination
from transport.errors import (
    IncompleteFrame,
)
from transport.keepalive import Keepalive
from transport.ssh import RemoteProcess


class Server(paramiko.ServerInterface):
    """A server that lets everybody in, and runs every command, of which the test is the program."""

    def check_auth_none(self, username: str) -> int:
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return True


@pytest.fixture
def ends() -> Iterator[tuple[RemoteProcess, paramiko.Channel]]:
    """Yield a process, and the other host's end of its channel."""
    ours, theirs = socket.socketpair()
    server, client = paramiko.Transport(theirs), paramiko.Transport(ours)
    try:
        server.add_server_key(paramiko.RSAKey.generate(2048))
        server.start_server(threading.Event(), Server())
        client.start_client(timeout=LIMIT_S)
        client.auth_none("root")
        channel = client.open_session(timeout=LIMIT_S)
        channel.exec_command("agent")
        accepted = server.accept(LIMIT_S)
        assert accepted is not None
        alive: Any = SimpleNamespace(silent_s=None)
        yield RemoteProcess(channel, cast(Keepalive, alive)), accepted
    finally:
        client.close()
        server.close()


def test_patience_is_for_answers_and_not_for_what_is_said_besides(
    ends: tuple[RemoteProcess, paramiko.Channel],
) -> None:
    process, theirs = ends
    process.patience(0.01)
    with pytest.raises(IncompleteFrame):
        process.read(1)
    later = threading.Timer(0.2, theirs.sendall_stderr, (b"late",))
    later.start()
    assert process.read_errors(16) == b"late"
    later.join()
    theirs.close()
    assert process.read_errors(16) == b""


def test_a_command_has_streams_and_an_exit_status(user: User, known: Sshd) -> None:
    with connected(known, user.endpoint("id")) as connection:
        assert connection.destination == Destination(name=NAME)
        process = connection.run("some words")
        view = memoryview(bytearray(16))
        assert bytes(view[: process.read_into(view)]) == b"some words"
        assert not process.ended()
        process.write(b"bytes")
        assert process.read(16) == b"bytes"
        process.end_input()
        assert process.read(16) == b""
        assert process.read_errors(16) == b"over"
        assert process.wait() == 7
        assert process.ended()
        process.close()


def test_a_command_without_an_exit_status_has_minus_one(user: User, known: Sshd) -> None:
    def killed(channel: paramiko.Channel, command: str) -> None:
        channel.recv(1)  # the client knows by then that it runs

    known.command = killed
    with connected(known, user.endpoint("id")) as connection:
        process = connection.run("true")
        process.end_input()
        assert process.wait() == -1


def test_a_host_that_opens_no_further_session_is_an_error(user: User, known: Sshd) -> None:
    known.sessions = 1
    with connected(known, user.endpoint("id")) as connection:
        connection.run("true")
        with pytest.raises(IncompleteFrame, match="opens no further session"):
            connection.run("true")


def test_a_connection_that_breaks_is_told_at_every_use(user: User, known: Sshd) -> None:
    with known.connection() as sock, ssh.connect(user.endpoint("id"), sock) as connection:
        process = connection.run("cat")
        assert process.read(3) == b"cat"
        known.break_off()
        assert process.read(3) == b""
        with pytest.raises(IncompleteFrame, match="the SSH connection broke"):
            process.write(b"more")
        assert process.read_errors(16) == b""
        with pytest.raises(IncompleteFrame, match="opens no further session"):
            connection.run("true")
        process.end_input()
        process.close()


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_a_host_that_fell_silent_is_told_of() -> None:
    """The end of the stream is not the command's end, because the keepalive has made it."""
    keepalive: Any = SimpleNamespace(silent_s=15.0)
    channel: Any = SimpleNamespace(recv=lambda size: b"", sendall=raising(OSError()))
    process = ssh.RemoteProcess(channel, keepalive)
    for use in (lambda: process.read(16), lambda: process.write(b"x")):
        with pytest.raises(IncompleteFrame, match="nothing came from the other host for 15 s"):
            use()


def test_an_error_without_words_has_the_name_of_its_class() -> None:
    alive: Any = SimpleNamespace(silent_s=None)
    channel: Any = SimpleNamespace(recv=raising(EOFError()))
    with pytest.raises(IncompleteFrame, match="broke: EOFError"):
        ssh.RemoteProcess(channel, alive).read(1)
