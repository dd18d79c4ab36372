"""The common part of runc and crun: the commands of OCI runtimes that checkpoint and restore."""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from checkpoint.engines import shape
from checkpoint.engines.base import MARKER, ROOTFS, Container, IncomingContainer, Tree, read_config
from checkpoint.engines.belongings import start_logged
from checkpoint.engines.oci import bundle
from checkpoint.engines.shape import Shape
from checkpoint.errors import CommandFailed, ContainerNotFound, ContainerNotRunning
from checkpoint.files.beneath import is_somebodys_root, remove_tree
from checkpoint.host import ownership, proc
from checkpoint.host.identity import PathIdentity, PathRecord
from checkpoint.host.run import run, start
from checkpoint.schema import Pattern
from checkpoint.undo import Made, Undo

#: The members that are read of a container's state (OCI runtime spec, runtime.md).
TOLD: Shape = {"status": str, "pid": int, "bundle": str}
#: Keys in Container.engine_state: the container as a RuntimeContainer, and the PathIdentity that
#: keeps the inode of its state directory from being given again.
STATE, PINNED = "state", "pinned"
#: Where runc mounts the container's root for CRIU, in the state directory.
CRIU_ROOT = "criu-root"
DUMP_OPTIONS = ("--tcp-established", "--file-locks")


class RuntimeContainer(Made):
    """A container that an OCI runtime has made, known by its state directory.

    The runtime makes that directory with the container, at ROOT/ID, where ROOT is the directory
    that its --root option takes.
    """

    on_disk = False

    runtime: Annotated[str, Pattern("runc|crun")]
    state: PathRecord

    def __str__(self) -> str:
        return f"{self.runtime}'s container {os.path.basename(self.state.path)!r}"

    def remove(self) -> None:
        """Have the runtime delete the container, and remove what a killed runtime leaves of it.

        A runc that was killed in a restore has left the container's root mounted in the state
        directory (runc's criu_linux.go), of which its `delete --force` removes all (delete.go): the
        mount goes first. It has not written the container's state, and then knows of nothing to
        delete.
        """
        if self.state.is_same():
            root, name = os.path.split(self.state.path)
            _unmount(os.path.join(os.path.realpath(root), name, CRIU_ROOT))
            run([self.runtime, "--root", root, "delete", "--force", name])
        if self.state.is_same():
            remove_tree(self.state)


def _unmount(point: str) -> None:
    """Unmount what is mounted at a point, however often. Raises CommandFailed and OSError."""
    for mount in proc.mounts("self"):
        if mount.point == point:
            run(["umount", "--lazy", point])


class LeavingBundle(Made):
    """A bundle on the source, whose container is about to run on the target."""

    bundle: PathRecord
    rootfs: PathRecord

    def __str__(self) -> str:
        return f"bundle {self.bundle.path}"

    def remove(self) -> None:
        """Mark the bundle: it stays, and only one with MARKER is overwritten by a move back.

        A bundle in whose rootfs another container runs is not marked.
        """
        if self.bundle.is_same() and not is_somebodys_root(Path(self.rootfs.path)):
            ownership.mark(Path(self.bundle.path) / MARKER)


