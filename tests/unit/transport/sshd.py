"""A small sshd within this process, whose connections are socketpairs."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
)

LIMIT_S = 20.0
#: What a command does: it has its channel, and returns its exit status, or None to give none.
Command = Callable[[paramiko.Channel, str], int | None]


def echo(channel: paramiko.Channel, command: str) -> int:
    """Print the command and what comes in, and end with 7."""
    channel.sendall(command.encode())
    while data := channel.recv(100):
        channel.sendall(data)
    channel.sendall_stderr(b"over")
    return 7


@dataclass(kw_only=True)
class Sshd:
    """A host's sshd, with the keys that let a user in and the command that it runs.

    `offered` are the keys that were offered, in order. After `sessions` it opens no further one.
    """

    key: paramiko.PKey = field(default_factory=paramiko.ECDSAKey.generate)
    allowed: Sequence[bytes] = ()
    methods: str = "publickey"
    hangs_up_after: int = 100
    sessions: int = 100
    command: Command = echo
    offered: list[bytes] = field(default_factory=list)
    _transports: list[paramiko.Transport] = field(default_factory=list)

    def line(self, name: str) -> str:
        """Return the host's line in known_hosts."""
        return f"{name} {self.key.get_name()} {base64.b64encode(self.key.asbytes()).decode()}\n"

    @contextlib.contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """Yield a client's end of a new connection, which ends with the block."""
        ours, theirs = socket.socketpair()
        transport = paramiko.Transport(theirs)
        self._transports.append(transport)
        transport.add_server_key(self.key)
        transport.start_server(threading.Event(), _Server(self, transport))
        try:
            yield ours
        finally:
            transport.close()
            ours.close()

    def break_off(self) -> None:
        """End all connections at once."""
        for transport in self._transports:
            transport.close()


class _Server(paramiko.ServerInterface):
    def __init__(self, sshd: Sshd, transport: paramiko.Transport) -> None:
        self._sshd, self._transport = sshd, transport

    def get_allowed_auths(self, username: str) -> str:
        return self._sshd.methods

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self._sshd.offered.append(key.asbytes())
        if len(self._sshd.offered) > self._sshd.hangs_up_after:
            self._transport.close()
        allowed = (username, key.asbytes()) in [("root", each) for each in self._sshd.allowed]
        return AUTH_SUCCESSFUL if allowed else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self._sshd.sessions -= 1
        return (
            OPEN_SUCCEEDED if self._sshd.sessions >= 0 else OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        )

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._run, args=(channel, command.decode()), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        with contextlib.suppress(OSError, EOFError):
            status = self._sshd.command(channel, command)
            if status is not None:
                channel.send_exit_status(status)
            channel.close()
