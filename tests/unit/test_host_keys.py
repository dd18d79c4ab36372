"""A host's key is taken or refused as ssh(1) does it, whatever known_hosts and the host say."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport import known_hosts, ssh
from transport.destination import Destination
from transport.endpoint import Endpoint
from transport.errors import HostKeyChanged, HostKeyRefused, HostKeyUnknown
from transport.host_certificate import Certificate
from transport.known_hosts import Known, key_type, names_host


class Keys:
    """Keys and certificates, made by ssh-keygen in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def key(self, name: str, kind: str = "ed25519") -> bytes:
        """A key of that name, made the first time; its public half."""
        path = self.directory / name
        if not path.exists():
            self._run("-t", kind, "-N", "", "-C", name, "-f", str(path))
        return self.public(path.with_suffix(".pub"))

    def certificate(self, name: str, authority: str, *options: str, kind: str = "ed25519") -> bytes:
        """A host's certificate by an authority."""
        self.key(name, kind)
        self.key(authority)
        principals = () if "-n" in options else ("-n", "beta,10.0.0.2")
        self._run(
            "-s",
            str(self.directory / authority),
            "-I",
            "id",
            "-h",
            *principals,
            *options,
            f"{name}.pub",
        )
        return self.public(self.directory / f"{name}-cert.pub")

    def public(self, path: Path) -> bytes:
        return base64.b64decode(path.read_text().split()[1])

    def _run(self, *options: str) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", *options], cwd=self.directory, check=True, capture_output=True
        )


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def line(names: str, blob: bytes, marker: str = "") -> str:
    return f"{marker} {names} {key_type(blob)} {base64.b64encode(blob).decode()} comment\n".lstrip()


def told(tmp_path: Path, *lines: str, name: str = "beta") -> Known:
    (tmp_path / "known").write_text("".join(lines))
    return known_hosts.known(name, [tmp_path / "none", tmp_path / "known"])


def shown(blob: bytes) -> paramiko.PKey:
    """A key as paramiko has it after the key exchange, whether it came in a certificate or not."""
    kinds: dict[str, Callable[..., paramiko.PKey]] = {
        "ssh-ed25519": paramiko.Ed25519Key,
        "ssh-rsa": paramiko.RSAKey,
        "ecdsa-sha2-nistp256": paramiko.ECDSAKey,
    }
    return kinds[key_type(blob).removesuffix("-cert-v01@openssh.com")](data=blob)


BETA = Endpoint.of(Destination(name="beta"), {})


def verify(blob: bytes, known: Known, endpoint: Endpoint = BETA) -> None:
    ssh._verify(shown(blob), known, endpoint)


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
def test_names(patterns: str, name: str, meant: bool) -> None:
    assert names_host(patterns, name) is meant


def test_hashed_names(keys: Keys, tmp_path: Path) -> None:
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
    """... if nothing is known of it with the port (ssh(1): found matching key w/out port)."""
    one, two = keys.key("one"), keys.key("two")
    assert told(tmp_path, line("beta", one), name="[beta]:2222").keys == {one}
    assert told(tmp_path, line("beta", one), line("[beta]:2222", two), name="[beta]:2222").keys == {
        two
    }
    assert told(
        tmp_path, line("beta", one), line("*", one, "@revoked"), name="[beta]:2222"
    ).revoked == {one}
    assert not told(tmp_path, line("[beta]:2222", one), name="beta")