class OciRuntime(ABC):
    """An Engine: an OCI runtime that is a program on PATH.

    What the program's commands do not print is read from its state directory. `root` is that
    directory, as the program's --root option takes it: an engine keeps one of its own.
    """

    name: str
    #: A file in `root`/ID that exists as long as the container ID does.
    state_file: str
    #: The members that are read of that file.
    internal: ClassVar[Shape]

    def __init__(self, root: Path) -> None:
        self._root = root

    def exists(self, container_id: str) -> bool:
        # Path.exists, in Python 3.11 to 3.13, raises OSError for a name too long for a file name.
        return os.path.exists(self._root / container_id / self.state_file)

    def inspect(self, container_id: str) -> Container:
        if "/" in container_id or not self.exists(container_id):
            raise ContainerNotFound(f"{self.name} knows no container named {container_id!r}")
        try:
            told = run([*self._program, "state", container_id])
        except CommandFailed as error:
            raise ContainerNotFound(
                f"{self.name} has no usable state of {container_id!r}: {error.stderr}"
            ) from error
        state = shape.parse(told, TOLD, f"{self.name}'s state of {container_id!r}")
        if state["status"] != "running":
            raise ContainerNotRunning(f"container {container_id!r} is {state['status']}")
        internal = shape.read(self._root / container_id / self.state_file, self.internal)
        directory = Path(state["bundle"])
        config = read_config(directory)
        rootfs = directory / config["root"]["path"]
        return Container(
            id=container_id,
            name=container_id,
            pid=state["pid"],
            bundle=directory,
            rootfs=rootfs,
            config=config,
            resources=self._limits(state["pid"], internal),
            descriptors=self._descriptors(internal),
            network_namespace=_network_namespace(config),
            trees=(Tree(destination=ROOTFS, root=rootfs),),
            engine_state={
                STATE: self.made(container_id),
                PINNED: PathIdentity(self._root / container_id),
            },
        )

    def checkpoint(
        self, container: Container, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        argv = [
            *self._program,
            "checkpoint",
            "--image-path",
            str(images),
            "--work-path",
            str(images),
            *DUMP_OPTIONS,
        ]
        return start_logged([*argv, container.id], images, env)

    def restore(
        self,
        container_id: str,
        bundle: Path,
        images: Path,
        env: Mapping[str, str],
        stdio: tuple[int, int, int],
    ) -> subprocess.Popen[bytes]:
        """Start `restore_command` with the container's standard streams, as descriptors.

        Raises CommandFailed when the command cannot be started.
        """
        argv = self.restore_command(container_id, bundle, images)
        return start(argv, env=env, stdin=stdio[0], stdout=stdio[1], stderr=stdio[2])

    def restore_command(
        self, container_id: str, bundle: Path, images: Path, *options: str
    ) -> list[str]:
        """Return the command that restores a container, and ends when the container runs.

        The runtime's own messages go to `images`/runtime.log, because its standard error belongs to
        the container.
        """
        log = ["--log", str(images / "runtime.log"), "--log-format", "json"]
        argv = [*self._program, *log, "restore", "--detach", "--bundle", str(bundle)]
        return [
            *argv,
            "--image-path",
            str(images),
            "--work-path",
            str(images),
            *options,
            *DUMP_OPTIONS,
            container_id,
        ]

    def describe(self, container: Container) -> dict[str, Any]:
        return bundle.describe(container)

    def layers(self, container: Container) -> list[str]:
        return []

    def pack(self, container: Container, directory: Path) -> bytes:
        return b""

    def export_image(self, container: Container, there: frozenset[str], directory: Path) -> None:
        return  # the container has no image: its root directory is a tree like others

    def suspend_restart_policy(self, container: Container, undo: Undo) -> None:
        return  # the runtime restarts nothing by itself

    def pause_monitor(self, container: Container, undo: Undo) -> None:
        return  # no process of the runtime looks after a container

    def end_monitor(self, container: Container) -> None:
        return  # as above

    def record_ended(self, container: Container) -> None:
        return  # the runtime restarts nothing by itself

    def remaining(self, container: Container, *, shared: bool) -> list[Made]:
        state: Made = container.engine_state[STATE]
        if shared:  # the bundle is the target's, too
            return [state]
        bundle = LeavingBundle(
            bundle=PathRecord.of(container.bundle), rootfs=PathRecord.of(container.rootfs)
        )
        return [state, bundle]

    def made(self, container_id: str) -> RuntimeContainer:
        """Return a container, known by its state directory. Raises OSError if there is none."""
        return RuntimeContainer(runtime=self.name, state=PathRecord.of(self._root / container_id))

    def arrival(self, name: str, description: Mapping[str, Any], undo: Undo) -> IncomingContainer:
        return bundle.IncomingBundle(self, name, description, undo)

    @property
    def _program(self) -> list[str]:
        return [self.name, "--root", str(self._root)]

    @abstractmethod
    def _limits(self, pid: int, internal: dict[str, Any]) -> dict[str, Any]:
        """Return the limits in force that the runtime's `update` can have changed.

        `internal` is the content of the state file. The result has the form of `linux.resources`.
        """

    @abstractmethod
    def _descriptors(self, internal: dict[str, Any]) -> tuple[str, ...]:
        """Return what the standard streams were open on when the container was started.

        `internal` is the content of the state file. The result is as Container.descriptors.
        """


def _network_namespace(config: Mapping[str, Any]) -> str | None:
    for namespace in config["linux"].get("namespaces", []):
        if namespace["type"] == "network" and namespace.get("path"):
            return str(namespace["path"])
    return None
