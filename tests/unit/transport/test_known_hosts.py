"""Tests of transport/known_hosts.py: known_hosts is read as ssh(1) reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.transport.host_keys import Keys, line
from transport import known_hosts
from transport.errors import HostKeyRefused
from transport.known_hosts import Known, names_host


def told(tmp_path: Path, *lines: str, name: str = "beta") -> Known:
    """Return what these lines of known_hosts say of a name."""
    (tmp_path / "known").write_text("".join(lines))
    return known_hosts.known(name, [tmp_path / "none", tmp_path / "known"])


@pytest.mark.parametrize(
    ("patterns", "name", "meant"),
    [
        ("beta", "beta", True),
        ("beta", "BETA", True),
        ("Beta,gamma", "beta", True),
        ("beta", "beta2", False),
        ("*", "beta", True),
        ("*.example", "beta.example", True),
        ("*.example,!bad.example", "bad.example", False),
        ("!bad.example,*.example", "beta.example", True),
        ("!beta", "gamma", False),
        ("10.0.0.?", "10.0.0.2", True),
        ("10.0.0.?", "10.0.0.22", False),
        ("[beta]:2222", "[beta]:2222", True),
        ("[beta]:2222", "b:2222", False),
        ("[abc]", "a", False),
        ("[beta]:*", "[beta]:2222", True),
        ("|1|", "beta", False),
        ("|1|AAAA|AAAA", "beta", False),
        ("|1|%%|%%", "beta", False),
        ("|2|AAAA|AAAA", "beta", False),
        ("", "beta", False),
    ],
)
def test_patterns_match_names_as_in_ssh(patterns: str, name: str, meant: bool) -> None:
    assert names_host(patterns, name) is meant


def test_hashed_names_are_matched(keys: Keys, tmp_path: Path) -> None:
    key = keys.key("host")
    (tmp_path / "known").write_text(
        line("beta", key) + line("[beta]:2222", key) + line("gamma", keys.key("other"))
    )
    subprocess.run(
        ["ssh-keygen", "-q", "-H", "-f", str(tmp_path / "known")], check=True, capture_output=True
    )
    assert "beta" not in (tmp_path / "known").read_text()
    for name in ("beta", "BETA", "[beta]:2222"):
        assert known_hosts.known(name, [tmp_path / "known"]) == Known(frozenset({key}))
    assert not known_hosts.known("delta", [tmp_path / "known"])


def test_a_name_without_the_port_will_do(keys: Keys, tmp_path: Path) -> None:
    """That is so if nothing is known of the name with the port.

    ssh(1) says then: found matching key w/out port.
    """
    one, two = keys.key("one"), keys.key("two")
    assert told(tmp_path, line("beta", one), name="[beta]:2222").keys == {one}
    assert told(tmp_path, line("beta", one), line("[beta]:2222", two), name="[beta]:2222").keys == {
        two
    }
    assert told(
        tmp_path, line("beta", one), line("*", one, "@revoked"), name="[beta]:2222"
    ).revoked == {one}
    assert not told(tmp_path, line("[beta]:2222", one), name="beta")


def test_markers_tell_authorities_and_revoked_keys(keys: Keys, tmp_path: Path) -> None:
    one, two, three = keys.key("one"), keys.key("two"), keys.key("three")
    lines = [
        line("beta", one),
        line("*", two, "@cert-authority"),
        line("b*", three, "@revoked"),
        line("x", one),
    ]
    assert told(tmp_path, *lines) == Known(frozenset({one}), frozenset({two}), frozenset({three}))
    assert not told(tmp_path, line("beta", one, "@unknown"))


ODD = [
    "",
    "#",
    "# beta ssh-ed25519 AAAA",
    "beta",
    "beta ssh-ed25519",
    "beta ssh-ed25519 AAAA",
    "beta ssh-ed25519 %%%%",
    "@revoked",
    "@revoked beta",
    "@cert-authority beta ssh-ed25519 !",
    "beta 1024 35 1234567890",
    "|1|x ssh-rsa AAAA",
    "\0\xff\udcff",
    "beta ssh-rsa AAAAB3NzaC1lZDI1NTE5AAAA",
]


def test_odd_lines_say_nothing(keys: Keys, tmp_path: Path) -> None:
    key = keys.key("host")
    text = "\n".join([*ODD, line("beta", key)]).encode("utf-8", "surrogateescape")
    (tmp_path / "known").write_bytes(text)
    assert known_hosts.known("beta", [tmp_path / "known"]) == Known(frozenset({key}))


@given(content=st.binary(max_size=200))
def test_a_file_of_any_bytes_is_read(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    known_hosts.known("beta", [path])


def test_revoked_keys_are_read_from_a_plain_list_only(keys: Keys, tmp_path: Path) -> None:
    key = keys.key("host")
    (tmp_path / "revoked").write_text(f"# a list\n{line('', key)}nonsense\n")
    assert known_hosts.revoked_keys(tmp_path / "revoked") == {key}
    subprocess.run(
        ["ssh-keygen", "-q", "-k", "-f", "krl", "host.pub"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    with pytest.raises(HostKeyRefused, match="binary list"):
        known_hosts.revoked_keys(tmp_path / "krl")
    with pytest.raises(HostKeyRefused, match="cannot be read"):
        known_hosts.revoked_keys(tmp_path / "none")
