"""transport/ssh.py against an sshd within this process: who is let in, and how a connection ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest

from tests.unit.transport.sshd import LIMIT_S, Sshd
from transport import ssh
from transport.destination import Destination
from transport.endpoint import Endpoint
from transport.errors import (
    AuthenticationRefused,
    ConnectError,
    HostKeyChanged,
    HostKeyRefused,
    HostKeyUnknown,
    IncompleteFrame,
    Unreachable,
)
from transport.known_hosts import key_type

NAME = "beta"


class User:
    """A user's files: known_hosts, and keys, which ssh-keygen makes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.known_hosts = home / "known_hosts"

    def key(self, name: str, *options: str) -> bytes:
        """Make a key in a file of that name, and return its public half."""
        path = self.home / name
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path), *options]
        subprocess.run(argv, check=True, capture_output=True)
        found = ssh._public_blob(path)
        assert found is not None
        return found

    def endpoint(self, *key_files: str, **changes: Any) -> Endpoint:
        """The host as this user reaches it."""
        settings = {
            "user": ["root"],
            "userknownhostsfile": [str(self.known_hosts)],
            "globalknownhostsfile": ["/dev/null"],
            "identityfile": [str(self.home / name) for name in key_files],
            "identityagent": ["none"],
        }
        return replace(Endpoint.of(Destination(name=NAME), settings, self.home), **changes)


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


@contextlib.contextmanager
def connected(sshd: Sshd, endpoint: Endpoint) -> Iterator[ssh.Connection]:
    with (
        sshd.connection() as sock,
        ssh.connect(endpoint, sock, timeout_s=LIMIT_S) as connection,
    ):
        yield connection


def refused(sshd: Sshd, endpoint: Endpoint) -> str:
    """Why a connection could not be made."""
    with pytest.raises(ConnectError) as caught, connected(sshd, endpoint):
        pass
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.fixture
def known(user: User) -> Sshd:
    """A host that the user knows, and that lets in the user's key "id"."""
    sshd = Sshd(allowed=[user.key("id")])
    user.known_hosts.write_text(sshd.line(NAME))
    return sshd


# --- a process on the other host -------------------------------------------------------------------


def test_a_command(user: User, known: Sshd) -> None:
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


def test_a_command_without_an_exit_status(user: User, known: Sshd) -> None:
    def killed(channel: paramiko.Channel, command: str) -> None:
        channel.recv(1)  # the client knows by then that it runs

    known.command = killed
    with connected(known, user.endpoint("id")) as connection:
        process = connection.run("true")
        process.end_input()
        assert process.wait() == -1


def test_no_further_session(user: User, known: Sshd) -> None:
    known.sessions = 1
    with connected(known, user.endpoint("id")) as connection:
        connection.run("true")
        with pytest.raises(IncompleteFrame, match="opens no further session"):
            connection.run("true")


def test_a_connection_that_breaks(user: User, known: Sshd) -> None:
    with known.connection() as sock, ssh.connect(user.endpoint("id"), sock) as connection:
        process = connection.run("cat")
        process.read(3)
        connection._transport.close()
        with pytest.raises(IncompleteFrame, match="the SSH connection broke"):
            process.write(b"more")
        assert process.read_errors(16) == b""
        with pytest.raises(IncompleteFrame, match="opens no further session"):
            connection.run("true")
        process.end_input()
        process.close()


def test_a_host_that_fell_silent_is_told_of(user: User, known: Sshd) -> None:
    """The end of the stream is then not the command's."""
    with connected(known, user.endpoint("id")) as connection:
        process = connection.run("cat")
        process.end_input()
        assert process.read(3) == b"cat"
        assert process.read(16) == b""
        connection._keepalive.silent_s = 15.0
        for use in (lambda: process.read(16), lambda: process.write(b"x")):
            with pytest.raises(IncompleteFrame, match="nothing came from the other host for 15 s"):
                use()


