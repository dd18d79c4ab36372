"""The ssh(1) command, for bulk data: it encrypts beside us rather than in our interpreter.

Whoever can be reached only with a password or a question is not reached this way; paramiko's connection is there then.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence

from transport.descriptors import Descriptors, widen_pipe
from transport.destination import Destination
from transport.errors import IncompleteFrame

#: ssh_config(5). Never a question, never an unknown key; a connection of its own; given up on as keepalive.py does.
OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ControlPath": "none",
    "Compression": "no",
    "Ciphers": "^aes128-gcm@openssh.com",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "2",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "LogLevel": "ERROR",
}


def command_line(destination: Destination, command: str) -> Sequence[str]:
    """What to start to have a command run there, its standard streams being ssh's."""
    words = ["ssh", "-T", *(f"-o{name}={value}" for name, value in OPTIONS.items())]
    if destination.port is not None:
        words += ["-p", str(destination.port)]
    if destination.user is not None:
        words += ["-l", destination.user]
    return [*words, "--", destination.name, command]


class SshProcess:
    """A running ssh(1), with pipes for stdin and stdout, as a ByteStream."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self.output = process.stdout.fileno()
        widen_pipe(process.stdin.fileno())
        self._pipes = Descriptors(self.output, process.stdin.fileno())

    def read_into(self, view: memoryview) -> int:
        return self._pipes.read_into(view)

    def write(self, data: bytes | memoryview) -> None:
        try:
            self._pipes.write(data)
        except OSError as error:
            raise IncompleteFrame(f"ssh ended: {error.strerror}") from error

    def close(self) -> None:
        """End it. Whoever is inside `write` is told."""
        process = self._process
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # unsent bytes of a buffer; there are none
                pipe.close()
