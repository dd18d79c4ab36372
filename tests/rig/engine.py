"""podman and docker on a node, for real: their storage on file systems of their own, dockerd running."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.rig import names
from tests.rig.errors import RigError
from tests.rig.node import Node
from tests.rig.wait import until

#: An overlay cannot be the upper layer of another, and the nodes' root is one.
STORAGE = {"podman": ["/var/lib/containers"], "docker": ["/var/lib/docker", "/var/lib/containerd"]}
SETTINGS = {
    "podman": (
        "/etc/containers/containers.conf",
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        'env = ["PODMAN_IGNORE_CGROUPSV1_WARNING=1"]\n[containers]\nlog_driver = "k8s-file"\n',
    ),
    "docker": ("/etc/docker/daemon.json", '{"features": {"containerd-snapshotter": false}}\n'),
}
DOCKERD = "setsid dockerd > /var/log/dockerd.log 2>&1 < /dev/null &"
#: A network on the node's own bridge, so that containers are reached from the switch, and by the same address anywhere.
NETWORK = "rack"
PODMAN_NETWORK = ["-o", "mode=unmanaged", "--interface-name", names.BRIDGE]
DOCKER_NETWORK = [
    *("-o", f"com.docker.network.bridge.name={names.BRIDGE}"),
    *("-o", "com.docker.network.bridge.inhibit_ipv4=true"),
    *("-o", "com.docker.network.bridge.enable_ip_masquerade=false"),
]


def set_up(node: Node, engine: str) -> None:
    """Have the engine work on a node, with the network and nothing else; nothing happens if it does."""
    if node.run(["test", "-e", f"{SETTINGS[engine][0]}.done"], check=False).returncode == 0:
        return
    on_overlay = (
        node.run(["stat", "--file-system", "--format=%T", "/"]).stdout.strip() == "overlayfs"
    )
    for path in STORAGE[engine] if on_overlay else ():
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
    node.run(["touch", f"{SETTINGS[engine][0]}.done"])


def make_network(node: Node, engine: str) -> None:
    """The rig's network, as the engine calls it."""
    common = [
        "--driver",
        "bridge",
        "--subnet",
        str(names.SUBNET),
        "--gateway",
        names.SWITCH_ADDRESS,
    ]
    own = PODMAN_NETWORK if engine == "podman" else DOCKER_NETWORK
    node.run([engine, "network", "create", *common, *own, NETWORK])


def load(node: Node, engine: str, archive: Path) -> None:
    """An image archive (image.py)."""
    there = f"/tmp/{archive.name}"  # noqa: S108  (of a node)
    node.copy(archive, there)
    node.run([engine, "load", "--quiet", "--input", there])
    node.run(["rm", there])


@dataclass(frozen=True, kw_only=True)
class EngineContainer:
    """A container of podman's or docker's, by name."""

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
        """Run one in the background."""
        container = cls(node=node, name=name, engine=engine, address=address)
        network = [
            "--network",
            NETWORK,
            "--ip",
            address,
            "--mac-address",
            names.mac_address(address),
        ]
        container.do("run", "--detach", "--name", name, *network, *options, image, *command)
        return container

    def on(self, node: Node) -> "EngineContainer":
        """The same on another node."""
        return replace(self, node=node)

    def do(self, *words: str, check: bool = True) -> str:
        """One of the engine's commands; its output."""
        return self.node.run([self.engine, *words], check=check).stdout

    def inspect(self) -> dict[str, Any] | None:
        """What the engine knows of it; None if nothing."""
        found = self.node.run([self.engine, "container", "inspect", self.name], check=False)
        return dict(json.loads(found.stdout)[0]) if found.returncode == 0 else None

    @property
    def status(self) -> str | None:
        found = self.inspect()
        return None if found is None else str(found["State"]["Status"])

    @property
    def pid(self) -> int:
        found = self.inspect()
        if found is None:
            raise RigError(f"{self.engine} has no container {self.name} on {self.node.name}")
        return int(found["State"]["Pid"])

    def remove(self) -> None:
        """With its volumes; nothing happens if it is not there."""
        at_once = ["--time=0"] if self.engine == "podman" else []
        self.do("rm", "--force", "--volumes", *at_once, self.name, check=False)