def test_markers(keys: Keys, tmp_path: Path) -> None:
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
def test_any_bytes_are_read(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    known_hosts.known("beta", [path])


def test_the_key_that_is_known(keys: Keys) -> None:
    key = keys.key("host")
    verify(key, Known(frozenset({keys.key("other"), key})))


def test_another_key_of_the_kind(keys: Keys) -> None:
    with pytest.raises(HostKeyChanged):
        verify(keys.key("host"), Known(frozenset({keys.key("other")})))


def test_a_key_of_another_kind(keys: Keys) -> None:
    with pytest.raises(
        HostKeyUnknown, match="type ecdsa-sha2-nistp256, and known_hosts has only its ssh-ed25519"
    ):
        verify(keys.key("host", "ecdsa"), Known(frozenset({keys.key("other")})))


def test_a_revoked_key(keys: Keys) -> None:
    """... though it is also listed as known."""
    key = keys.key("host")
    with pytest.raises(HostKeyRefused, match="revoked"):
        verify(key, Known(frozenset({key}), frozenset(), frozenset({key})))


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_certificate(keys: Keys, kind: str) -> None:
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
def test_a_certificate_that_does_not_hold(keys: Keys, options: list[str], why: str) -> None:
    certificate = keys.certificate("host", "authority", *options)
    with pytest.raises(HostKeyRefused, match=why):
        verify(certificate, Known(frozenset(), frozenset({keys.key("authority")})))


def test_a_certificate_for_any_host_is_for_none(keys: Keys) -> None:
    keys.certificate("host", "authority")
    keys._run("-s", str(keys.directory / "authority"), "-I", "id", "-h", "host.pub")
    certificate = keys.public(keys.directory / "host-cert.pub")
    with pytest.raises(HostKeyRefused, match="it names no host"):
        verify(certificate, Known(frozenset(), frozenset({keys.key("authority")})))


def test_wildcards_of_a_certificate(keys: Keys) -> None:
    verify(
        keys.certificate("host", "ca", "-n", "b*"), Known(frozenset(), frozenset({keys.key("ca")}))
    )


def test_a_users_certificate_is_no_hosts(keys: Keys) -> None:
    keys.key("host")
    keys.key("authority")
    keys._run("-s", str(keys.directory / "authority"), "-I", "id", "-n", "beta", "host.pub")
    with pytest.raises(HostKeyRefused, match="it is a user's"):
        verify(
            keys.public(keys.directory / "host-cert.pub"),
            Known(frozenset(), frozenset({keys.key("authority")})),
        )


def test_an_unknown_authority_leaves_the_key(keys: Keys) -> None:
    """As ssh(1) does: the certificate is then no more than its key."""
    certificate, key = keys.certificate("host", "mallory"), keys.key("host")
    verify(certificate, Known(frozenset({key}), frozenset({keys.key("authority")})))
    with pytest.raises(HostKeyUnknown, match="an authority, which did not certify it"):
        verify(certificate, Known(frozenset(), frozenset({keys.key("authority")})))


@pytest.mark.parametrize("revoked", ["host", "authority"])
def test_a_certificate_with_something_revoked(keys: Keys, revoked: str) -> None:
    certificate = keys.certificate("host", "authority")
    known = Known(frozenset(), frozenset({keys.key("authority")}), frozenset({keys.key(revoked)}))
    with pytest.raises(HostKeyRefused, match="revoked"):
        verify(certificate, known)


def test_every_byte_of_a_certificate_is_signed(keys: Keys) -> None:
    """One byte changed: never taken for the host's. A key or an authority that is another is told so."""
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
            ssh._verify(key, known, BETA)


@given(blob=st.binary(max_size=200))
def test_what_is_no_certificate(blob: bytes) -> None:
    for kind in (b"", b"\0\0\0\x20ssh-ed25519-cert-v01@openssh.com"):
        with pytest.raises(ValueError):
            Certificate.parse(kind + blob)


def test_only_some_algorithms_of_an_authority(keys: Keys) -> None:
    certificate = keys.certificate("host", "authority")
    known = Known(frozenset(), frozenset({keys.key("authority")}))
    with pytest.raises(HostKeyRefused, match="signed by ssh-ed25519, which is not trusted"):
        verify(certificate, known, replace(BETA, authority_algorithms=("rsa-sha2-512",)))


def test_revoked_host_keys(keys: Keys, tmp_path: Path) -> None:
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


def chosen(endpoint: Endpoint, known: Known) -> tuple[str, ...]:
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        options = paramiko.Transport(ours).get_security_options()
        ssh._choose_algorithms(options, endpoint, known)
        return tuple(options.key_types)


def test_kinds_that_are_known_come_first(keys: Keys) -> None:
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
