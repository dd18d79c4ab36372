"""Tests of transport/ssh.py: a process on another host, and the verification of host keys.

The connection is a real one within this process. A host's key is taken or refused as ssh(1) does
it, whatever known_hosts and the host say.
"""

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
from typing import Any, cast

import paramiko
import pytest
from paramiko.common import AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from tests.unit.transport.host_keys import Keys
from tests.unit.transport.sshd import Sshd
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
from transport.host_certificate import Certificate
from transport.keepalive import Keepalive
from transport.known_hosts import Known, key_type
from transport.ssh import RemoteProcess

LIMIT_S = 20.0


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


def shown(blob: bytes) -> paramiko.PKey:
    """Return a key as paramiko has it after the key exchange, also if it came in a certificate."""
    kinds: dict[str, Callable[..., paramiko.PKey]] = {
        "ssh-ed25519": paramiko.Ed25519Key,
        "ssh-rsa": paramiko.RSAKey,
        "ecdsa-sha2-nistp256": paramiko.ECDSAKey,
    }
    return kinds[key_type(blob).removesuffix("-cert-v01@openssh.com")](data=blob)


BETA = Endpoint.of(Destination(name="beta"), {})


def verify(blob: bytes, known: Known, endpoint: Endpoint = BETA) -> None:
    """Verify a key or a certificate that a host shows."""
    ssh.verify(shown(blob), known, endpoint)


def test_a_known_key_is_taken(keys: Keys) -> None:
    key = keys.key("host")
    verify(key, Known(frozenset({keys.key("other"), key})))


def test_another_key_of_a_known_type_has_changed(keys: Keys) -> None:
    with pytest.raises(HostKeyChanged):
        verify(keys.key("host"), Known(frozenset({keys.key("other")})))


def test_a_key_of_another_type_is_unknown(keys: Keys) -> None:
    with pytest.raises(
        HostKeyUnknown, match="type ecdsa-sha2-nistp256, and known_hosts has only its ssh-ed25519"
    ):
        verify(keys.key("host", "ecdsa"), Known(frozenset({keys.key("other")})))


def test_a_revoked_key_is_refused(keys: Keys) -> None:
    """The key is listed as known, too."""
    key = keys.key("host")
    with pytest.raises(HostKeyRefused, match="revoked"):
        verify(key, Known(frozenset({key}), frozenset(), frozenset({key})))


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_certificate_of_a_known_authority_is_taken(keys: Keys, kind: str) -> None:
    certificate = keys.certificate("host", "authority", kind=kind)
    known = Known(frozenset(), frozenset({keys.key("authority")}))
    verify(certificate, known)
    by_address = replace(BETA, certified_name="10.0.0.2", key_name="[10.0.0.2]:2222")
    verify(certificate, known, by_address)
    assert Certificate.parse(certificate).key == keys.key("host")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-V", "20200101:20200201"], "it has expired"),
        (["-V", "20990101:20990201"], "it is not valid yet"),
        (["-n", "gamma,bet?x"], r"it is for gamma, bet\?x"),
    ],
)
def test_a_certificate_that_does_not_hold_is_refused(
    keys: Keys, options: list[str], why: str
) -> None:
    certificate = keys.certificate("host", "authority", *options)
    with pytest.raises(HostKeyRefused, match=why):
        verify(certificate, Known(frozenset(), frozenset({keys.key("authority")})))


def test_a_certificate_that_names_no_host_is_refused(keys: Keys) -> None:
    keys.certificate("host", "authority")
    keys.run("-s", str(keys.directory / "authority"), "-I", "id", "-h", "host.pub")
    certificate = keys.public(keys.directory / "host-cert.pub")
    with pytest.raises(HostKeyRefused, match="it names no host"):
        verify(certificate, Known(frozenset(), frozenset({keys.key("authority")})))


def test_a_certificate_may_have_wildcards(keys: Keys) -> None:
    verify(
        keys.certificate("host", "ca", "-n", "b*"), Known(frozenset(), frozenset({keys.key("ca")}))
    )


def test_a_certificate_of_a_user_is_refused(keys: Keys) -> None:
    keys.key("host")
    keys.key("authority")
    keys.run("-s", str(keys.directory / "authority"), "-I", "id", "-n", "beta", "host.pub")
    with pytest.raises(HostKeyRefused, match="it is a user's"):
        verify(
            keys.public(keys.directory / "host-cert.pub"),
            Known(frozenset(), frozenset({keys.key("authority")})),
        )


def test_an_unknown_authority_leaves_the_key(keys: Keys) -> None:
    """To ssh(1), too, such a certificate is no more than its key."""
    certificate, key = keys.certificate("host", "mallory"), keys.key("host")
    verify(certificate, Known(frozenset({key}), frozenset({keys.key("authority")})))
    with pytest.raises(HostKeyUnknown, match="an authority, which did not certify it"):
        verify(certificate, Known(frozenset(), frozenset({keys.key("authority")})))


