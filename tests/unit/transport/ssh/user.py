"""A user who connects to a host, with the files of that user."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.transport.sshd import Sshd
from transport import ssh
from transport.destination import Destination
from transport.endpoint import Endpoint
from transport.errors import (
    ConnectError,
)

LIMIT_S = 20.0

NAME = "beta"


class User:
    """A user's files: known_hosts, and keys that ssh-keygen has made."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.known_hosts = home / "known_hosts"

    def key(self, name: str, *options: str) -> bytes:
        """Make a key in a file of that name, and return its public half."""
        path = self.home / name
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path), *options]
        subprocess.run(argv, check=True, capture_output=True)
        found = ssh.public_blob(path)
        assert found is not None
        return found

    def endpoint(self, *key_files: str, **changes: Any) -> Endpoint:
        """Return the host as this user reaches it."""
        settings = {
            "user": ["root"],
            "userknownhostsfile": [str(self.known_hosts)],
            "globalknownhostsfile": ["/dev/null"],
            "identityfile": [str(self.home / name) for name in key_files],
            "identityagent": ["none"],
        }
        return replace(Endpoint.of(Destination(name=NAME), settings, self.home), **changes)


@contextlib.contextmanager
def connected(sshd: Sshd, endpoint: Endpoint) -> Iterator[ssh.Connection]:
    with (
        sshd.connection() as sock,
        ssh.connect(endpoint, sock, timeout_s=LIMIT_S) as connection,
    ):
        yield connection


def refused(sshd: Sshd, endpoint: Endpoint) -> str:
    """Return the error by which a connection could not be made."""
    with pytest.raises(ConnectError) as caught, connected(sshd, endpoint):
        pass
    return f"{type(caught.value).__name__}: {caught.value}"
