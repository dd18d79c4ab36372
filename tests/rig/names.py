"""Every name and address of a rig, derived from the rig's name: what `down` must find without any state."""

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path

from tests.rig.errors import BadUsage

RUN_DIRECTORY = Path("/run/migrate-rig")
DEFAULT_RIG = "rig"
NODE_NAMES = (
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
)
SWITCH = "switch"

SUBNET = ipaddress.IPv4Network("10.77.0.0/24")
SWITCH_ADDRESS = "10.77.0.1"
FIRST_NODE_HOST = 11
BRIDGE = "br0"
INTERFACE_NAME_MAX = 15  # the kernel's IFNAMSIZ less the final NUL

RIG_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
CONTAINER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_rig_name(rig: str) -> str:
    if not RIG_NAME.fullmatch(rig):
        raise BadUsage(f"{rig!r} is no name for a rig: use up to 32 of a-z, 0-9 and -")
    return rig


def check_container_name(container: str) -> str:
    longest = INTERFACE_NAME_MAX - len(host_interface(""))
    if not CONTAINER_NAME.fullmatch(container) or len(container) > longest:
        raise BadUsage(
            f"{container!r} is no name for a container here: up to {longest} letters, digits and _.-"
        )
    return container


def node_names(count: int) -> Sequence[str]:
    if not 1 <= count <= len(NODE_NAMES):
        raise BadUsage(f"a rig has 1 to {len(NODE_NAMES)} nodes, not {count}")
    return NODE_NAMES[:count]


def node_address(node: str) -> str:
    return str(SUBNET[FIRST_NODE_HOST + NODE_NAMES.index(node)])


def with_prefix(address: str) -> str:
    return f"{address}/{SUBNET.prefixlen}"


def check_address(address: str) -> str:
    try:
        inside = ipaddress.IPv4Address(address) in SUBNET
    except ValueError as error:
        raise BadUsage(str(error)) from error
    if not inside:
        raise BadUsage(f"{address} is outside the rig's network {SUBNET}")
    return address


def mac_address(address: str) -> str:
    """A locally administered MAC that an address always has, on whichever node it is."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x00" + ipaddress.IPv4Address(address).packed)


def member(rig: str, name: str) -> str:
    """The name of a node's (or the switch's) network namespace and cgroups on this machine."""
    return f"{rig}-{name}"


def members(rig: str) -> Sequence[str]:
    """Every such name the rig can have: exact, since one rig's name can be the start of another's."""
    return [member(rig, name) for name in (SWITCH, *NODE_NAMES)]


def switch_port(node: str) -> str:
    return f"p-{node}"


def host_interface(container: str) -> str:
    """The node's end of a container's veth pair."""
    return f"v-{container}"


def state_directory(rig: str) -> Path:
    return RUN_DIRECTORY / rig


def lock_file(rig: str) -> Path:
    return RUN_DIRECTORY / f"{rig}.lock"
