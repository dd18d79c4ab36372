"""The engines of a node: podman and docker for real, with their own storage and dockerd.

runc and crun need no setting up (container.py).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.rig import names
from tests.rig.errors import RigError
from tests.rig.node import Node
from tests.rig.wait import until

#: Where each engine has its layers. An overlay cannot be the upper layer of another, and the root
#: of a node is one.
STORAGE = {"podman": ["/var/lib/containers"], "docker": ["/var/lib/docker", "/var/lib/containerd"]}
SETTINGS = {
    "podman": (
        "/etc/containers/containers.conf",
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        'env = ["PODMAN_IGNORE_CGROUPSV1_WARNING=1"]\n[containers]\nlog_driver = "k8s-file"\n',
    ),
    "docker": ("/etc/docker/daemon.json", '{"features": {"containerd-snapshotter": false}}\n'),
}
#: How each engine lists the containers that it knows, by name.
LISTINGS = {
    "runc": ["runc", "list", "--quiet"],
    "crun": ["crun", "list", "--quiet"],
    "podman": ["podman", "ps", "--all", "--format", "{{.Names}}"],
    "docker": ["docker", "ps", "--all", "--format", "{{.Names}}"],
}
#: The name that a runtime has for a container of podman's or docker's: the engine's id of it.
ID = re.compile(r"[0-9a-f]{64}")
#: Starts dockerd, once one that was told to end has ended: a second refuses to start beside it.
DOCKERD = (
    "while pgrep -x dockerd > /dev/null; do sleep 0.1; done;"
    " setsid dockerd > /var/log/dockerd.log 2>&1 < /dev/null &"
)
#: A network of the engine's on the node's own bridge. The switch reaches its containers, and a
#: container has the same address on any node.
NETWORK = "rack"
PODMAN_NETWORK = ["-o", "mode=unmanaged", "--interface-name", names.BRIDGE]
DOCKER_NETWORK = [
    *("-o", f"com.docker.network.bridge.name={names.BRIDGE}"),
    *("-o", "com.docker.network.bridge.inhibit_ipv4=true"),
    *("-o", "com.docker.network.bridge.enable_ip_masquerade=false"),
]


def set_up(node: Node, engine: str) -> None:
    """Have the engine work on a node, with its network; nothing happens if it does already."""
    if is_set_up(node, engine):
        return
    root = node.run(["stat", "--file-system", "--format=%T", "/"]).stdout.strip()
    for path in STORAGE[engine] if root == "overlayfs" else ():
        node.run(["mkdir", "-p", path])
        node.run(["mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", path])
    path, text = SETTINGS[engine]
    node.run(["sh", "-c", f"mkdir -p {Path(path).parent}; cat > {path}"], input=text)
    if engine == "docker":
        node.run(["migratectl", "docker-runtime"])
        node.run(["sh", "-c", DOCKERD])
        until(
            lambda: node.run(["docker", "version"], check=False).returncode == 0,
            "dockerd to answer",
        )
    make_network(node, engine)
    node.run(["touch", f"{path}.done"])


def is_set_up(node: Node, engine: str) -> bool:
    """Return whether the engine was set up on a node."""
    done = f"{SETTINGS[engine][0]}.done"
    return node.run(["test", "-e", done], check=False).returncode == 0


def containers(node: Node) -> Mapping[str, Sequence[str]]:
    """Return the names of the containers on a node, by engine; engines without any are left out."""
    found = {}
    for engine, listing in LISTINGS.items():
        if engine in SETTINGS and not is_set_up(node, engine):
            continue
        # runc knows of no directory of containers before the first.
        listed = node.run(listing, check=False).stdout.split()
        found[engine] = sorted(name for name in listed if not ID.fullmatch(name))
    return {engine: those for engine, those in found.items() if those}


def make_network(node: Node, engine: str) -> None:
    """Have the engine know the rig's network by the name NETWORK."""
    subnet = ["--subnet", str(names.SUBNET), "--gateway", names.SWITCH_ADDRESS]
    own = PODMAN_NETWORK if engine == "podman" else DOCKER_NETWORK
    node.run([engine, "network", "create", "--driver", "bridge", *subnet, *own, NETWORK])


def load(node: Node, engine: str, archive: Path) -> None:
    """Have the engine load the archive of an image (image.py), which is on this machine."""
    there = f"/tmp/{archive.name}"  # noqa: S108  (of a node)
    node.copy(archive, there)
    node.run([engine, "load", "--quiet", "--input", there])
    node.run(["rm", there])


@dataclass(frozen=True, kw_only=True)
class EngineContainer:
    """A container of podman's or docker's, by name on a node; it need not be there."""

    node: Node
    name: str
    engine: str
    address: str

    @classmethod
    def start(
        cls,
        node: Node,
        engine: str,
        name: str,
        image: str,
        command: Sequence[str],
        *,
        address: str,
        options: Sequence[str] = (),
    ) -> "EngineContainer":
        """Run a container in the background, with further options of the engine's `run`."""
        container = cls(node=node, name=name, engine=engine, address=address)
        mac = names.mac_address(address)
        network = ["--network", NETWORK, "--ip", address, "--mac-address", mac]
        container.do("run", "--detach", "--name", name, *network, *options, image, *command)
        return container

    def on(self, node: Node) -> "EngineContainer":
        """Return the same container on another node."""
        return replace(self, node=node)

    def do(self, *words: str, check: bool = True) -> str:
        """Run a command of the engine's on the node, and return its output."""
        return self.node.run([self.engine, *words], check=check).stdout

    def inspect(self) -> dict[str, Any] | None:
        """Return what the engine knows of the container; None if it knows no such container."""
        found = self.node.run([self.engine, "container", "inspect", self.name], check=False)
        return dict(json.loads(found.stdout)[0]) if found.returncode == 0 else None

    @property
    def status(self) -> str | None:
        """The engine's word for it: running, exited, ...; None if there is no such container."""
        found = self.inspect()
        return None if found is None else str(found["State"]["Status"])

    @property
    def pid(self) -> int:
        """The PID, in the node, of the container's init. Raises RigError if there is no such."""
        found = self.inspect()
        if found is None:
            raise RigError(f"{self.engine} has no container {self.name} on {self.node.name}")
        return int(found["State"]["Pid"])

    def remove(self) -> None:
        """Remove the container and its anonymous volumes; nothing happens if it is not there."""
        at_once = ["--time=0"] if self.engine == "podman" else []
        self.do("rm", "--force", "--volumes", *at_once, self.name, check=False)
