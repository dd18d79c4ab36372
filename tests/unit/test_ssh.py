"""transport/ssh.py: a process on another host, over a real SSH connection within this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import paramiko
import pytest
from paramiko.common import AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from transport.errors import IncompleteFrame
from transport.keepalive import Keepalive
from transport.ssh import RemoteProcess

LIMIT_S = 20.0


class Server(paramiko.ServerInterface):
    """Lets everybody in, and runs every command, of which a test is the program."""

    def check_auth_none(self, username: str) -> int:
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return True


@pytest.fixture
def ends() -> Iterator[tuple[RemoteProcess, paramiko.Channel]]:
    """A process, and the other host's end of its channel."""
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
