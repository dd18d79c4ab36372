"""Tests of transport/endpoint.py: a destination means what it means to ssh(1).

It means the same where there is no ssh(1) to say so.
"""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from transport import endpoint, ssh_config
from transport.destination import Destination
from transport.endpoint import Endpoint

Read = Callable[[str, str], Endpoint]


@pytest.fixture(params=["ssh(1)", "ssh_config.py"])
def read(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Return the function that reads a destination's endpoint by a user's file.

    It asks ssh(1), or reads the file itself. There are no files of the system's.
    """
    file = tmp_path / ".ssh/config"
    file.parent.mkdir()
    monkeypatch.setattr(ssh_config, "SYSTEM_CONFIG", tmp_path / "none")

    def of(text: str, config: str = "") -> Endpoint:
        file.write_text(config)
        destination = Destination.parse(text)
        if request.param == "ssh(1)":
            question = endpoint.question(destination)
            argv = [question[0], "-F", str(file), *question[1:]]
            answer = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
            return Endpoint.of(destination, endpoint.parsed(answer), tmp_path)
        return Endpoint.of(destination, ssh_config.lookup(destination, tmp_path), tmp_path)

    return of


def test_without_any_config_the_defaults_hold(read: Read, tmp_path: Path) -> None:
    found = read("beta", "")
    assert (found.address, found.port, found.user) == ("beta", 22, getpass.getuser())
    assert (found.key_name, found.certified_name) == ("beta", "beta")
    assert [path.name for path in found.known_hosts] == [
        "known_hosts",
        "known_hosts2",
        "ssh_known_hosts",
        "ssh_known_hosts2",
    ]
    assert tmp_path / ".ssh/id_ed25519" in found.key_files
    assert (found.proxy, found.revoked_keys, found.identities_only) == (None, None, False)
    assert found.algorithms is None or "ssh-ed25519" in found.algorithms


def test_an_alias_may_set_everything(read: Read) -> None:
    config = """
        Host box
            HostName 10.0.0.2
            Port 2222
            User mover
            HostKeyAlias box-key
            IdentityFile /keys/one
            IdentityFile /keys/%n-%p-%r
            IdentitiesOnly yes
            UserKnownHostsFile /known/one /known/%h
            GlobalKnownHostsFile /known/global
            RevokedHostKeys /known/revoked
        Host *
            User somebody
    """
    found = read("box", config)
    assert (found.address, found.port, found.user) == ("10.0.0.2", 2222, "mover")
    assert (found.key_name, found.certified_name) == ("box-key", "box-key")
    assert found.key_files == (Path("/keys/one"), Path("/keys/box-2222-mover"))
    assert found.known_hosts == (Path("/known/one"), Path("/known/10.0.0.2"), Path("/known/global"))
    assert found.revoked_keys == Path("/known/revoked")
    assert found.identities_only
    assert found.proxy is None
    assert str(found) == "mover@10.0.0.2:2222"


def test_user_and_port_of_the_argument_win(read: Read) -> None:
    found = read("root@box:2022", "Host box\n  User mover\n  Port 2222\n  HostKeyAlias box-key\n")
    assert (found.user, found.port, found.key_name) == ("root", 2022, "box-key")


def test_other_hosts_entries_do_not_count(read: Read) -> None:
    found = read("beta", "Host box\n  HostName 10.0.0.2\n  Port 2222\n")
    assert (found.address, found.port) == ("beta", 22)


@pytest.mark.parametrize(
    ("text", "config", "key_name", "certified_name"),
    [
        ("beta:2222", "", "[beta]:2222", "beta"),
        ("beta:22", "", "beta", "beta"),
        ("beta", "Host beta\n  Port 2222\n", "[beta]:2222", "beta"),
        ("beta:22", "Host beta\n  Port 2222\n", "beta", "beta"),
        ("[fd00::2]:2222", "", "[fd00::2]:2222", "fd00::2"),
        ("beta:2222", "Host beta\n  HostKeyAlias alias\n", "alias", "alias"),
        ("box", "Host box\n  HostName 10.0.0.2\n", "10.0.0.2", "10.0.0.2"),
    ],
)
def test_the_name_in_known_hosts_has_the_port_if_it_is_not_22(
    read: Read, text: str, config: str, key_name: str, certified_name: str
) -> None:
    found = read(text, config)
    assert (found.key_name, found.certified_name) == (key_name, certified_name)


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ("ProxyJump jump", "ssh -W 10.0.0.2:22 ssh://jump"),
        ("ProxyJump me@jump", "ssh -W 10.0.0.2:22 ssh://me@jump"),
        ("ProxyJump a,b,me@jump:2200", "ssh -J a,b -W 10.0.0.2:22 ssh://me@jump:2200"),
        ("ProxyJump none", None),
        ("ProxyCommand none", None),
        ("ProxyCommand nc -X 5 somewhere", "nc -X 5 somewhere"),
        ("ProxyCommand nc %h %p | tee '%n%%'", "nc 10.0.0.2 22 | tee 'box%'"),
    ],
)
def test_a_proxy_is_a_command(read: Read, config: str, command: str | None) -> None:
    assert read("box", f"Host box\n  HostName 10.0.0.2\n  {config}\n").proxy == command


def test_a_proxy_goes_to_the_port_and_user_of_the_argument(read: Read) -> None:
    assert (
        read("root@box:2022", "Host box\n  ProxyCommand nc %h %p %r\n").proxy == "nc box 2022 root"
    )
    assert read("box:2022", "Host box\n  ProxyJump jump\n").proxy == "ssh -W box:2022 ssh://jump"


def test_a_jump_to_an_ipv6_address_has_it_in_brackets(read: Read) -> None:
    assert "'[fd00::2]:22'" in str(
        read("box", "Host box\n  HostName fd00::2\n  ProxyJump jump\n").proxy
    )


def test_the_agent_is_found_as_ssh_finds_it(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent/usual")
    monkeypatch.setenv("OTHER", "/agent/other")
    assert read("box", "").agent == Path("/agent/usual")
    assert read("box", "IdentityAgent /agent/%n").agent == Path("/agent/box")
    assert read("box", "IdentityAgent $OTHER").agent == Path("/agent/other")
    assert read("box", "IdentityAgent SSH_AUTH_SOCK").agent == Path("/agent/usual")
    assert read("box", "IdentityAgent none").agent is None
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert read("box", "").agent is None


@pytest.mark.parametrize("read", ["ssh(1)"], indirect=True)
def test_include_match_and_algorithms_are_known_by_ssh(read: Read, tmp_path: Path) -> None:
    (tmp_path / "included").write_text(
        'Match host box exec "true"\n  HostName 10.0.0.7\n  User matched\n'
    )
    found = read("box", f"Include {tmp_path}/included\nMatch exec false\n  HostName 10.0.0.8\n")
    assert (found.address, found.user) == ("10.0.0.7", "matched")
    only = read("box", "HostKeyAlgorithms rsa-sha2-512\nCASignatureAlgorithms ssh-ed25519\n")
    assert only.algorithms == ("rsa-sha2-512",)
    assert only.authority_algorithms == ("ssh-ed25519",)


@pytest.mark.parametrize("read", ["ssh_config.py"], indirect=True)
def test_the_users_file_comes_before_the_systems(read: Read, tmp_path: Path) -> None:
    system = (
        "Host *\n  Port 1000\n  User system\n  IdentityFile /keys/system\n  HostName 10.0.0.9\n"
    )
    (tmp_path / "none").write_text(system)
    found = read("box", "Host box\n  Port 2222\n  IdentityFile /keys/mine\n")
    assert (found.address, found.port, found.user) == ("10.0.0.9", 2222, "system")
    assert found.key_files == (Path("/keys/mine"), Path("/keys/system"))
