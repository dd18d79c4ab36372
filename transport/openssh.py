"""The ssh(1) command as a channel for bulk data, which is encrypted outside this Python process.

A host that ssh(1) can reach only with a password or after a question is not reached this way; the
caller then uses paramiko's connection.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Sequence

from transport.destination import Destination
from transport.errors import IncompleteFrame
from transport.framing import Descriptors, widen_pipe

#: Options of ssh_config(5). ssh(1) never asks a question, never accepts an unknown key, and has a
#: connection of its own, which it ends after a silence of the peer as keepalive.py does.
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
    """Return the ssh(1) command line that runs a command on the destination.

    The standard streams of ssh(1) are those of the command.
    """
    words = ["ssh", "-T", *(f"-o{name}={value}" for name, value in OPTIONS.items())]
    if destination.port is not None:
        words += ["-p", str(destination.port)]
    if destination.user is not None:
        words += ["-l", destination.user]
    return [*words, "--", destination.name, command]


class SshProcess:
    """A ByteStream over a running ssh(1), by its pipes for stdin and stdout."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self.output = process.stdout.fileno()
        widen_pipe(process.stdin.fileno())
        self._pipes = Descriptors(self.output, process.stdin.fileno())
        self._writing = threading.Lock()
        self._closed = False

    def read_into(self, view: memoryview) -> int:
        return self._pipes.read_into(view)

    def write(self, data: bytes | memoryview) -> None:
        with self._writing:
            if self._closed:  # another file may have the pipe's number by now
                raise IncompleteFrame("the channel is closed")
            try:
                self._pipes.write(data)
            except OSError as error:
                raise IncompleteFrame(f"ssh ended: {error.strerror}") from error

    def ended(self) -> bool:
        """Return whether ssh(1) has ended."""
        return self._closed or self._process.poll() is not None

    def close(self) -> None:
        """Kill ssh(1). A `write` under way raises IncompleteFrame, and so does each later one."""
        process = self._process
        process.kill()
        process.wait()
        with self._writing:
            self._closed = True
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                # close() flushes a buffer, which could fail; it is always empty.
                with contextlib.suppress(OSError):
                    pipe.close()
