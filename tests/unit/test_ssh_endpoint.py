"""transport/ssh.py: ssh_config applied to a destination."""

from __future__ import annotations

import getpass
import shlex
from pathlib import Path

import pytest

from transport import ssh
from transport.destination import Destination
from transport.ssh import Endpoint


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own; this machine's own settings are out of sight."""
    monkeypatch.setattr(ssh, "SYSTEM_CONFIG", tmp_path / "etc_ssh_config")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/.ssh").mkdir(parents=True)
    return tmp_path / "home"


def endpoint(home: Path, config: str, destination: str, system: str | None = None) -> Endpoint:
    (home / ".ssh/config").write_text(config)
    if system is not None:
        (home.parent / "etc_ssh_config").write_text(system)
    return Endpoint.of(Destination.parse(destination), home)


def test_without_any_config(home: Path) -> None:
    found = Endpoint.of(Destination.parse("web1"), home)
    assert (found.address, found.port, found.user, found.key_name) == ("web1", 22, getpass.getuser(), "web1")
    assert found.known_hosts[0] == home / ".ssh/known_hosts"
    assert found.key_files == ()
    assert found.proxy_command is None


def test_an_alias(home: Path) -> None:
    config = "Host w\n HostName 10.0.0.7\n Port 2222\n User root\n"
    found = endpoint(home, config, "w")
    assert (found.address, found.port, found.user) == ("10.0.0.7", 2222, "root")


def test_what_the_user_wrote_wins(home: Path) -> None:
    found = endpoint(home, "Host w\n Port 2222\n User root\n", "me@w:2200")
    assert (found.user, found.port) == ("me", 2200)


def test_the_users_file_wins_over_the_systems(home: Path) -> None:
    found = endpoint(home, "Host w\n User root\n", "w", system="Host *\n User nobody\n Port 2022\n")
    assert (found.user, found.port) == ("root", 2022)


def test_the_systems_host_name_counts_when_the_users_file_says_nothing(home: Path) -> None:
    found = endpoint(home, "Host other\n HostName 10.0.0.1\n", "w", system="Host w\n HostName 10.0.0.2\n")
    assert found.address == "10.0.0.2"


@pytest.mark.parametrize(
    ("config", "destination", "key_name"),
    [
        ("", "web1", "web1"),
        ("", "web1:2222", "[web1]:2222"),
        ("Host w\n HostKeyAlias rack7\n", "w", "rack7"),
        ("Host w\n HostKeyAlias rack7\n Port 2222\n", "w", "rack7"),
        # ssh(1) records the name it connects to, not the alias: HostName when there is one.
        ("Host w\n HostName 10.0.0.7\n", "w", "10.0.0.7"),
        ("Host w\n HostName 10.0.0.7\n Port 2222\n", "w", "[10.0.0.7]:2222"),
    ],
)
def test_the_name_in_known_hosts(home: Path, config: str, destination: str, key_name: str) -> None:
    assert endpoint(home, config, destination).key_name == key_name


def test_identity_files_add_up(home: Path) -> None:
    found = endpoint(
        home,
        "Host w\n IdentityFile ~/.ssh/one\n IdentityFile /two\n",
        "w",
        system="Host *\n IdentityFile /three\n",
    )
    assert found.key_files == (f"{home}/.ssh/one", "/two", "/three")


def test_a_known_hosts_file_of_its_own(home: Path) -> None:
    found = endpoint(home, "Host w\n UserKnownHostsFile ~/.ssh/rack /other\n", "w")
    assert found.known_hosts[:2] == (home / ".ssh/rack", Path("/other"))


@pytest.mark.parametrize("value", ["none", "None"])
def test_no_proxy(home: Path, value: str) -> None:
    config = f"Host w\n ProxyCommand {value}\n"
    found = endpoint(home, config, "w")
    assert found.proxy_command is None or found.proxy_command.lower() != "none"


def test_a_jump(home: Path) -> None:
    config = "Host w\n HostName 10.0.0.7\n Port 2222\n ProxyJump me@gate\n"
    command = endpoint(home, config, "w").proxy_command
    assert command is not None
    assert shlex.split(command) == ["ssh", "-W", "10.0.0.7:2222", "me@gate"]


def test_a_jump_over_two_hosts(home: Path) -> None:
    """ssh takes one host there; the others are its -J."""
    command = endpoint(home, "Host w\n ProxyJump first,second\n", "w").proxy_command
    assert command is not None
    words = shlex.split(command)
    assert words[-1] == "second"
    assert words[words.index("-J") + 1] == "first"


def test_a_jump_with_a_port(home: Path) -> None:
    """`ssh me@gate:2200` is no host to ssh; a port goes in an option or a URI."""
    command = endpoint(home, "Host w\n ProxyJump me@gate:2200\n", "w").proxy_command
    assert command is not None
    assert "me@gate:2200" not in shlex.split(command)
    assert "2200" in command


def test_a_jump_to_an_address_of_version_6(home: Path) -> None:
    """-W wants brackets around one."""
    command = endpoint(home, "Host w\n HostName 2001:db8::2\n ProxyJump gate\n", "w").proxy_command
    assert command is not None
    assert shlex.split(command)[2] == "[2001:db8::2]:22"


def test_how_it_is_shown(home: Path) -> None:
    assert str(endpoint(home, "Host w\n HostName 10.0.0.7\n User root\n", "w")) == "root@10.0.0.7:22"
