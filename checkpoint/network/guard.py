"""Keep a container that is restored here from being heard while it still runs elsewhere.

An engine that makes the network by itself brings the interface up at once, with the address and the MAC that are in
use. Until its link is down, nothing that comes from there may pass the bridges of this host: not even a gratuitous
ARP. nft(8), family bridge.
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
    """Drop frames from these addresses, unless they come in by a link that is here already. Raises CommandFailed."""
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
