"""A reader of known_hosts files, as sshd(8) describes them (SSH_KNOWN_HOSTS FILE FORMAT).

A line that makes no sense is ignored: it makes no key known, and no connection fails because of it.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transport.errors import HostKeyRefused

REVOKED, AUTHORITY = "@revoked", "@cert-authority"
HASHED = "|1|"
#: The first bytes of a key revocation list (OpenSSH PROTOCOL.krl).
KRL = b"SSHKRL\n"


@dataclass(frozen=True)
class Known:
    """The public keys that are known of a host, as blobs of RFC 4253, 6.6.

    `keys` are the host's own, `authorities` may certify its key, `revoked` must not be trusted.
    """

    keys: frozenset[bytes] = frozenset()
    authorities: frozenset[bytes] = frozenset()
    revoked: frozenset[bytes] = frozenset()

    def __bool__(self) -> bool:
        """Return whether there is a key by which the host could prove that it is the right one."""
        return bool(self.keys or self.authorities)


def key_type(blob: bytes) -> str:
    """Return the type at the beginning of a public key or signature; "" if `blob` is neither."""
    if len(blob) < 4:
        return ""
    (size,) = struct.unpack_from("!I", blob)
    return (
        blob[4 : 4 + size].decode("ascii", "replace") if 0 < size <= min(64, len(blob) - 4) else ""
    )


def known(name: str, files: Iterable[Path]) -> Known:
    """Return the keys that the files have of a host, which they list as `name` (Endpoint.key_name).

    If `name` has a port and the files have no key for it, the keys of the name without the port
    count, as in ssh(1).
    """
    lines = [line for path in files for line in _lines(path)]
    found = _of_name(name, lines)
    alone = re.fullmatch(r"\[(.+)\]:\d+", name)
    if not found and alone is not None:
        bare = _of_name(alone[1], lines)
        found = Known(bare.keys, bare.authorities, found.revoked | bare.revoked)
    return found


def revoked_keys(path: Path) -> frozenset[bytes]:
    """Return the keys that a RevokedHostKeys file lists, one public key a line.

    Raises HostKeyRefused for a file that cannot be read, because ssh_config(5) then trusts no key,
    and for a binary list (KRL).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HostKeyRefused(
            f"RevokedHostKeys {path} cannot be read ({error.strerror}), so no key is trusted"
        ) from error
    if content.startswith(KRL):
        raise HostKeyRefused(
            f"RevokedHostKeys {path} is a binary list, which is not read here: list keys as text"
        )
    words = (
        line.split()
        for line in content.decode(errors="replace").splitlines()
        if not line.startswith("#")
    )
    blobs = (_blob(*fields[:2]) for fields in words if len(fields) >= 2)
    return frozenset(blob for blob in blobs if blob is not None)


def names_host(patterns: str, name: str) -> bool:
    """Return whether the host field of a line names a host.

    The field is a hash of the name, or patterns separated by commas: one must match the name, and
    no pattern with a `!` may.
    """
    name = name.lower()
    if patterns.startswith(HASHED):
        return _is_hash_of(patterns, name)
    each = [pattern.lower() for pattern in patterns.split(",")]
    if any(_matches(pattern[1:], name) for pattern in each if pattern.startswith("!")):
        return False
    return any(_matches(pattern, name) for pattern in each if not pattern.startswith("!"))


def _matches(pattern: str, name: str) -> bool:
    """Return whether a pattern matches; only `*` and `?` are special (ssh_config(5), PATTERNS)."""
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _is_hash_of(field: str, name: str) -> bool:
    """Return whether a field is |1|SALT|HMAC-SHA1 of the name, both in base64 (HashKnownHosts)."""
    try:
        salt, digest = (
            base64.b64decode(part, validate=True) for part in field[len(HASHED) :].split("|")
        )
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def _of_name(name: str, lines: Iterable[tuple[str, str, bytes]]) -> Known:
    found: dict[str, set[bytes]] = {"": set(), AUTHORITY: set(), REVOKED: set()}
    for marker, patterns, blob in lines:
        if marker in found and names_host(patterns, name):
            found[marker].add(blob)
    return Known(frozenset(found[""]), frozenset(found[AUTHORITY]), frozenset(found[REVOKED]))


def _lines(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield (marker or "", host field, public key) of each line that has a host and a key."""
    try:
        text = path.read_bytes().decode(errors="replace")
    except OSError:
        return
    for line in text.split("\n"):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) >= 3 and not fields[0].startswith("#"):
            blob = _blob(fields[1], fields[2])
            if blob is not None:
                yield marker, fields[0], blob


def _blob(kind: str, text: str) -> bytes | None:
    """Return the public key that `text` is in base64, if its type is `kind`; None otherwise."""
    try:
        blob = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return blob if key_type(blob) == kind else None
