"""A container's network as data: what is read on the source and made on the target."""

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

#: IPv4's least and what any device may have (ETH_MAX_MTU of if_ether.h; lo has 65,536).
Mtu = Annotated[int, Range(68, 65_536)]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """One veth interface in the container's namespace and its end on the host.

    `addresses` are "ADDRESS/PREFIX" of global scope; `bridge` is the bridge that `host_name` is a port of.
    """

    name: InterfaceName
    mac: MacAddress
    mtu: Mtu
    addresses: Annotated[tuple[StationAddress, ...], Length(256)]
    host_name: InterfaceName
    bridge: InterfaceName | None


@dataclass(frozen=True, kw_only=True)
class Route:
    """One route of the main table, in iproute2's words."""

    family: int
    destination: RouteDestination
    gateway: IpAddress | None
    interface: InterfaceName
    metric: Annotated[int, Range(0, (1 << 32) - 1)] | None

    def check(self) -> None:
        """Raise DataInvalid unless the family is one."""
        if self.family not in (4, 6):
            raise DataInvalid("a route is of family 4 or 6", ".family")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network namespace bound at `path`, all of whose interfaces but `lo` are veths."""

    path: NamespacePath
    interfaces: Annotated[tuple[Interface, ...], Length(64)]
    routes: Annotated[tuple[Route, ...], Length(4096)]