def test_an_error_without_words_has_its_kinds_name() -> None:
    alive: Any = SimpleNamespace(silent_s=None)
    channel: Any = SimpleNamespace(recv=lambda size: (_ for _ in ()).throw(EOFError()))
    with pytest.raises(IncompleteFrame, match="broke: EOFError"):
        ssh.RemoteProcess(channel, alive).read(1)


# --- the host's key --------------------------------------------------------------------------------


def test_a_host_that_is_not_known(user: User) -> None:
    assert refused(Sshd(), user.endpoint()) == (
        f"HostKeyUnknown: no key of {NAME} in {user.known_hosts}, /dev/null"
    )


def test_a_host_whose_key_has_changed(user: User) -> None:
    user.known_hosts.write_text(Sshd().line(NAME))
    assert refused(Sshd(), user.endpoint()).startswith(HostKeyChanged.__name__)


def test_a_host_with_a_key_of_another_type(user: User) -> None:
    user.known_hosts.write_text(Sshd(key=paramiko.RSAKey.generate(2048)).line(NAME))
    said = refused(Sshd(), user.endpoint())
    assert said.startswith(HostKeyUnknown.__name__)
    assert said.endswith("type ecdsa-sha2-nistp256, and known_hosts has only its ssh-rsa")


@pytest.mark.parametrize("where", ["known_hosts", "RevokedHostKeys"])
def test_a_host_whose_key_is_revoked(user: User, tmp_path: Path, known: Sshd, where: str) -> None:
    endpoint = user.endpoint("id", revoked_keys=tmp_path / "revoked")
    line = known.line(NAME)
    (tmp_path / "revoked").write_text("" if where == "known_hosts" else line.partition(" ")[2])
    user.known_hosts.write_text(line + (f"@revoked {line}" if where == "known_hosts" else ""))
    assert refused(known, endpoint).startswith(HostKeyRefused.__name__)
    assert known.offered == [], "nobody tries to log in there"


def test_revoked_keys_that_cannot_be_read(user: User, tmp_path: Path, known: Sshd) -> None:
    endpoint = user.endpoint("id", revoked_keys=tmp_path / "none")
    assert refused(known, endpoint).startswith(HostKeyRefused.__name__)


