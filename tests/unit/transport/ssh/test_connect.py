"""Tests of transport/ssh.py: connections to hosts, known or not, and to peers that are no sshd."""

from __future__ import annotations

import socket
from pathlib import Path

import paramiko
import pytest

from tests.unit.transport.ssh.user import LIMIT_S, NAME, User, refused
from tests.unit.transport.sshd import Sshd
from transport import ssh
from transport.errors import (
    HostKeyChanged,
    HostKeyRefused,
    HostKeyUnknown,
    Unreachable,
)


def test_a_host_that_is_not_known_is_refused(user: User) -> None:
    assert refused(Sshd(), user.endpoint()) == (
        f"HostKeyUnknown: no key of {NAME} in {user.known_hosts}, /dev/null"
    )


def test_a_host_whose_key_has_changed_is_refused(user: User) -> None:
    user.known_hosts.write_text(Sshd().line(NAME))
    assert refused(Sshd(), user.endpoint()).startswith(HostKeyChanged.__name__)


def test_a_host_with_a_key_of_another_type_is_refused(user: User) -> None:
    user.known_hosts.write_text(Sshd(key=paramiko.RSAKey.generate(2048)).line(NAME))
    said = refused(Sshd(), user.endpoint())
    assert said.startswith(HostKeyUnknown.__name__)
    assert said.endswith("type ecdsa-sha2-nistp256, and known_hosts has only its ssh-rsa")


@pytest.mark.parametrize("where", ["known_hosts", "RevokedHostKeys"])
def test_a_host_whose_key_is_revoked_is_refused(
    user: User, tmp_path: Path, known: Sshd, where: str
) -> None:
    endpoint = user.endpoint("id", revoked_keys=tmp_path / "revoked")
    line = known.line(NAME)
    (tmp_path / "revoked").write_text("" if where == "known_hosts" else line.partition(" ")[2])
    user.known_hosts.write_text(line + (f"@revoked {line}" if where == "known_hosts" else ""))
    assert refused(known, endpoint).startswith(HostKeyRefused.__name__)
    assert known.offered == [], "nobody tries to log in there"


def test_revoked_keys_that_cannot_be_read_refuse_every_host(
    user: User, tmp_path: Path, known: Sshd
) -> None:
    endpoint = user.endpoint("id", revoked_keys=tmp_path / "none")
    assert refused(known, endpoint).startswith(HostKeyRefused.__name__)


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_peer_that_is_no_sshd_is_unreachable(user: User, known: Sshd, words: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(words)
        theirs.shutdown(socket.SHUT_WR)
        with (
            pytest.raises(Unreachable, match=f"no SSH connection to root@{NAME}:22"),
            ssh.connect(user.endpoint("id"), ours, timeout_s=LIMIT_S),
        ):
            pass


def test_a_socket_sends_at_once_and_notices_a_dead_peer(user: User) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with ssh.open_socket(user.endpoint(address="127.0.0.1", port=port)) as sock:
            assert sock.getpeername() == server.getsockname()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for option, value in ssh.TCP_KEEPALIVE.items():
                assert sock.getsockopt(socket.IPPROTO_TCP, option) == value
    with pytest.raises(Unreachable, match=f"127.0.0.1 port {port}: Connection refused"):
        ssh.open_socket(user.endpoint(address="127.0.0.1", port=port))


def test_a_name_that_cannot_be_resolved_is_an_error(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unreachable, match=r"port 22: .*label"):
        ssh.open_socket(user.endpoint(address=64 * "a"))

    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(Unreachable, match="cannot resolve beta: Name or service not known"):
        ssh.open_socket(user.endpoint())
