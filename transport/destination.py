"""The parser of a host as people write it for ssh(1).

The forms are `name`, `user@name`, `name:port`, `[v6]:port` and `ssh://user@name:port`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_FORM = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@/\s]+)@)?"
    r"(?:\[(?P<v6>[0-9a-fA-F:.]+(?:%[A-Za-z0-9_.-]+)?)\]|(?P<name>[^@:/\[\]\s]+))"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)
#: The characters that ssh(1) refuses in a user, and those that it refuses in a host (OpenSSH ssh.c,
#: valid_ruser and valid_hostname): ssh_config may hand both to a shell.
_NOT_IN_USER = frozenset("'`\";&<>|(){}")
_NOT_IN_HOST = _NOT_IN_USER | frozenset("$\\")
#: The most characters of a name in DNS (RFC 1035). No user's name is longer.
_MOST = 255


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A host as the user wrote it. A user or port that was left out is None: ssh_config has it."""

    name: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Parse a host as the user wrote it. Raises ValueError with a line that can be shown."""
        match = _FORM.fullmatch(text)
        if match is None and "%" not in text and _is_ipv6(text):
            return cls(name=text)
        if match is None:
            raise ValueError(
                f"{text[:_MOST]!r} is not a host: write name, user@name or user@name:port"
            )
        port = int(match["port"]) if match["port"] else None
        if port is not None and not 0 < port < 65536:
            raise ValueError(f"{text!r}: there is no port {port}")
        name, user = match["v6"] or match["name"], match["user"]
        if match["v6"] and not _is_ipv6(name):
            raise ValueError(f"{text[:_MOST]!r}: there is no IPv6 address {name[:_MOST]!r}")
        if not _is_plain(name, _NOT_IN_HOST) or not _resolves(name):
            raise ValueError(f"{text[:_MOST]!r}: {name[:_MOST]!r} cannot be a host")
        if user is not None and not _is_plain(user, _NOT_IN_USER):
            raise ValueError(f"{text[:_MOST]!r}: {user[:_MOST]!r} cannot be a user")
        return cls(name=name, user=user, port=port)

    def __str__(self) -> str:
        """Return the destination in a form that `parse` takes."""
        user = f"{self.user}@" if self.user is not None else ""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{user}{name}{f':{self.port}' if self.port is not None else ''}"


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_plain(word: str, refused: frozenset[str]) -> bool:
    return (
        word.isprintable()
        and len(word) <= _MOST
        and not word.startswith("-")
        and not refused & set(word)
    )


def _resolves(name: str) -> bool:
    """Return whether a name can be given to name resolution at all.

    socket.getaddrinfo encodes it by Python's `idna` encoding, which refuses some names.
    """
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False
