"""Looks at the target that need no migration: at addresses, and at paths."""

from __future__ import annotations

import contextlib
from pathlib import Path

from checkpoint.engines.occupied import is_taken
from checkpoint.files.beneath import TreeRoot
from checkpoint.network import link
from migrate.wire import protocol
from migrate.wire.values import Station


def check_addresses(request: protocol.CheckAddresses) -> protocol.AddressesFound:
    """Return the stations that use one of the addresses on the bridge of its network."""
    taken = tuple(
        Station(address, mac)
        for address, own_mac, bridge in request.addresses
        if Path("/sys/class/net", bridge).exists()  # an engine makes a missing one later
        for mac in link.stations_using(address, bridge)
        if mac != own_mac
    )
    return protocol.AddressesFound(taken=taken)


def check_paths(request: protocol.CheckPaths) -> protocol.PathsFound:
    """Return which paths are missing or taken, and whether both hosts see the same rootfs."""
    shared = request.probe is not None and _holds(Path(request.probe.path), request.probe.token)
    own = () if shared else request.own
    taken = tuple(path for path in own if is_taken(Path(path), Path(request.own[0])))
    missing = tuple(path for path in request.required if not Path(path).exists())
    return protocol.PathsFound(missing=missing, taken=taken, shared=shared)


def _holds(probe: Path, token: str) -> bool:
    """Return whether the probe file is on the target, too, with the token that the source wrote."""
    with contextlib.suppress(OSError), TreeRoot(probe.parent) as root:
        return root.read(probe.name, len(token) + 1) == token.encode()
    return False
