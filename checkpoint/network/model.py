"""A container's network as data, which is read on the source and made on the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from checkpoint.bounded import (
    InterfaceName,
    IpAddress,
    MacAddress,
    NamespacePath,
    RouteDestination,
    StationAddress,
)
from checkpoint.errors import DataInvalid
from checkpoint.schema import Length, Range

#: The bounds are the least MTU of IPv4 and the greatest of any device (ETH_MAX_MTU of if_ether.h;
#: lo has 65,536).
Mtu = Annotated[int, Range(68, 65_536)]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """One veth interface in the container's namespace and its end on the host.

    `addresses` are "ADDRESS/PREFIX" of global scope. `host_name` is the host's end, and `bridge` is
    the bridge that the host's end is a port of.
    """

    name: InterfaceName
    mac: MacAddress
    mtu: Mtu
    addresses: Annotated[tuple[StationAddress, ...], Length(256)]
    host_name: InterfaceName
    bridge: InterfaceName | None


@dataclass(frozen=True, kw_only=True)
class Route:
    """One route of the main table, in iproute2's words. `family` is 4 or 6.

    `source` is the address that the route prefers for what the container sends (`src` of
    ip-route(8)).
    """

    family: int
    destination: RouteDestination
    gateway: IpAddress | None
    interface: InterfaceName
    metric: Annotated[int, Range(0, (1 << 32) - 1)] | None
    source: IpAddress | None = None

    def check(self) -> None:
        """Raise DataInvalid unless the family is 4 or 6."""
        if self.family not in (4, 6):
            raise DataInvalid("a route is of family 4 or 6", ".family")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network namespace bound at `path`, all of whose interfaces but `lo` are veths."""

    path: NamespacePath
    interfaces: Annotated[tuple[Interface, ...], Length(64)]
    routes: Annotated[tuple[Route, ...], Length(4096)]
