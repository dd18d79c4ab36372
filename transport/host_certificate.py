"""The certificate of a host: its key, signed by an authority (OpenSSH PROTOCOL.certkeys)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from transport.known_hosts import key_type, names_host

SUFFIX = "-cert-v01@openssh.com"
#: The certificate type of hosts; 1 is that of users.
HOST = 2
#: The number of fields of a public key of each type, between the nonce and the serial number.
KEY_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
}


class _Reader:
    """A reader of the fields of a blob, one after the other.

    Its methods raise ValueError when the blob ends before the field does.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError("it ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, layout: str) -> int:
        return int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def string(self) -> bytes:
        return self.take(self.number("!I"))


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A parsed certificate, whose signature is not verified yet (ssh.py does that).

    `key` and `authority` are public keys as known_hosts has them; times are seconds since 1970. The
    authority made `signature` over the bytes `signed`.
    """

    key: bytes
    kind: int
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical_options: bytes
    authority: bytes
    signed: bytes
    signature: bytes

    @classmethod
    def parse(cls, blob: bytes) -> Certificate:
        """Parse a certificate. Raises ValueError if `blob` is none of a known type."""
        plain = key_type(blob).removesuffix(SUFFIX)
        if plain not in KEY_FIELDS or key_type(blob) == plain:
            raise ValueError("it is of no type that is known")
        reader = _Reader(blob)
        reader.string()
        reader.string()  # nonce
        begin = reader.at
        for _ in range(KEY_FIELDS[plain]):
            reader.string()
        key = struct.pack("!I", len(plain)) + plain.encode() + blob[begin : reader.at]
        reader.number("!Q")  # serial
        kind = reader.number("!I")
        reader.string()  # key id
        principals = _strings(reader.string())
        valid_after, valid_before = reader.number("!Q"), reader.number("!Q")
        critical_options = reader.string()
        reader.string()  # extensions
        reader.string()  # reserved
        authority = reader.string()
        signed = blob[: reader.at]
        signature = reader.string()
        if reader.at != len(blob) or len(_strings(signature)) != 2:
            raise ValueError("its signature is not one")
        return cls(
            key=key,
            kind=kind,
            principals=tuple(name.decode(errors="replace") for name in principals),
            valid_after=valid_after,
            valid_before=valid_before,
            critical_options=critical_options,
            authority=authority,
            signed=signed,
            signature=signature,
        )

    @property
    def signature_algorithm(self) -> str:
        """The algorithm by which the authority signed; "" if the signature names none."""
        return key_type(self.signature)

    def objection(self, host: str, now_s: float) -> str | None:
        """Return why the certificate does not prove the key of a host now; None if it does.

        `host` is the host's name without a port, `now_s` the time in seconds since 1970.
        """
        if self.kind != HOST:
            return "it is a user's"
        if self.critical_options:
            return "it has critical options, and none is known for hosts"
        if now_s < self.valid_after:
            return "it is not valid yet"
        if now_s >= self.valid_before:
            return "it has expired"
        if not self.principals:
            return "it names no host"
        if not any(
            names_host(principal, host) for principal in self.principals if "," not in principal
        ):
            return f"it is for {', '.join(self.principals)}"
        return None


def _strings(data: bytes) -> Sequence[bytes]:
    reader, found = _Reader(data), []
    while reader.at < len(data):
        found.append(reader.string())
    return found
