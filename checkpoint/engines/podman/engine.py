"""podman, driven by its command line; a container belongs to an OCI runtime beneath podman.

podman on the target makes the container from podman's own checkpoint archive
(podman-container-checkpoint(1), --export), which brings everything but memory and files.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkpoint.criu.interposer import Interposer
from checkpoint.criu.roles import UndumpedRole
from checkpoint.criu.shim_install import install_shim, rpc_socket
from checkpoint.engines import archives, belongings, restart_policy, shape
from checkpoint.engines.base import ROOTFS, Container, IncomingContainer, Tree
from checkpoint.engines.belongings import MOUNT
from checkpoint.engines.made import remaining
from checkpoint.engines.oci.runtime import DUMP_OPTIONS, OciRuntime
from checkpoint.engines.podman import store
from checkpoint.engines.podman.incoming import BENEATH, LOG, IncomingPodmanContainer
from checkpoint.engines.restart_policy import RESTART_POLICY
from checkpoint.engines.shape import Each, Maybe, Shape
from checkpoint.errors import (
    CommandFailed,
    ContainerNotFound,
    ContainerNotRunning,
    DataInvalid,
    ImageError,
    NotMovable,
)
from checkpoint.host import proc, processes
from checkpoint.host.run import run
from checkpoint.undo import Made, Undo

#: Destinations of the bind mounts that podman makes for every container, from its own settings and
#: what it knows of the network.
OWN_MOUNTS = (
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/run/.containerenv",
    "/run/secrets",
    "/etc/passwd",
)
#: The entry that podman wants in an archive, besides its own descriptions, to begin a restore.
INVENTORY = "checkpoint/inventory.img"
#: Entries of podman's archive whose files reach the target by other ways, and newer.
LEFT_OUT = (LOG, "devshm-checkpoint.tar", "rootfs-diff.tar", "deleted.files")
#: The entry that is podman's configuration of the container (libpod, ContainerConfig), and the
#: members of it that are the restart policy.
CONFIG, POLICY = "config.dump", ("restart_policy", "restart_retries")
#: A bound of the archive's other entries. podman's descriptions take some 10 KiB.
MOST_PACKED_BYTES = 8 << 20
#: The members that are read of `podman container inspect`, for a running container.
RUNNING: Shape = {
    **dict.fromkeys(("Id", "Name", "Pod", "OCIRuntime", "Image", "ImageName"), str),
    "Config": {"Tty": bool, "Labels": Maybe(Each(str))},
    "HostConfig": {
        "NetworkMode": str,
        "LogConfig": {"Path": Maybe(str)},
        "RestartPolicy": RESTART_POLICY,
    },
    "State": {"ConmonPid": int, "CgroupPath": str},
    "Mounts": [MOUNT],
    "GraphDriver": {"Name": str},
    "NetworkSettings": {"Networks": Maybe(dict)},
}
OVERLAY = "overlay"
OVERLAY_FILES: Shape = {"GraphDriver": {"Data": {"UpperDir": str, "MergedDir": str}}}
#: On a host with none of these podman has never run. Any podman command would make them.
TRACES = (Path("/run/libpod"), Path("/var/lib/containers/storage"))
#: The label by which podman knows the unit that starts a container (podman-systemd.unit(5)).
UNIT_LABEL = "PODMAN_SYSTEMD_UNIT"


class Monitor(Made):
    """The conmon of a container, which is about to be stopped by a signal."""

    on_disk = False

    pid: int
    start_ticks: int

    def __str__(self) -> str:
        return f"podman's conmon, process {self.pid},"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to conmon, unless the pid is that of another process by now."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if processes.start_ticks(self.pid) == self.start_ticks:
                os.kill(self.pid, number)

    def remove(self) -> None:
        """Have conmon go on."""
        self.signal(signal.SIGCONT)


def monitor_of(container: Container) -> Monitor | None:
    """Return the container's conmon, or None if it has ended."""
    pid = container.engine_state["State"]["ConmonPid"]
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        monitor = Monitor(pid=pid, start_ticks=processes.start_ticks(pid))
        if proc.command_name(pid) == "conmon":
            return monitor
    return None


