"""Read, make and remove a container's network namespace, with iproute2."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from checkpoint.errors import CommandFailed, NetworkError, NotMovable
from checkpoint.host.identity import LinkIdentity, PathIdentity
from checkpoint.host.run import run
from checkpoint.network.model import Interface, Network, Route

NAME = re.compile(r"[A-Za-z0-9_.@][A-Za-z0-9_.@-]{0,14}")
IP_NETNS_DIRECTORIES = (Path("/run/netns"), Path("/var/run/netns"))


def read(path: str) -> Network:
    """Read the namespace bound at `path`.

    Raises NotMovable for an interface that is neither `lo` nor a veth whose other end is on this host.
    """
    host_links = {link["ifindex"]: link for link in _ip("link")}
    interfaces = [
        _interface(link, host_links)
        for link in _ip("address", netns=path)
        if link["link_type"] != "loopback" and not _is_kernel_fallback(link)
    ]
    routes = [route for family in (4, 6) for route in _routes(path, family)]
    return Network(path=path, interfaces=tuple(interfaces), routes=tuple(routes))


class Parts:
    """A container's network on this host, part by part: its namespace and the host's ends of its links."""

    def __init__(self) -> None:
        self._namespace: PathIdentity | None = None
        self._links: list[LinkIdentity] = []

    @classmethod
    def of(cls, network: Network) -> Parts:
        """Those of a network that is there. Raises OSError when one is not."""
        parts = cls()
        parts.add_namespace(network.path)
        for interface in network.interfaces:
            parts.add_link(interface.host_name)
        return parts

    def add_namespace(self, path: str) -> None:
        self._namespace = PathIdentity(Path(path))

    def add_link(self, host_name: str) -> None:
        self._links.append(LinkIdentity(host_name))

    def remove(self) -> None:
        """Remove these parts; what is gone, or has its name given to something else, is no error."""
        for link in self._links:
            if link.is_same():
                # The namespace may have gone with its last process and taken the pair along.
                with contextlib.suppress(CommandFailed):
                    run(["ip", "link", "delete", link.name])
        if self._namespace is not None:
            if self._namespace.is_same():
                _unbind(self._namespace.path)
            self.close()

    def close(self) -> None:
        """Let go of the namespace, which lives as long as this does."""
        if self._namespace is not None:
            self._namespace.close()
            self._namespace = None


def create(network: Network) -> Parts:
    """Make the namespace with its interfaces, addresses and routes; links to the host stay down.

    Raises NetworkError, with nothing left behind, when a name is taken or a bridge is missing.
    """
    parts = Parts()
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
        parts.add_namespace(network.path)
        for interface in network.interfaces:
            _make_pair(interface, network.path)
            parts.add_link(interface.host_name)
            _configure(interface, network.path)
        _in(network.path, "link set lo up\n" + "".join(map(_route_command, network.routes)))
    except (CommandFailed, OSError) as error:
        parts.remove()
        why = error.stderr if isinstance(error, CommandFailed) else error
        raise NetworkError(f"cannot build the network of {network.path}: {why}") from error
    return parts


def _ip(*words: str, netns: str | None = None) -> list[dict[str, Any]]:
    """`ip -json` with its output parsed. iproute2 prints nothing, not [], where there is nothing."""
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


def _interface(link: dict[str, Any], host_links: dict[int, dict[str, Any]]) -> Interface:
    name = link["ifname"]
    # The container may have named it, and the kernel takes nearly anything; it becomes a word of `ip -batch`.
    if not NAME.fullmatch(name):
        raise NotMovable(
            f"interface {name!r} has a name of other characters than letters, digits and _.@-"
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


def _is_kernel_fallback(link: dict[str, Any]) -> bool:
    """tunl0, sit0 ...: devices the kernel puts into every namespace while their module is loaded."""
    return (
        "UP" not in link["flags"]
        and not link.get("addr_info")
        and link["link_type"] in ("ipip", "sit", "gre", "tunnel6")
    )


def _routes(path: str, family: int) -> list[Route]:
    """Routes somebody added; the kernel makes its own again when addresses are added."""
    argv = ["nsenter", f"--net={path}", "--", "ip", f"-{family}", "-json", "route", "show"]
    return [
        Route(
            family=family,
            destination=entry["dst"],
            gateway=entry.get("gateway"),
            interface=entry["dev"],
            metric=entry.get("metric") if family == 4 else None,
        )
        for entry in json.loads(run(argv) or "[]")
        if entry.get("protocol") != "kernel" and "dev" in entry
    ]


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
    """Both ends are down: no frame passes."""
    # ip(8) takes a namespace by name or by the pid of a process in it; a path needs nsenter, and the
    # host end is then pushed out to the namespace of our own process.
    pair = f"link add {interface.name} address {interface.mac} mtu {interface.mtu} type veth"
    _in(netns, f"{pair} peer name {interface.host_name} mtu {interface.mtu} netns {os.getpid()}\n")


def _configure(interface: Interface, netns: str) -> None:
    """The inner end gets its addresses and goes up, the host's end stays down."""
    if interface.bridge:
        run(["ip", "link", "set", interface.host_name, "master", interface.bridge])
    commands = [f"link set {interface.name} up"]
    # nodad: the address is in use, by the very container that is about to arrive with it.
    commands += [
        f"address add {a} dev {interface.name}{' nodad' if ':' in a else ''}"
        for a in interface.addresses
    ]
    _in(netns, "\n".join(commands) + "\n")


def _route_command(route: Route) -> str:
    via = f" via {route.gateway}" if route.gateway else ""
    metric = f" metric {route.metric}" if route.metric is not None else ""
    return (
        f"-{route.family} route add {route.destination}{via} dev {route.interface}{metric} onlink\n"
        if via
        else (f"-{route.family} route add {route.destination} dev {route.interface}{metric}\n")
    )


def _in(netns: str, commands: str) -> None:
    """Run lines of `ip -batch` inside a namespace. A line may begin with a family option."""
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
