"""Parsers of what ssh(1) and its files say, and of what a host says that is not known yet."""

from __future__ import annotations

import base64
import os
import struct
from pathlib import Path

from tests.fuzz.host import file_of
from tests.fuzz.parser import Parser
from transport.destination import Destination
from transport.endpoint import Endpoint, parsed
from transport.errors import HostKeyRefused
from transport.host_certificate import SUFFIX, Certificate
from transport.known_hosts import known, names_host, revoked_keys

HOST, NOW_S = "beta.example", 1_800_000_000.0


def certificate(data: bytes) -> None:
    """Read the certificate that a host shows before anything is known of it."""
    found = Certificate.parse(data)
    objection = found.objection(HOST, NOW_S)
    assert objection or (
        found.kind == 2 and found.valid_after <= NOW_S < found.valid_before and found.principals
    )
    assert data == found.signed + struct.pack("!I", len(found.signature)) + found.signature


def known_hosts(data: bytes) -> None:
    with file_of(data) as path:
        for name in (HOST, f"[{HOST}]:2222"):
            found = known(name, [path])
            assert all(found.keys | found.authorities | found.revoked)


def revoked(data: bytes) -> None:
    with file_of(data) as path:
        assert all(revoked_keys(path))


def patterns(data: bytes) -> None:
    names_host(os.fsdecode(data), HOST)


def settings(data: bytes) -> None:
    """Read what `ssh -G` prints."""
    found = Endpoint.of(Destination(name=HOST), parsed(os.fsdecode(data)), Path("/root"))
    assert found.address
    assert found.user


def _string(*parts: bytes) -> bytes:
    return b"".join(struct.pack("!I", len(part)) + part for part in parts)


_KEY = _string(b"ssh-ed25519", b"k" * 32)
_CERTIFICATE = (
    _string(f"ssh-ed25519{SUFFIX}".encode(), b"n" * 32, b"k" * 32)
    + struct.pack("!QI", 7, 2)
    + _string(b"id", _string(HOST.encode(), b"*.example"))
    + struct.pack("!QQ", 0, 1 << 63)
    + _string(b"", b"", b"", _KEY, _string(b"ssh-ed25519", b"s" * 64))
)
_LINE = b" ssh-ed25519 " + base64.b64encode(_KEY)
PARSERS = {
    "host-certificate": Parser(run=certificate, refuses=(ValueError,), seeds=(_CERTIFICATE,)),
    "known-hosts": Parser(
        run=known_hosts,
        refuses=(),
        seeds=(
            b"beta.example,10.0.0.1" + _LINE,
            b"# x\n@revoked *.example" + _LINE,
            b"|1|c2FsdA==|aGFzaA==" + _LINE,
        ),
    ),
    "revoked-keys": Parser(
        run=revoked, refuses=(HostKeyRefused,), seeds=(_LINE[1:] + b" x\n# y\n",)
    ),
    "host-patterns": Parser(
        run=patterns, refuses=(), seeds=(b"*.example,!be?a*", b"|1|c2FsdA==|aGFzaA==")
    ),
    "ssh-settings": Parser(
        run=settings,
        refuses=(ValueError,),
        seeds=(
            b"host beta\nuser root\nhostname 10.0.0.1\nport 22\nproxyjump a,b\n"
            b"identityfile ~/.ssh/id_%r\n"
            b"userknownhostsfile ~/a ~/b\nidentityagent SSH_AUTH_SOCK\nrevokedhostkeys none\n",
        ),
    ),
}