class Podman:
    """An Engine: the `podman` on PATH, for containers of root."""

    name = "podman"

    def exists(self, name: str) -> bool:
        return any(path.exists() for path in TRACES) and store.has_container(name)

    def inspect(self, name: str) -> Container:
        try:
            told = run(["podman", "container", "inspect", name])
        except CommandFailed as error:
            if store.has_container(name):
                raise
            raise ContainerNotFound(f"podman knows no container named {name!r}") from error
        what = f"podman's description of {name!r}"
        # The list is not empty: podman fails if there is no such container.
        found = shape.parse(told, [{"State": {"Status": str}}], what)[0]
        if found["State"]["Status"] != "running":
            raise ContainerNotRunning(f"container {name!r} is {found['State']['Status']}")
        shape.check(found, RUNNING, what)
        if why := unmovable(found):
            raise NotMovable(why)
        if found["GraphDriver"]["Name"] == OVERLAY:
            shape.check(found, OVERLAY_FILES, what)
        beneath = self._beneath(found).inspect(found["Id"])
        return replace(
            beneath,
            name=found["Name"],
            trees=tuple(_trees(found, beneath)),
            log=_log(found),
            engine_mounts=frozenset(OWN_MOUNTS),
            engine_network=True,
            engine_state=found,
        )

    def checkpoint(
        self, container: Container, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        return self._beneath(container.engine_state).checkpoint(container, images, env)

    def describe(self, container: Container) -> dict[str, Any]:
        found = container.engine_state
        image, name = found["Image"], found["ImageName"]
        return {
            "id": container.id,
            "image": {"id": image, "name": name, "layers": self.layers(container)},
            "runtime": Path(found["OCIRuntime"]).name,
            "cgroup": found["State"]["CgroupPath"],
            "restart": found["HostConfig"]["RestartPolicy"],
            "log": str(container.log) if container.log else None,
            **belongings.described(self.name, store, found, _networks(found)),
        }

    def layers(self, container: Container) -> list[str]:
        return belongings.layers_of(store, container.engine_state["Image"])

    def pack(self, container: Container, directory: Path) -> bytes:
        archive = directory / "podman.tar"
        env = install_shim(directory)
        argv = [
            "podman",
            "container",
            "checkpoint",
            "--leave-running",
            "--compress=none",
            "--ignore-rootfs",
        ]
        argv += ["--ignore-volumes", f"--export={archive}", *DUMP_OPTIONS, container.id]
        with Interposer(rpc_socket(directory), UndumpedRole()):
            run(argv, env=env)
        try:
            return without_contents(archive)
        finally:
            archive.unlink()

    def export_image(self, container: Container, there: frozenset[str], directory: Path) -> None:
        store.export_image(container.engine_state["Image"], there, directory)

    def suspend_restart_policy(self, container: Container, undo: Undo) -> None:
        restart_policy.suspend(self.name, container, undo)

    def pause_monitor(self, container: Container, undo: Undo) -> None:
        """Stop the container's conmon.

        At the container's death conmon would have podman clean up.
        """
        if monitor := monitor_of(container):
            undo.made(monitor)
            monitor.signal(signal.SIGSTOP)

    def end_monitor(self, container: Container) -> None:
        """End the container's conmon, which `pause_monitor` has stopped."""
        if monitor := monitor_of(container):
            monitor.signal(signal.SIGKILL)

    def record_ended(self, container: Container) -> None:
        """Have podman notice that the container ended.

        podman does not learn of the end by itself, because `end_monitor` ended conmon before.
        """
        # `podman stop` fails because conmon is gone, but records the end all the same.
        with contextlib.suppress(CommandFailed):
            run(
                ["podman", "stop", "--time=0", container.id],
                timeout_s=store.REMOVE_TIMEOUT_S,
            )

    def remaining(self, container: Container, *, shared: bool) -> list[Made]:
        return remaining(self.name, container)

    def arrival(self, name: str, description: Mapping[str, Any], undo: Undo) -> IncomingContainer:
        return IncomingPodmanContainer(name, description, undo)

    def _beneath(self, found: Mapping[str, Any]) -> OciRuntime:
        return BENEATH[Path(found["OCIRuntime"]).name]()


def _networks(found: Mapping[str, Any]) -> list[str]:
    """Return the names of the container's networks.

    For a container without a network, podman names one all the same: that one is left out.
    """
    return (
        []
        if found["HostConfig"]["NetworkMode"] == "none"
        else [*(found["NetworkSettings"].get("Networks") or ())]
    )


def unmovable(found: Mapping[str, Any]) -> str | None:
    """Return why a container cannot migrate, for people; None if it can.

    `found` is the container as `podman container inspect` describes it.
    """
    if found["Pod"]:
        return f"container {found['Name']!r} is in a pod, and pods cannot be moved yet"
    if found["Config"]["Tty"]:
        return f"container {found['Name']!r} has a terminal (-t), which cannot be moved"
    if found["HostConfig"]["NetworkMode"] not in ("bridge", "none"):
        mode = found["HostConfig"]["NetworkMode"]
        return (
            f"container {found['Name']!r} has the network mode {mode!r};"
            " only podman's networks can be moved"
        )
    if unit := (found["Config"].get("Labels") or {}).get(UNIT_LABEL):
        return (
            f"container {found['Name']!r} belongs to the systemd unit {unit!r}, "
            "which would start it"
            " again on the source; start it without the unit"
        )
    if Path(found["OCIRuntime"]).name not in BENEATH:
        return (
            f"container {found['Name']!r} is run by {found['OCIRuntime']};"
            f" only {' and '.join(BENEATH)} can move it"
        )
    return None


def without_contents(archive: Path) -> bytes:
    """Return the part of podman's checkpoint archive that podman needs to begin a restore.

    The entries LEFT_OUT are left out: their content reaches the target by other ways. An empty
    INVENTORY is added as the last entry. The restart policy is left out, too: podman must not start
    a container again that is not its own yet. Raises ImageError when the archive is damaged, or
    has more than MOST_PACKED_BYTES in its other entries.
    """
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as new:
        edits = {CONFIG: _without_policy}
        archives.copied(archive, LEFT_OUT, new, MOST_PACKED_BYTES, edits)
        new.addfile(tarfile.TarInfo(INVENTORY))
    return written.getvalue()


def _without_policy(config: bytes) -> bytes:
    try:
        found = shape.parse(config, {}, f"{CONFIG} of podman's archive")
    except DataInvalid as error:
        raise ImageError(str(error)) from error
    return json.dumps({name: found[name] for name in found if name not in POLICY}).encode()


def _trees(found: Mapping[str, Any], beneath: Container) -> list[Tree]:
    rootfs = Tree(destination=ROOTFS, root=beneath.rootfs)
    if found["GraphDriver"]["Name"] == OVERLAY:
        data = found["GraphDriver"]["Data"]
        rootfs = Tree(
            destination=ROOTFS, root=Path(data["MergedDir"]), layer=Path(data["UpperDir"])
        )
    return [rootfs, *belongings.trees_of(found, beneath)]


def _log(found: Mapping[str, Any]) -> Path | None:
    path = found["HostConfig"]["LogConfig"].get("Path")
    return Path(path) if path else None
