"""A container's network as data: what is read on the source and made on the target."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Interface:
    """One veth interface in the container's namespace and its end on the host.

    `addresses` are "ADDRESS/PREFIX" of global scope; `bridge` is the bridge that `host_name` is a port of.
    """

    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    host_name: str
    bridge: str | None


@dataclass(frozen=True, kw_only=True)
class Route:
    """One route of the main table, in iproute2's words."""

    family: int
    destination: str
    gateway: str | None
    interface: str
    metric: int | None


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network namespace bound at `path`, all of whose interfaces but `lo` are veths."""

    path: str
    interfaces: tuple[Interface, ...]
    routes: tuple[Route, ...]

    def to_wire(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Network:
        return cls(
            path=data["path"],
            interfaces=tuple(Interface(**{**i, "addresses": tuple(i["addresses"])}) for i in data["interfaces"]),
            routes=tuple(Route(**route) for route in data["routes"]),
        )
