"""Network namespaces and the wires between them, made by ip(8).

switch:     br0 10.77.0.1, with ports p-alpha, p-beta, ...      clients of tests are here, too
node:       br0 10.77.0.11, with ports eth0 (to the switch) and v-NAME for each container
container:  eth0, in a network namespace NAME inside the node
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.rig import names
from tests.rig.process import kill, run
from tests.rig.wait import until

NETNS_DIRECTORY = Path("/run/netns")
PLAIN_BRIDGE = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"


def netns_path(name: str) -> Path:
    """Return the file by which a network namespace of this machine is entered."""
    return NETNS_DIRECTORY / name


def create_switch(rig: str) -> None:
    """Make the switch of a rig."""
    switch = names.member(rig, names.SWITCH)
    _ip(["ip"], [f"netns add {switch}"])
    address = names.SWITCH_ADDRESS
    _ip(["ip", "-n", switch], [*_loopback(), *_bridge(address)])


def create_uplink(rig: str, node: str) -> None:
    """Make a node's network namespace, and connect it with the switch.

    Links are made in their namespaces, so that none appears on this machine even for a moment.
    """
    netns, switch = names.member(rig, node), names.member(rig, names.SWITCH)
    port = names.switch_port(node)
    _ip(
        ["ip"],
        [
            f"netns add {netns}",
            f"link add eth0 netns {netns} type veth peer name {port} netns {switch}",
        ],
    )
    configure_host(["ip", "-n", netns], node)
    _ip(["ip", "-n", switch], _up(port, f"master {names.BRIDGE}"))


def remove_uplink(rig: str, node: str) -> None:
    """Undo `create_uplink`.

    The link is removed by itself: with its namespace it would go some time later.
    """
    port, switch = names.switch_port(node), names.member(rig, names.SWITCH)
    _ip(["ip", "-n", switch], [f"link delete {port}"])
    remove(names.member(rig, node))


def create_tap(rig: str, node: str) -> None:
    """Make a port of the switch for the network card of a virtual machine."""
    switch, port = names.member(rig, names.SWITCH), names.switch_port(node)
    _ip(["ip", "-n", switch], [f"tuntap add {port} mode tap", *_up(port, f"master {names.BRIDGE}")])


def configure_host(ip: Sequence[str], node: str) -> None:
    """Make a node's own network, around its eth0. `ip` is the command that acts in the node."""
    _ip(
        ip,
        [
            *_loopback(),
            *_bridge(names.node_address(node)),
            *_up("eth0", f"master {names.BRIDGE}"),
            f"route add default via {names.SWITCH_ADDRESS}",
        ],
    )


def plug_container(
    in_node: Callable[[Sequence[str], str], object],
    container: str,
    address: str,
    *,
    connected: bool,
) -> None:
    """Make a container's network in a node, in which `in_node` runs a command with some input.

    If it is not `connected`, the link to the bridge stays down, for the container's address is
    still in use elsewhere.
    """
    port = names.host_interface(container)
    pair = f"type veth peer name eth0 netns {container} address {names.mac_address(address)}"
    outside = [
        f"netns add {container}",
        f"link add {port} {pair}",
        f"link set {port} master {names.BRIDGE}",
    ]
    if connected:
        outside += _up(port)
    inside = [
        *_loopback(),
        f"addr add {names.with_prefix(address)} brd + dev eth0",
        *_up("eth0"),
        f"route add default via {names.SWITCH_ADDRESS}",
    ]
    in_node(["ip", "-batch", "-"], "\n".join(outside))
    in_node(["ip", "-n", container, "-batch", "-"], "\n".join(inside))
    if not connected:
        return
    # The container may have been elsewhere before: the switch learns its new port.
    announce = ["arping", "-q", "-U", "-c", "1", "-I", "eth0", address]
    in_node(["ip", "netns", "exec", container, *announce], "")


def pids(netns: str) -> set[int]:
    """Return the processes in a network namespace of this machine."""
    listed = run(["ip", "netns", "pids", netns], check=False, keep_lock=True)
    return {int(word) for word in listed.stdout.split()}


def remove(netns: str) -> None:
    """Kill the processes in a network namespace of this machine, and remove it and its links."""
    if netns_path(netns).exists():
        until(lambda: _is_empty(netns), f"the processes in network namespace {netns} to die")
        run(["ip", "netns", "delete", netns], keep_lock=True)


def _is_empty(netns: str) -> bool:
    found = pids(netns)
    kill(found)
    return not found


def _loopback() -> Sequence[str]:
    return ["link set lo up"]


def _bridge(address: str) -> Sequence[str]:
    """Return the lines for `ip -batch` that make a bridge.

    The bridge has a fixed MAC. Otherwise it would take the MAC of one of its ports, which change
    as containers come and go.
    """
    bridge = names.BRIDGE
    return [
        f"link add {bridge} address {names.mac_address(address)} {PLAIN_BRIDGE}",
        f"addr add {names.with_prefix(address)} brd + dev {bridge}",
        *_up(bridge),
    ]


def _up(interface: str, settings: str = "") -> Sequence[str]:
    """Return the lines for `ip -batch` that set an interface up.

    The interface gets no IPv6 address of the kernel's own making, and so has none of its traffic.
    """
    quiet = (
        [f"link set {interface} addrgenmode none"] if Path("/proc/sys/net/ipv6").exists() else []
    )
    return [*quiet, f"link set {interface} {settings} up"]


def _ip(command: Sequence[str], lines: Sequence[str]) -> None:
    run([*command, "-batch", "-"], input="\n".join(lines), keep_lock=True)
