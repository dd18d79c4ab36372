"""Tests of transport/ssh.py: the keys that are offered, from files and from an agent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest

from tests.unit.transport.ssh.user import NAME, User, connected, refused
from tests.unit.transport.sshd import Sshd
from transport import ssh
from transport.errors import (
    AuthenticationRefused,
    Unreachable,
)
from transport.known_hosts import key_type


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


def test_keys_that_are_not_accepted_are_an_error(user: User, known: Sshd) -> None:
    user.key("other")
    assert refused(known, user.endpoint("other")).endswith(":22 accepts none of the keys offered")


def test_a_host_that_takes_no_keys_is_offered_one(user: User, known: Sshd) -> None:
    known.methods = "password"
    known.allowed = ()
    user.key("other")
    assert refused(known, user.endpoint("id", "other")).endswith("none of the keys offered")
    assert len(known.offered) == 1, "the second is of no use"


def test_a_host_that_hangs_up_after_some_keys_accepts_none(user: User, known: Sshd) -> None:
    for name in ("a", "b", "c"):
        user.key(name)
    known.hangs_up_after = 1
    assert refused(known, user.endpoint("a", "b", "c", "id")).endswith("none of the keys offered")
    assert known.offered == [ssh.public_blob(user.home / name) for name in ("a", "b")]


def test_a_connection_that_broke_before_any_key_is_no_refusal(user: User, known: Sshd) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = paramiko.Transport(ours)  # it was never started
        with pytest.raises(Unreachable, match=f"no SSH connection to root@{NAME}:22: No existing"):
            ssh.authenticate(transport, user.endpoint("id"))


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
def test_keys_of_an_agent_that_files_name_are_offered_first(
    user: User, known: Sshd, agent: Path, monkeypatch: pytest.MonkeyPatch, only: bool
) -> None:
    """Keys that a file names come first, and are all if the user wants no others."""
    monkeypatch.setenv("SSH_AUTH_SOCK", "/somewhere/else")
    held, named = (ssh.public_blob(user.home / name) for name in ("held", "named"))
    with connected(known, user.endpoint("named", "id", agent=agent, identities_only=only)):
        between = [] if only else [held]
        assert known.offered == [named, *between, *known.allowed]
    assert os.environ["SSH_AUTH_SOCK"] == "/somewhere/else"


def test_a_key_that_only_an_agent_has_logs_in(
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
def test_without_an_agent_at_its_socket_only_files_are_used(
    user: User, known: Sshd, answers: bool
) -> None:
    path = user.home / "agent"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))  # paramiko leaves its own end of it to the garbage collector
        if answers:
            server.listen()
            threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        with connected(known, user.endpoint("id", agent=path)):
            assert known.offered == known.allowed


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
def test_a_public_key_is_read_if_its_type_is_that_of_its_line(
    user: User, damage: Callable[[str], str], found: bool
) -> None:
    text = key_line(user)
    (user.home / "public").write_text(damage(text))
    blob = ssh.public_blob(user.home / "public")
    assert (blob is not None) is found
    if blob is not None:
        assert key_type(blob) == "ssh-ed25519"
