"""A host as people write it for ssh: `name`, `user@name`, `name:port`, `[v6]:port`, `ssh://user@name:port`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@/\s]+)@)?(?:\[(?P<v6>[0-9a-fA-F:.%\w]+)\]|(?P<name>[^@:/\[\]\s]+))(?::(?P<port>\d{1,5}))?/?"
)


@dataclass(frozen=True, kw_only=True)
class Destination:
    """What the user wrote; what they left out is None and comes from ssh_config."""

    name: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Raises ValueError with a line that can be shown."""
        match = _FORM.fullmatch(text)
        if match is None and text.count(":") > 1 and "@" not in text and re.fullmatch(r"[0-9a-fA-F:.]+", text):
            return cls(name=text)  # a bare IPv6 address
        if match is None or text.startswith("-"):
            raise ValueError(f"{text!r} is not a host: write name, user@name or user@name:port")
        port = int(match["port"]) if match["port"] else None
        if port is not None and not 0 < port < 65536:
            raise ValueError(f"{text!r}: there is no port {port}")
        return cls(name=match["v6"] or match["name"], user=match["user"], port=port)
