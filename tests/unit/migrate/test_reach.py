"""Tests of migrate/reach.py: the settings of ssh(1), proxies, and a whole connection."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate import reach
from tests.rig import until
from tests.unit.transport.sshd import Sshd
from transport import ssh_config
from transport.destination import Destination
from transport.endpoint import Endpoint
from transport.errors import HostKeyUnknown, Unreachable

#: A ProxyCommand: its streams lead to a port of this host.
PROXY = """
import os, socket, sys, threading
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def send():
    while data := os.read(0, 1 << 16):
        peer.sendall(data)
threading.Thread(target=send, daemon=True).start()
while data := peer.recv(1 << 16):
    os.write(1, data)
"""
BETA = Destination(name="beta")
ENDPOINT = Endpoint.of(BETA, {"user": ["root"]})


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only directory of PATH. The user's own ssh_config is not read."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(ssh_config, "SYSTEM_CONFIG", tmp_path / "none")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def answers(path: Path, script: str) -> None:
    """Write an ssh(1) that runs a script for any question."""
    (path / "ssh").write_text(f"#!/bin/sh\n{script}\n")
    (path / "ssh").chmod(0o755)


def test_what_ssh_says_is_what_counts(path: Path) -> None:
    answers(path, 'echo "user $*"; echo "hostname 10.0.0.2"; echo "port 2222"')
    found = reach.endpoint_of(Destination(name="beta", user="me"))
    assert (found.address, found.port) == ("10.0.0.2", 2222)


def test_without_ssh_the_users_file_is_read(path: Path) -> None:
    (path.parent / ".ssh").mkdir()
    (path.parent / ".ssh/config").write_text("Host beta\n HostName 10.0.0.3\n User me\n")
    found = reach.endpoint_of(BETA)
    assert (found.address, found.user) == ("10.0.0.3", "me")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'bad line 1' >&2; echo 'terminating' >&2; exit 255",
            "ssh's settings for beta cannot be had: bad line 1; terminating",
        ),
        ("exit 255", "ssh's settings for beta cannot be had: "),
        ("echo port of call", "ssh's settings for beta make no sense: "),
    ],
)
def test_settings_of_ssh_that_are_of_no_use_are_an_error(
    path: Path, script: str, said: str
) -> None:
    answers(path, script)
    with pytest.raises(Unreachable) as caught:
        reach.endpoint_of(BETA)
    assert str(caught.value).startswith(said)
    assert len(str(caught.value)) > len("ssh's settings for beta cannot be had: ")


def test_a_proxys_streams_are_the_connection() -> None:
    with reach.through_proxy("cat", ENDPOINT) as sock:
        sock.sendall(b"there and back")
        assert sock.recv(100) == b"there and back"


def test_a_proxy_that_fails_says_why() -> None:
    with (
        pytest.raises(Unreachable, match=r"root@beta:22 through its proxy: no way; not at all$"),
        reach.through_proxy("sh -c 'echo \" no way\" >&2; echo not at all >&2'", ENDPOINT) as sock,
    ):
        assert sock.recv(1) == b""
        raise Unreachable("no banner")


def test_the_error_over_a_silent_proxy_names_the_proxy() -> None:
    with (
        pytest.raises(Unreachable, match=r"through its proxy: no banner$"),
        reach.through_proxy("true", ENDPOINT) as sock,
    ):
        assert sock.recv(1) == b""
        raise Unreachable("no banner")


def test_no_other_error_is_laid_to_the_proxy() -> None:
    with pytest.raises(HostKeyUnknown, match=r"^never seen$"), reach.through_proxy("cat", ENDPOINT):
        raise HostKeyUnknown("never seen")


@pytest.mark.parametrize("stopped", [False, True])
def test_a_proxy_ends_with_the_connection(tmp_path: Path, stopped: bool) -> None:
    script = f"sh -c 'echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 60'"
    with reach.through_proxy(script, ENDPOINT):
        until((tmp_path / "pid").exists, "it to run")
        pid = int((tmp_path / "pid").read_text())
        if stopped:
            os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


class Host:
    """A host with an sshd on loopback, which lets in a key of the user's."""

    def __init__(self, home: Path) -> None:
        self.sshd = Sshd()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        (home / "known_hosts").write_text(self.sshd.line(f"[127.0.0.1]:{self.port}"))
        self.sshd.key.write_private_key_file(str(home / "id"))
        self.sshd.allowed = [self.sshd.key.asbytes()]
        self.settings = (
            "user root",
            "hostname 127.0.0.1",
            f"port {self.port}",
            f"userknownhostsfile {home}/known_hosts",
            f"identityfile {home}/id",
            "identityagent none",
        )
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with self.sshd.connection() as sock, client:
            back = threading.Thread(target=_pump, args=(sock, client), daemon=True)
            back.start()
            _pump(client, sock)
            back.join(5)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


@pytest.mark.parametrize("proxy", [False, True])
def test_a_command_runs_on_the_host_directly_and_through_a_proxy(
    path: Path, host: Host, proxy: bool
) -> None:
    lines = list(host.settings)
    if proxy:
        (path / "proxy").write_text(PROXY)
        lines.append(f"proxycommand {sys.executable} -IS {path}/proxy {host.port}")
    (path / "settings").write_text("\n".join(lines) + "\n")
    answers(path, f'while read -r line; do echo "$line"; done < {path}/settings')
    with reach.by_ssh(BETA) as connection:
        process = connection.run("some words")
        process.end_input()
        assert process.read(100) == b"some words"
