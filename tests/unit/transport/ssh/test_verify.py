"""Tests of transport/ssh.py: the key of a host is taken or refused as ssh(1) does it.

No host is connected to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import paramiko
import pytest

from tests.unit.transport.host_keys import Keys
from transport import ssh
from transport.destination import Destination
from transport.endpoint import Endpoint
from transport.errors import (
    HostKeyChanged,
    HostKeyRefused,
    HostKeyUnknown,
)
from transport.host_certificate import Certificate
from transport.known_hosts import Known, key_type


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
