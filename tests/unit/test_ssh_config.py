"""ssh_config is applied as ssh does it, and what the argument says wins."""

import getpass
from pathlib import Path

import pytest

from transport import ssh
from transport.destination import Destination
from transport.ssh import Endpoint


@pytest.fixture(autouse=True)
def system_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's own ssh_config is not part of these tests."""
    path = tmp_path / "system_config"
    monkeypatch.setattr(ssh, "SYSTEM_CONFIG", path)
    return path


def endpoint(home: Path, text: str, config: str | None = None) -> Endpoint:
    if config is not None:
        (home / ".ssh").mkdir(exist_ok=True)
        (home / ".ssh/config").write_text(config)
    return Endpoint.of(Destination.parse(text), home)


def test_without_any_config(tmp_path: Path) -> None:
    assert endpoint(tmp_path, "beta") == Endpoint(
        destination=Destination(name="beta"),
        address="beta",
        port=22,
        user=getpass.getuser(),
        key_name="beta",
        known_hosts=(tmp_path / ".ssh/known_hosts", ssh.SYSTEM_KNOWN_HOSTS),
        key_files=(),
        proxy_command=None,
    )


def test_an_alias_with_everything(tmp_path: Path) -> None:
    config = """
        Host box
            HostName 10.0.0.2
            Port 2222
            User mover
            HostKeyAlias box-key
            IdentityFile /keys/one
            IdentityFile /keys/two
            UserKnownHostsFile /known/one /known/two
        Host *
            User somebody
    """
    found = endpoint(tmp_path, "box", config)
    assert (found.address, found.port, found.user) == ("10.0.0.2", 2222, "mover")
    assert found.key_name == "box-key"
    assert found.key_files == ("/keys/one", "/keys/two")
    assert found.known_hosts == (Path("/known/one"), Path("/known/two"), ssh.SYSTEM_KNOWN_HOSTS)
    assert found.proxy_command is None
    assert str(found) == "mover@10.0.0.2:2222"


def test_user_and_port_of_the_argument_win(tmp_path: Path) -> None:
    found = endpoint(tmp_path, "root@box:2022", "Host box\n  User mover\n  Port 2222\n  HostKeyAlias box-key\n")
    assert (found.user, found.port, found.key_name) == ("root", 2022, "box-key")


def test_other_hosts_entries_do_not_count(tmp_path: Path) -> None:
    found = endpoint(tmp_path, "beta", "Host box\n  HostName 10.0.0.2\n  Port 2222\n")
    assert (found.address, found.port) == ("beta", 22)


@pytest.mark.parametrize(
    ("text", "config", "key_name"),
    [
        ("beta:2222", "", "[beta]:2222"),
        ("beta:22", "", "beta"),
        ("beta", "Host beta\n  Port 2222\n", "[beta]:2222"),
        ("beta:22", "Host beta\n  Port 2222\n", "beta"),
        ("[fd00::2]:2222", "", "[fd00::2]:2222"),
        ("beta:2222", "Host beta\n  HostKeyAlias alias\n", "alias"),
    ],
)
def test_the_name_in_known_hosts(tmp_path: Path, text: str, config: str, key_name: str) -> None:
    assert endpoint(tmp_path, text, config).key_name == key_name


def test_with_another_hostname_known_hosts_lists_that(tmp_path: Path) -> None:
    assert endpoint(tmp_path, "box", "Host box\n  HostName 10.0.0.2\n").key_name == "10.0.0.2"


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ("ProxyJump jump", "ssh -W 10.0.0.2:22 ssh://jump"),
        ("ProxyJump me@jump", "ssh -W 10.0.0.2:22 ssh://me@jump"),
        ("ProxyJump none", None),
        ("ProxyCommand none", None),
        ("ProxyCommand nc -X 5 somewhere", "nc -X 5 somewhere"),
        ("ProxyCommand nc %h %p", "nc 10.0.0.2 22"),
    ],
)
def test_a_proxy(tmp_path: Path, config: str, command: str | None) -> None:
    found = endpoint(tmp_path, "box", f"Host box\n  HostName 10.0.0.2\n  {config}\n")
    replaced = found.proxy_command
    if replaced is not None:
        replaced = replaced.replace("%h", found.address).replace("%p", str(found.port))
    assert replaced == command


def test_a_jump_goes_to_the_port_of_the_argument(tmp_path: Path) -> None:
    assert endpoint(tmp_path, "box:2022", "Host box\n  ProxyJump jump\n").proxy_command == "ssh -W box:2022 ssh://jump"


def test_a_proxy_command_goes_to_the_port_of_the_argument(tmp_path: Path) -> None:
    found = endpoint(tmp_path, "root@box:2022", "Host box\n  ProxyCommand nc %h %p %r\n")
    assert found.proxy_command is not None
    filled = found.proxy_command.replace("%h", found.address).replace("%p", str(found.port))
    assert filled.replace("%r", found.user) == "nc box 2022 root"


def test_a_jump_with_a_port_is_written_as_ssh_reads_it(tmp_path: Path) -> None:
    command = endpoint(tmp_path, "box", "Host box\n  ProxyJump me@jump:2200\n").proxy_command
    assert command in (
        "ssh -W box:22 -p 2200 me@jump",
        "ssh -W box:22 ssh://me@jump:2200",
        "ssh -W box:22 -J me@jump:2200 box",
    )


def test_a_jump_to_an_ipv6_address_has_it_in_brackets(tmp_path: Path) -> None:
    command = endpoint(tmp_path, "box", "Host box\n  HostName fd00::2\n  ProxyJump jump\n").proxy_command
    assert command is not None
    assert "[fd00::2]:22" in command


def test_the_users_file_comes_before_the_systems(tmp_path: Path, system_config: Path) -> None:
    system_config.write_text("Host *\n  Port 1000\n  User system\n  IdentityFile /keys/system\n")
    found = endpoint(tmp_path, "box", "Host box\n  Port 2222\n  IdentityFile /keys/mine\n")
    assert (found.port, found.user) == (2222, "system")
    assert found.key_files == ("/keys/mine", "/keys/system")


def test_a_hostname_of_the_system_file_counts(tmp_path: Path, system_config: Path) -> None:
    system_config.write_text("Host box\n  HostName 10.0.0.9\n")
    assert endpoint(tmp_path, "box", "Host box\n  Port 2222\n").address == "10.0.0.9"
