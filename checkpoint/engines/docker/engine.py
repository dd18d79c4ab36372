"""docker, by its Engine API; a container itself belongs to a runc beneath containerd's shim.

docker's own `start --checkpoint` restores no network (containerd#12141). Therefore docker on the
target only creates and starts the container, and does not know that its OCI runtime restores the
container (incoming.py).
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkpoint.engines import belongings, restart_policy, shape
from checkpoint.engines.base import ROOTFS, Container, IncomingContainer, Tree
from checkpoint.engines.belongings import MOUNT
from checkpoint.engines.docker import api, store
from checkpoint.engines.docker.incoming import RUNTIME, IncomingDockerContainer
from checkpoint.engines.made import remaining
from checkpoint.engines.oci.runc import Runc
from checkpoint.engines.shape import Maybe, Shape
from checkpoint.errors import ContainerNotFound, ContainerNotRunning, NotMovable
from checkpoint.undo import Made, Undo

#: Destinations of the bind mounts that docker makes for every container, from its own settings and
#: what it knows of the network.
OWN_MOUNTS = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
#: The directory in which runc, beneath the shim, keeps its state: in a directory for each of
#: docker's `runtimes`.
STATE = "/run/docker"
#: Values of HostConfig.Runtime for containers that runc runs.
RUNTIMES = ("runc", "io.containerd.runc.v2", RUNTIME)
STORAGE_DRIVER = "overlay2"
#: Values of HostConfig.NetworkMode with which a container cannot migrate.
NETWORK_MODES = ("host", "none")
#: The members that are read of docker's description of a running container (API, ContainerInspect).
RUNNING: Shape = {
    **dict.fromkeys(("Id", "Name", "Driver", "Image"), str),
    "LogPath": Maybe(str),
    "Config": {"Tty": bool, "Image": str},
    "HostConfig": {"NetworkMode": str, "Runtime": str, "RestartPolicy": {"Name": str}},
    "NetworkSettings": {"Networks": dict, "SandboxKey": str},
    "Mounts": [MOUNT],
}
#: Further members, for a container whose files can migrate.
FILES: Shape = {"GraphDriver": {"Data": {"MergedDir": str, "UpperDir": str}}}


class Docker:
    """An Engine: the docker that listens on its usual socket."""

    name = "docker"

    def exists(self, name: str) -> bool:
        return api.is_here() and api.call("GET", f"/containers/{name}/json") is not None

    def inspect(self, name: str) -> Container:
        found = api.call("GET", f"/containers/{name}/json") if api.is_here() else None
        if found is None:
            raise ContainerNotFound(f"docker knows no container named {name!r}")
        what = f"docker's description of {name!r}"
        shape.check(found, {"State": {"Status": str}}, what)
        if found["State"]["Status"] != "running":
            raise ContainerNotRunning(f"container {name!r} is {found['State']['Status']}")
        shape.check(found, RUNNING, what)
        if why := unmovable(found):
            raise NotMovable(why)
        shape.check(found, FILES, what)
        beneath = _runc_of(found["Id"]).inspect(found["Id"])
        return replace(
            beneath,
            name=found["Name"].removeprefix("/"),
            trees=tuple(_trees(found, beneath)),
            log=Path(found["LogPath"]) if found.get("LogPath") else None,
            network_namespace=found["NetworkSettings"]["SandboxKey"],
            engine_mounts=frozenset(OWN_MOUNTS),
            engine_network=True,
            engine_state=found,
        )

    def checkpoint(
        self, container: Container, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        return _runc_of(container.id).checkpoint(container, images, env)

    def describe(self, container: Container) -> dict[str, Any]:
        found = container.engine_state
        endpoints = found["NetworkSettings"]["Networks"]
        check_not_joined(found)
        return {
            "container": {name: found[name] for name in ("Config", "HostConfig", "Image", "Name")},
            "endpoints": endpoints,
            **belongings.described(self.name, store, found, endpoints),
            "layers": self.layers(container),
            "descriptors": list(container.descriptors),
        }

    def layers(self, container: Container) -> list[str]:
        return belongings.layers_of(store, container.engine_state["Image"])

    def pack(self, container: Container, directory: Path) -> bytes:
        return b""

    def export_image(self, container: Container, there: frozenset[str], directory: Path) -> None:
        found = container.engine_state
        named = store.image(found["Config"]["Image"])
        # An image exported by its name brings the name along. It may have lost its name since.
        name = (
            found["Config"]["Image"] if named and named["Id"] == found["Image"] else found["Image"]
        )
        store.export_image(name, there, directory)

    def suspend_restart_policy(self, container: Container, undo: Undo) -> None:
        restart_policy.suspend(self.name, container, undo)

    def pause_monitor(self, container: Container, undo: Undo) -> None:
        return  # `suspend_restart_policy` has kept docker from restarting the container

    def end_monitor(self, container: Container) -> None:
        return  # as above

    def record_ended(self, container: Container) -> None:
        return  # docker has seen the end itself, and `suspend_restart_policy` still holds

    def remaining(self, container: Container, *, shared: bool) -> list[Made]:
        return remaining(self.name, container)

    def arrival(self, name: str, description: Mapping[str, Any], undo: Undo) -> IncomingContainer:
        return IncomingDockerContainer(name, description, undo)


def unmovable(found: Mapping[str, Any]) -> str | None:
    """Return why a container cannot migrate, for people; None if it can.

    `found` is the container as docker's API describes it.
    """
    name, host = found["Name"].removeprefix("/"), found["HostConfig"]
    if found["Config"]["Tty"]:
        return f"container {name!r} has a terminal (-t), which cannot be moved"
    if host["NetworkMode"] in NETWORK_MODES or host["NetworkMode"].startswith("container:"):
        return (
            f"container {name!r} has the network mode {host['NetworkMode']!r};"
            " only docker's networks can be moved"
        )
    if "bridge" in found["NetworkSettings"]["Networks"]:
        return (
            f"container {name!r} is on docker's default network, which gives no fixed addresses;"
            " use one of your own"
        )
    if found["Driver"] != STORAGE_DRIVER:
        driver = found["Driver"]
        return (
            f"container {name!r} has its files kept by {driver!r};"
            f" only those kept by {STORAGE_DRIVER} can be moved"
        )
    if host.get("AutoRemove"):
        return (
            f"container {name!r} was started with --rm: docker would remove it when it is killed on"
            " the source, before the target runs it; start it without"
        )
    if host["Runtime"] not in RUNTIMES:
        return f"container {name!r} is run by {host['Runtime']!r}; only runc can move it"
    return None


def check_not_joined(found: Mapping[str, Any]) -> None:
    """Raise NotMovable when another container uses the network namespace of this one."""
    others = api.call("GET", "/containers/json")
    shape.check(others, [{"Id": str, "HostConfig": {"NetworkMode": str}}], "docker's containers")
    for other in others:
        if other["HostConfig"]["NetworkMode"] == f"container:{found['Id']}":
            raise NotMovable(
                f"container {other['Id'][:12]} uses the network of {found['Name'][1:]!r}, and would"
                " be left without one; stop it first"
            )


def _runc_of(container_id: str) -> Runc:
    for directory in Path(STATE).glob(f"runtime-*/moby/{container_id}"):
        return Runc(directory.parent)
    raise ContainerNotFound(f"no runc of docker's knows {container_id}")


def _trees(found: Mapping[str, Any], beneath: Container) -> list[Tree]:
    data = found["GraphDriver"]["Data"]
    rootfs = Tree(destination=ROOTFS, root=Path(data["MergedDir"]), layer=Path(data["UpperDir"]))
    return [rootfs, *belongings.trees_of(found, beneath)]