# --- a peer that is no sshd ------------------------------------------------------------------------


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_who_listens_is_no_sshd(user: User, known: Sshd, words: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(words)
        theirs.shutdown(socket.SHUT_WR)
        with (
            pytest.raises(Unreachable, match=f"no SSH connection to root@{NAME}:22"),
            ssh.connect(user.endpoint("id"), ours, timeout_s=LIMIT_S),
        ):
            pass


def test_a_socket_for_the_switch_over(user: User) -> None:
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


def test_a_name_that_is_none(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable, match=r"port 22: .*label"):
        ssh.open_socket(user.endpoint(address=64 * "a"))

    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(Unreachable, match="cannot resolve beta: Name or service not known"):
        ssh.open_socket(user.endpoint())


# --- the user's keys -------------------------------------------------------------------------------


def test_keys_are_offered_in_the_order_of_the_files(user: User, known: Sshd) -> None:
    other = user.key("other")
    (user.home / "no key").write_text("nothing")
    user.key("secret", "-N", "passphrase")
    names = ["none", "no key", "secret", "other", "id"]
    with connected(known, user.endpoint(*names)):
        assert known.offered == [other, *known.allowed]


def test_without_a_key_nothing_is_offered(user: User, known: Sshd) -> None:
    said = refused(known, user.endpoint("none"))
    assert said.startswith(f"{AuthenticationRefused.__name__}: there is no key to log in to root@")
    assert known.offered == []


def test_keys_that_are_not_accepted(user: User, known: Sshd) -> None:
    user.key("other")
    assert refused(known, user.endpoint("other")).endswith(":22 accepts none of the keys offered")


def test_a_host_that_takes_no_keys(user: User, known: Sshd) -> None:
    known.methods = "password"
    known.allowed = ()
    user.key("other")
    assert refused(known, user.endpoint("id", "other")).endswith("none of the keys offered")
    assert len(known.offered) == 1, "the second is of no use"


def test_a_host_that_hangs_up_after_some_keys(user: User, known: Sshd) -> None:
    for name in ("a", "b", "c"):
        user.key(name)
    known.hangs_up_after = 1
    assert refused(known, user.endpoint("a", "b", "c", "id")).endswith("none of the keys offered")
    assert known.offered == [ssh._public_blob(user.home / name) for name in ("a", "b")]


def test_a_connection_that_broke_before_any_key(user: User, known: Sshd) -> None:
    with known.connection() as sock, ssh.connect(user.endpoint("id"), sock) as connection:
        connection._transport.close()
        with pytest.raises(Unreachable, match=f"no SSH connection to root@{NAME}:22: No existing"):
            ssh._authenticate(connection._transport, user.endpoint("id"))


# --- an agent --------------------------------------------------------------------------------------


@pytest.fixture
def agent(user: User) -> Iterator[Path]:
    """An ssh-agent that has the keys "held" and "named"; a public key is in a file of the latter's name."""
    path = user.home / "agent"
    argv = ["ssh-agent", "-D", "-a", str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it listens
        for name in ("held", "named"):
            user.key(name)
            subprocess.run(
                ["ssh-add", "-q", str(user.home / name)],
                env={**os.environ, "SSH_AUTH_SOCK": str(path)},
                check=True,
                capture_output=True,
            )
            (user.home / name).unlink()
        yield path
        process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("only", [False, True])
def test_keys_of_an_agent(
    user: User, known: Sshd, agent: Path, monkeypatch: pytest.MonkeyPatch, only: bool
) -> None:
    """Those that a file names come first, and are all if the user wants no others."""
    monkeypatch.setenv("SSH_AUTH_SOCK", "/somewhere/else")
    held, named = (ssh._public_blob(user.home / name) for name in ("held", "named"))
    with connected(known, user.endpoint("named", "id", agent=agent, identities_only=only)):
        between = [] if only else [held]
        assert known.offered == [named, *between, *known.allowed]
    assert os.environ["SSH_AUTH_SOCK"] == "/somewhere/else"


def test_an_agent_signs(
    user: User, known: Sshd, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    blob = ssh._public_blob(user.home / "held")
    assert blob is not None
    known.allowed = [blob]
    with connected(known, user.endpoint(agent=agent)) as connection:
        assert connection.run("words").read(5) == b"words"
    assert "SSH_AUTH_SOCK" not in os.environ


@pytest.mark.filterwarnings("ignore:unclosed <socket", "ignore:Exception ignored in. <socket")
@pytest.mark.parametrize("answers", [False, True])
def test_an_agent_that_is_none(user: User, known: Sshd, answers: bool) -> None:
    path = user.home / "agent"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))  # paramiko leaves its own end of it to the garbage collector
        if answers:
            server.listen()
            threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        with connected(known, user.endpoint("id", agent=path)):
            assert known.offered == known.allowed


# --- the public half of a key ----------------------------------------------------------------------


def key_line(user: User) -> str:
    user.key("key")
    text = (user.home / "key.pub").read_text()
    (user.home / "key.pub").unlink()
    return text


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda text: text, True),
        (lambda text: text.replace("ssh-ed25519 ", "ssh-rsa "), False),
        (lambda text: text.replace(" AAAA", " %%%%"), False),
        (lambda text: "ssh-ed25519", False),
        (lambda text: "", False),
        (lambda text: f"\N{LATIN SMALL LETTER E WITH ACUTE}{text}", False),
    ],
)
def test_a_public_key_in_a_file(user: User, damage: Callable[[str], str], found: bool) -> None:
    text = key_line(user)
    (user.home / "public").write_text(damage(text))
    blob = ssh._public_blob(user.home / "public")
    assert (blob is not None) is found
    if blob is not None:
        assert key_type(blob) == "ssh-ed25519"
