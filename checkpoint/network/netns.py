"""Read, make and remove a container's network namespace, with iproute2."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from pathlib import Path
from typing import Any

from checkpoint.bounded import INTERFACE_NAME, InterfaceName
from checkpoint.errors import CommandFailed, NetworkError, NotMovable
from checkpoint.host.identity import PathRecord
from checkpoint.host.run import run
from checkpoint.network.model import Interface, Network, Route
from checkpoint.undo import Made, Undo

#: What makes a route another one than Route says, as `ip -json route` names it.
UNLIKE_ROUTE = {"nexthops", "via", "encap", "tos", "from"}
IP_NETNS_DIRECTORIES = (Path("/run/netns"), Path("/var/run/netns"))


def read(path: str) -> Network:
    """Read the network namespace bound at `path`.

    Raises NotMovable for an interface that is neither `lo` nor a veth whose other end is in this
    process's own namespace, or that has unusual characters in its name (InterfaceName), and for a
    route that Route cannot say. Raises NetworkError if iproute2 fails. Fallback devices of the
    kernel are left out (is_kernel_fallback).
    """
    host_links = {link["ifindex"]: link for link in _ip("link")}
    interfaces = [
        interface_of(link, host_links)
        for link in _ip("address", netns=path)
        if link["link_type"] != "loopback" and not is_kernel_fallback(link)
    ]
    routes = [route for family in (4, 6) for route in routes_of(path, family)]
    return Network(path=path, interfaces=tuple(interfaces), routes=tuple(routes))


class NetworkNamespace(Made):
    """A network namespace that is bound to a path."""

    on_disk = False

    path: PathRecord

    def __str__(self) -> str:
        return f"network namespace {self.path.path}"

    def remove(self) -> None:
        if self.path.is_same():
            _unbind(Path(self.path.path))


class HostLink(Made):
    """A link in this process's own network namespace: the host's end of a container's link.

    The kernel does not give an index again in one namespace (netdevice(7), SIOCGIFINDEX).
    """

    on_disk = False

    name: InterfaceName
    index: int

    @classmethod
    def named(cls, name: str) -> HostLink:
        """Return the link of that name. Raises OSError if there is none."""
        return cls(name=name, index=socket.if_nametoindex(name))

    def __str__(self) -> str:
        return f"link {self.name}"

    def is_same(self) -> bool:
        with contextlib.suppress(OSError):
            return socket.if_nametoindex(self.name) == self.index
        return False

    def remove(self) -> None:
        if self.is_same():
            # The namespace may have ended with its last process, and both ends with it.
            with contextlib.suppress(CommandFailed):
                run(["ip", "link", "delete", "dev", self.name])


def parts_of(network: Network) -> list[Made]:
    """Return the parts of a network that exists. Raises OSError if a part does not."""
    namespace = NetworkNamespace(path=PathRecord.of(Path(network.path)))
    return [*(HostLink.named(each.host_name) for each in network.interfaces), namespace]


def create(network: Network, undo: Undo) -> None:
    """Make a namespace with its interfaces, addresses and routes, and enter the parts in `undo`.

    The host's ends of the links stay down. Raises NetworkError if a name is taken, a bridge is
    missing or a command fails; what was made by then is in `undo`.
    """
    links = {link["ifname"]: link for link in _ip("link")}
    for interface in network.interfaces:
        if interface.host_name in links:
            raise NetworkError(f"there already is a link named {interface.host_name}")
        if interface.bridge and interface.bridge not in links:
            raise NetworkError(
                f"there is no bridge named {interface.bridge} for {interface.host_name}"
            )
    if Path(network.path).exists():
        raise NetworkError(f"the network namespace {network.path} exists already")
    try:
        _bind_new(Path(network.path))
        undo.made(NetworkNamespace(path=PathRecord.of(Path(network.path))))
        _in(network.path, "link set dev lo up\n")
        for interface in network.interfaces:
            _make_pair(interface, network.path)
            undo.made(HostLink.named(interface.host_name))
            _configure(interface, network.path)
        _in(network.path, "".join(map(_route_command, network.routes)))
    except (CommandFailed, OSError) as error:
        why = error.stderr if isinstance(error, CommandFailed) else error
        raise NetworkError(f"cannot build the network of {network.path}: {why}") from error


def _ip(*words: str, netns: str | None = None) -> list[dict[str, Any]]:
    """Return the parsed output of `ip -json` with these words, run in the namespace at `netns`.

    None is this process's namespace. iproute2 prints nothing instead of [] if there is nothing to
    list; empty entries are left out. Raises NetworkError.
    """
    argv = ["ip", "-json", "-details", *words]
    if netns is not None:
        argv = ["nsenter", f"--net={netns}", "--", *argv]
    try:
        found = json.loads(run(argv) or "[]")
    except CommandFailed as error:
        raise NetworkError(
            f"cannot read {' '.join(words)} of {netns or 'the host'}: {error.stderr}"
        ) from error
    return [entry for entry in found if entry]


def interface_of(link: dict[str, Any], host_links: dict[int, dict[str, Any]]) -> Interface:
    """Return the interface that `ip -json` describes by `link`.

    `host_links` has the links of the host's namespace by their index. Raises NotMovable.
    """
    name = link["ifname"]
    # The container may have chosen the name, and the kernel takes nearly any bytes. The name
    # becomes a word of `ip -batch`.
    if not re.fullmatch(INTERFACE_NAME.regex, name, re.ASCII):
        raise NotMovable(
            f"interface {name!r} has a name that does not begin with a letter, digit or _, or has"
            " other characters than these and .@+-"
        )
    kind = link.get("linkinfo", {}).get("info_kind", link["link_type"])
    if kind != "veth":
        raise NotMovable(f"interface {name} is of type {kind}; only veth interfaces can be moved")
    peer = host_links.get(link.get("link_index", -1))
    if peer is None:
        raise NotMovable(
            f"interface {name} has its other end in a namespace this host's root does not see"
        )
    return Interface(
        name=name,
        mac=link["address"],
        mtu=link["mtu"],
        addresses=tuple(
            f"{a['local']}/{a['prefixlen']}"
            for a in link.get("addr_info", [])
            if a["scope"] == "global"
        ),
        host_name=peer["ifname"],
        bridge=peer.get("master"),
    )


def is_kernel_fallback(link: dict[str, Any]) -> bool:
    """Return whether a link is a fallback device that is not in use (tunl0, sit0 ...).

    The kernel puts these into every namespace while their module is loaded.
    """
    return (
        "UP" not in link["flags"]
        and not link.get("addr_info")
        and link["link_type"] in ("ipip", "sit", "gre", "tunnel6")
    )


def routes_of(path: str, family: int) -> list[Route]:
    """Return the routes of the main table that the kernel did not make itself. `family` is 4 or 6.

    The kernel makes its own routes again when addresses are added. Raises NotMovable for a route
    that would become another one, and NetworkError.
    """
    routes = []
    for entry in _ip(f"-{family}", "route", netns=path):
        if entry.get("protocol") == "kernel":
            continue
        kind = entry.get("type", "unicast")
        if kind != "unicast" or "dev" not in entry or UNLIKE_ROUTE & entry.keys():
            raise NotMovable(
                f"the route to {entry['dst']} is {'no plain one' if kind == 'unicast' else kind};"
                " only routes by one interface can be moved"
            )
        routes.append(
            Route(
                family=family,
                destination=entry["dst"],
                gateway=entry.get("gateway"),
                interface=entry["dev"],
                metric=entry.get("metric"),
                source=entry.get("prefsrc"),
            )
        )
    return routes


def _bind_new(path: Path) -> None:
    if path.parent in IP_NETNS_DIRECTORIES:
        run(["ip", "netns", "add", path.name])
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o444))
    try:
        run(["unshare", f"--net={path}", "true"])
    except CommandFailed:
        path.unlink()
        raise


def _unbind(path: Path) -> None:
    if path.parent in IP_NETNS_DIRECTORIES:
        run(["ip", "netns", "delete", path.name])
        return
    run(["umount", "--lazy", str(path)])
    path.unlink()


def _make_pair(interface: Interface, netns: str) -> None:
    """Make a veth pair with one end in the namespace at `netns`; no frame passes: both are down."""
    # ip(8) takes a namespace by name, or by the pid of a process in it. Because `netns` is a path,
    # ip(8) runs in that namespace by nsenter(1), and moves the host's end out to this process's
    # namespace.
    pair = f"link add name {interface.name} address {interface.mac} mtu {interface.mtu} type veth"
    _in(netns, f"{pair} peer name {interface.host_name} mtu {interface.mtu} netns {os.getpid()}\n")


def _configure(interface: Interface, netns: str) -> None:
    """Add the host's end to its bridge, bring the inner end up, and give it its addresses.

    The host's end stays down.
    """
    if interface.bridge:
        run(["ip", "link", "set", "dev", interface.host_name, "master", interface.bridge])
    commands = [f"link set dev {interface.name} up"]
    # nodad: the container still uses the address on the source, where duplicate address
    # detection would find it.
    commands += [
        f"address add {a} dev {interface.name}{' nodad' if ':' in a else ''}"
        for a in interface.addresses
    ]
    _in(netns, "\n".join(commands) + "\n")


def _route_command(route: Route) -> str:
    words = f"-{route.family} route add {route.destination} dev {route.interface}"
    if route.gateway is not None:
        words += f" via {route.gateway} onlink"
    if route.metric is not None:
        words += f" metric {route.metric}"
    if route.source is not None:
        words += f" src {route.source}"
    return words + "\n"


def _in(netns: str, commands: str) -> None:
    """Run lines of `ip -batch` in the namespace at `netns`. Raises CommandFailed.

    A line may begin with a family option. Lines with -4 run first, then those with -6, then the
    rest.
    """
    for family in ("-4", "-6", ""):
        lines = [line for line in commands.splitlines() if _family(line) == family]
        if lines:
            text = "".join(line.removeprefix(family).strip() + "\n" for line in lines)
            argv = [
                "nsenter",
                f"--net={netns}",
                "--",
                "ip",
                *([family] if family else []),
                "-batch",
                "-",
            ]
            run(argv, stdin=text)


def _family(line: str) -> str:
    return line[:2] if line.startswith(("-4", "-6")) else ""