@pytest.mark.parametrize("revoked", ["host", "authority"])
def test_a_certificate_with_a_revoked_key_is_refused(keys: Keys, revoked: str) -> None:
    certificate = keys.certificate("host", "authority")
    known = Known(frozenset(), frozenset({keys.key("authority")}), frozenset({keys.key(revoked)}))
    with pytest.raises(HostKeyRefused, match="revoked"):
        verify(certificate, known)


def test_every_byte_of_a_certificate_is_signed(keys: Keys) -> None:
    """With one byte changed it is never taken for the host's.

    A key or an authority that is another is told as such.
    """
    certificate = keys.certificate("host", "authority")
    known = Known(frozenset(), frozenset({keys.key("authority")}))
    for at in range(len(certificate)):
        changed = bytearray(certificate)
        changed[at] ^= 1
        try:
            key = shown(bytes(changed))
        except (KeyError, ValueError, paramiko.SSHException):
            continue  # paramiko would have ended the key exchange
        with pytest.raises((HostKeyRefused, HostKeyUnknown)):
            ssh.verify(key, known, BETA)


def test_a_certificate_signed_by_another_algorithm_is_refused(keys: Keys) -> None:
    certificate = keys.certificate("host", "authority")
    known = Known(frozenset(), frozenset({keys.key("authority")}))
    with pytest.raises(HostKeyRefused, match="signed by ssh-ed25519, which is not trusted"):
        verify(certificate, known, replace(BETA, authority_algorithms=("rsa-sha2-512",)))


def chosen(endpoint: Endpoint, known: Known) -> tuple[str, ...]:
    """Return the algorithms that are offered to a host, in their order."""
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        options = paramiko.Transport(ours).get_security_options()
        ssh.choose_algorithms(options, endpoint, known)
        return tuple(options.key_types)


def test_algorithms_of_known_keys_come_first(keys: Keys) -> None:
    plain = chosen(BETA, Known(frozenset({keys.key("rsa", "rsa")})))
    assert set(plain[:2]) == {"rsa-sha2-512", "rsa-sha2-256"}
    assert "ssh-rsa" not in plain
    assert not any("cert" in name for name in plain)
    assert chosen(BETA, Known(frozenset({keys.key("ecdsa", "ecdsa")})))[0] == "ecdsa-sha2-nistp256"
    certified = chosen(
        BETA, Known(frozenset({keys.key("rsa")}), frozenset({keys.key("authority")}))
    )
    assert certified[0].endswith("-cert-v01@openssh.com")
    assert chosen(replace(BETA, algorithms=("ssh-ed25519", "sk-x")), Known()) == ("ssh-ed25519",)


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
    """Return the error by which a connection could not be made."""
    with pytest.raises(ConnectError) as caught, connected(sshd, endpoint):
        pass
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.fixture
def known(user: User) -> Sshd:
    """Return a host that the user knows, and that lets in the user's key "id"."""
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


def test_an_error_without_words_has_its_kinds_name() -> None:
    alive: Any = SimpleNamespace(silent_s=None)
    channel: Any = SimpleNamespace(recv=raising(EOFError()))
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
    assert known.offered == [ssh.public_blob(user.home / name) for name in ("a", "b")]


def test_a_connection_that_broke_before_any_key(user: User, known: Sshd) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = paramiko.Transport(ours)  # it was never started
        with pytest.raises(Unreachable, match=f"no SSH connection to root@{NAME}:22: No existing"):
            ssh.authenticate(transport, user.endpoint("id"))


# --- an agent --------------------------------------------------------------------------------------


@pytest.fixture
def agent(user: User) -> Iterator[Path]:
    """Yield the socket of an ssh-agent that has the keys "held" and "named"."""
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
    """Keys that a file names come first, and are all if the user wants no others."""
    monkeypatch.setenv("SSH_AUTH_SOCK", "/somewhere/else")
    held, named = (ssh.public_blob(user.home / name) for name in ("held", "named"))
    with connected(known, user.endpoint("named", "id", agent=agent, identities_only=only)):
        between = [] if only else [held]
        assert known.offered == [named, *between, *known.allowed]
    assert os.environ["SSH_AUTH_SOCK"] == "/somewhere/else"


def test_an_agent_signs(
    user: User, known: Sshd, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    blob = ssh.public_blob(user.home / "held")
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
    blob = ssh.public_blob(user.home / "public")
    assert (blob is not None) is found
    if blob is not None:
        assert key_type(blob) == "ssh-ed25519"
