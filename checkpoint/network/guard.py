"""Guard of the target's bridges: a container being restored is not heard while the source's runs.

An engine that makes the network by itself brings the interface up at once, with the address and the
MAC address that the container still uses on the source. Until the link of that interface is down,
no frame from it may pass the bridges of the target, not even a gratuitous ARP. See nft(8), family
bridge.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Annotated

from checkpoint.host.run import run
from checkpoint.schema import Pattern
from checkpoint.undo import Made, Undo

RULES = """
table bridge {table} {{
  chain prerouting {{
    type filter hook prerouting priority -350; policy accept;
    iifname {{ {ports} }} accept
    ether saddr {{ {macs} }} drop
  }}
}}
"""


class Silence(Made):
    """The nftables table that silences a container, which no other migration has by that name.

    A table that stayed would silence the container for ever.
    """

    on_disk = False

    table: Annotated[str, Pattern("migrate_[0-9a-z]{1,40}")]

    def __str__(self) -> str:
        return f"nftables' table {self.table}"

    def remove(self) -> None:
        if f"table bridge {self.table}" in run(["nft", "list", "tables", "bridge"]).splitlines():
            run(["nft", "delete", "table", "bridge", self.table])


@contextlib.contextmanager
def silenced(macs: Iterable[str], name: str, undo: Undo) -> Iterator[None]:
    """Drop bridged frames from these MAC addresses during the block. Raises CommandFailed.

    Frames that come in by a link that exists already pass: the container on the source is heard.
    `name` makes the name of the nftables table unique. The table is entered in `undo`, too, for a
    process that is killed in the block.
    """
    sources = ", ".join(sorted(set(macs)))
    if not sources:
        yield
        return
    table = f"migrate_{name}"
    undo.made(Silence(table=table))
    ports = ", ".join(f'"{port}"' for port in sorted(os.listdir("/sys/class/net")))
    run(["nft", "-f", "-"], stdin=RULES.format(table=table, ports=ports, macs=sources))
    try:
        yield
    finally:
        run(["nft", "delete", "table", "bridge", table])
