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

from checkpoint.host.run import run

RULES = """
table bridge {table} {{
  chain prerouting {{
    type filter hook prerouting priority -350; policy accept;
    iifname {{ {ports} }} accept
    ether saddr {{ {macs} }} drop
  }}
}}
"""


@contextlib.contextmanager
def silenced(macs: Iterable[str], name: str) -> Iterator[None]:
    """Drop bridged frames from these MAC addresses during the block. Raises CommandFailed.

    Frames that come in by a link that exists already pass: the container on the source is heard.
    `name` makes the name of the nftables table unique.
    """
    sources = ", ".join(sorted(set(macs)))
    if not sources:
        yield
        return
    table = f"migrate_{name}"
    ports = ", ".join(f'"{port}"' for port in sorted(os.listdir("/sys/class/net")))
    run(["nft", "-f", "-"], stdin=RULES.format(table=table, ports=ports, macs=sources))
    try:
        yield
    finally:
        run(["nft", "delete", "table", "bridge", table])
