"""Every name and address of a rig, derived from the rig's name.

`down` must find all that bears such a name, without any state that `up` has written down.
"""

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path

from tests.rig.errors import BadUsage

RUN_DIRECTORY = Path("/run/migrate-rig")
DEFAULT_RIG = "rig"
NODE_NAMES = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta"),
    *("eta", "theta", "iota", "kappa", "lambda", "mu"),
)
SWITCH = "switch"

SUBNET = ipaddress.IPv4Network("10.77.0.0/24")
SWITCH_ADDRESS = "10.77.0.1"
FIRST_NODE_HOST = 11
BRIDGE = "br0"
#: The kernel's IFNAMSIZ, less the NUL at the end.
INTERFACE_NAME_MAX = 15

RIG_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
CONTAINER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_rig_name(rig: str) -> str:
    """Return the name. Raises BadUsage if a rig cannot be called so."""
    if not RIG_NAME.fullmatch(rig):
        raise BadUsage(f"{rig!r} is no name for a rig: use up to 32 of a-z, 0-9 and -")
    return rig


def check_container_name(container: str) -> str:
    """Return the name. Raises BadUsage if a container on a node cannot be called so."""
    longest = INTERFACE_NAME_MAX - len(host_interface(""))
    if not CONTAINER_NAME.fullmatch(container) or len(container) > longest:
        allowed = f"up to {longest} letters, digits and _.-"
        raise BadUsage(f"{container!r} is no name for a container here: {allowed}")
    return container


def node_names(count: int) -> Sequence[str]:
    """Return the names of so many nodes. Raises BadUsage if a rig cannot have so many."""
    if not 1 <= count <= len(NODE_NAMES):
        raise BadUsage(f"a rig has 1 to {len(NODE_NAMES)} nodes, not {count}")
    return NODE_NAMES[:count]


def node_address(node: str) -> str:
    """Return the address of a node on the rig's network."""
    return str(SUBNET[FIRST_NODE_HOST + NODE_NAMES.index(node)])


def with_prefix(address: str) -> str:
    """Return the address with the length of the rig's prefix, as ip(8) wants it."""
    return f"{address}/{SUBNET.prefixlen}"


def check_address(address: str) -> str:
    """Return the address. Raises BadUsage if it is not one of the rig's network."""
    try:
        inside = ipaddress.IPv4Address(address) in SUBNET
    except ValueError as error:
        raise BadUsage(str(error)) from error
    if not inside:
        raise BadUsage(f"{address} is outside the rig's network {SUBNET}")
    return address


def mac_address(address: str) -> str:
    """Return the MAC of an address, which is the same on any node and locally administered."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x00" + ipaddress.IPv4Address(address).packed)


def member(rig: str, name: str) -> str:
    """Return the name of a node's or the switch's network namespace and cgroups here."""
    return f"{rig}-{name}"


def members(rig: str) -> Sequence[str]:
    """Return every such name that the rig can have.

    A pattern would not do: the name of one rig can be the beginning of another's.
    """
    return [member(rig, name) for name in (SWITCH, *NODE_NAMES)]


def switch_port(node: str) -> str:
    """Return the name of the switch's port to a node."""
    return f"p-{node}"


def host_interface(container: str) -> str:
    """Return the name of the node's end of a container's veth pair."""
    return f"v-{container}"


def state_directory(rig: str) -> Path:
    """Return the directory of a rig's state."""
    return RUN_DIRECTORY / rig


def lock_file(rig: str) -> Path:
    """Return the path of a rig's lock (lock.py)."""
    return RUN_DIRECTORY / f"{rig}.lock"
