"""The interface of a container engine: podman, docker, or an OCI runtime used alone.

`Engine` is the interface on either host, `IncomingContainer` that of one container that arrives on
the target.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from checkpoint.engines import shape
from checkpoint.engines.shape import Maybe, Shape
from checkpoint.undo import Made, Undo

#: The file that marks a bundle which the next migration may overwrite: one that a migration left
#: behind on its source, or has not finished making on its target.
MARKER = ".migrated-away"
#: The destination of the tree that is the container's root directory.
ROOTFS = "/"
#: At most this much of the log of the source's engine reaches the target's before the restore
#: starts: the last whole lines.
MOST_OUTPUT_BYTES = 64 << 20
#: The members of an OCI runtime spec (config.md, config-linux.md) that the tool reads. The others
#: are only for the runtime.
CONFIG: Shape = {
    "root": {"path": str},
    "mounts": Maybe(
        [{"destination": str, "type": Maybe(str), "source": Maybe(str), "options": Maybe([str])}],
    ),
    "linux": Maybe(
        {
            "namespaces": Maybe([{"type": str, "path": Maybe(str)}]),
            "cgroupsPath": Maybe(str),
            "resources": Maybe(dict.fromkeys(("memory", "cpu", "pids", "unified"), Maybe(dict))),
        }
    ),
}


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A tree of files that migrates with the container, which has it at `destination`.

    `root` is the directory on this host that shows the tree. A tree with a `layer` is an overlay
    (kernel: Documentation/filesystems/overlayfs.rst), and `layer` is its upper directory. Only the
    files of `layer` are sent then, because the target has the lower layers already.
    """

    destination: str
    root: Path
    layer: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Container:
    """A running container as its engine describes it.

    - `id`: the OCI runtime's name for the container. `name`: the engine's, which users know.
    - `pid`: the container's init, as this host numbers it.
    - `config`: the OCI runtime spec of the bundle (config.json).
    - `resources`: the limits in force, in the form of the spec's `linux.resources`. They differ
      from `config` where the runtime's `update` has changed them.
    - `descriptors`: what stdin, stdout and stderr are open on, named as in /proc/PID/fd.
    - `trees`: the files that migrate with the container.
    - `network_namespace`: the path of a network namespace that was made for the container; None
      when the container owns its namespace.
    - `log`: the file to which the engine appends the container's output; None if there is none.
    - `engine_mounts`: destinations of the bind mounts that the engine makes on any host that runs
      the container.
    - `engine_network`: whether the engine makes the network, too, on any such host.
    - `engine_state`: what the methods of the engine need to know besides.
    """

    id: str
    name: str
    pid: int
    bundle: Path
    rootfs: Path
    config: dict[str, Any]
    resources: dict[str, Any]
    descriptors: tuple[str, ...]
    trees: tuple[Tree, ...]
    network_namespace: str | None
    log: Path | None = None
    engine_mounts: frozenset[str] = frozenset()
    engine_network: bool = False
    engine_state: dict[str, Any] = field(default_factory=dict)

    @property
    def bind_mounts(self) -> dict[str, dict[str, Any]]:
        """{destination: mount} of the bind mounts in the spec."""
        return {
            mount["destination"]: mount
            for mount in self.config.get("mounts", [])
            if _is_bind(mount)
        }

    @property
    def host_paths(self) -> tuple[tuple[str, bool], ...]:
        """(source, writable) of each bind mount that neither the engine makes nor a tree brings."""
        ours = self.engine_mounts | {tree.destination for tree in self.trees}
        return tuple(
            (mount["source"], not {"ro", "rro"} & set(mount.get("options") or ()))
            for destination, mount in self.bind_mounts.items()
            if destination not in ours
        )


def _is_bind(mount: dict[str, Any]) -> bool:
    return mount.get("type") == "bind" or bool({"bind", "rbind"} & set(mount.get("options") or ()))


def read_config(bundle: Path) -> dict[str, Any]:
    """Return the OCI runtime spec of a bundle, checked against CONFIG.

    Members that are null are left out at the top, in `linux` and in `linux.resources`. `linux` is
    always present, and every bind mount has a `source`. Raises DataInvalid when config.json is
    missing or damaged.
    """
    path = bundle / "config.json"
    config = _without_nulls(shape.read(path, CONFIG))
    linux = config["linux"] = _without_nulls(config.get("linux", {}))
    if "resources" in linux:
        linux["resources"] = _without_nulls(linux["resources"])
    for mount in filter(_is_bind, config.get("mounts", [])):
        shape.check(mount, {"source": str}, f"{path}, mount at {mount['destination']!r},")
    return config


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    """Return the members that are not null: to OCI runtimes, null means that there is no value."""
    return {name: value for name, value in members.items() if value is not None}


class Engine(Protocol):
    """One engine on this host.

    Every directory that a method is given belongs to the caller, who makes and removes it.
    """

    name: str

    def inspect(self, name: str) -> Container:
        """Return the running container of that name.

        Raises ContainerNotFound, ContainerNotRunning or NotMovable, DataInvalid when the engine's
        description is damaged, and EngineRefused or CommandFailed when the engine cannot be asked.
        """

    def exists(self, name: str) -> bool:
        """Return whether the engine has a container of that name, in any state.

        Raises EngineRefused when the engine cannot be asked.
        """

    def checkpoint(
        self, container: Container, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a checkpoint that ends the container and keeps its TCP connections.

        The image files, which hold the connections, go to `images`, and the command's standard
        error to `images`/engine.log. `env` is the command's environment, with the shim on its PATH.
        Raises CommandFailed when the command cannot be started.
        """

    def describe(self, container: Container) -> dict[str, Any]:
        """Return the description, fit for JSON, that `arrival` takes on the target.

        Raises EngineRefused or OSError.
        """

    def layers(self, container: Container) -> list[str]:
        """Return the layers of the container image, lowest first; [] if there is no image.

        A layer is named by its DiffID (OCI image spec, config.md). Raises EngineRefused.
        """

    def pack(self, container: Container, directory: Path) -> bytes:
        """Return what the engine on the target needs in addition to `describe`; b"" if nothing.

        podman needs its own checkpoint archive. `directory` is for temporary files. Raises
        CommandFailed, and ImageError when the archive is damaged or too large.
        """

    def export_image(self, container: Container, there: frozenset[str], directory: Path) -> None:
        """Write the container image to `directory`, as files for `load_image` on the target.

        The layers in `there`, by DiffID, are left out: the target has them. Raises EngineRefused,
        ImageError, or DataInvalid when one of `there` is no digest.
        """

    def suspend_restart_policy(self, container: Container, undo: Undo) -> None:
        """Keep the engine from starting the container again when the container ends.

        What gives the policy back is entered in `undo`. Raises EngineRefused.
        """

    def pause_monitor(self, container: Container, undo: Undo) -> None:
        """Keep the engine from reacting to the container's death, which comes right after this.

        What has the engine watch the container again is entered in `undo`.
        """

    def end_monitor(self, container: Container) -> None:
        """Have the engine never react: the container was killed after `pause_monitor`."""

    def record_ended(self, container: Container) -> None:
        """Have the engine show the killed container as ended, and not start it again.

        For a container that was killed on the source while it is unknown whether it runs on the
        target. Raises CommandFailed.
        """

    def remaining(self, container: Container, *, shared: bool) -> list[Made]:
        """Return what this host still has of a container once the target runs it, to be removed.

        The things are removed in this order. `shared` is that of IncomingContainer.prepare.
        """

    def arrival(self, name: str, description: Mapping[str, Any], undo: Undo) -> IncomingContainer:
        """Return the arrival by which this engine, on the target, takes in a container as `name`.

        `description` is from `describe` on the source. What the arrival makes is entered in `undo`.
        Raises DataInvalid when the description is not what `describe` returns.
        """


class IncomingContainer(Protocol):
    """An incoming container, on its way into an engine on the target.

    `keeps_files`: a restore that fails leaves the files that the container has got so far, and
    another one can be started. Otherwise that has none of the files that came after `prepare`.
    """

    keeps_files: bool

    def objections(self) -> list[str]:
        """Return why the engine cannot take the container in, for people. Changes nothing."""

    def volumes(self) -> list[str]:
        """Return the names of the engine's volumes that migrate with the container."""

    def layers_there(self) -> list[str] | None:
        """Return the DiffIDs of the container image's layers that the target has in other images.

        None if the target has the image itself, or if the container has no image.
        """

    def load_image(self, directory: Path) -> None:
        """Load the files that `export_image` has written, from `directory`, into the engine.

        Raises ImageError if they are not that container image, and EngineRefused.
        """

    def prepare(self, packed: bytes, *, shared: bool) -> dict[str, Path]:
        """Make on the target what can exist before the restore is armed.

        Returns {destination: root} of the trees that can be filled from now on. `packed` is from
        `pack` on the source. `shared` says that the container's files are on storage that both
        hosts share. Raises ImageError, EngineRefused or OSError.
        """

    def take_output(self, lines: bytes) -> None:
        """Take further lines of the log of the source's engine (Container.log), whole ones.

        Called before the restore is started, and after. Raises OSError.
        """

    def start_restore(
        self, directory: Path, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start the engine's restore, which will send a RESTORE request to CRIU.

        `images` is the directory of the image files, which need not be there yet. `directory` is
        for temporary files, and `env` has the shim on its PATH. Raises NameInUse when a container
        of that name was made after `objections` was called.
        """

    def restore_held(self) -> None:
        """Record that the restore waits at its RESTORE request.

        What the engine has of the container now was made by this migration: a roll-back may remove
        it.
        """

    def check_held(self) -> None:
        """Raise ConversationLost if the engine would not keep the container that is held.

        That is so if a process has ended without which the engine takes its start for failed.
        """

    def handover(self) -> tuple[Callable[[list[int]], None] | None, list[int]]:
        """Return the part of the restore that this process carries out itself, to hand it over.

        That is a function that can be pickled, and descriptors. Another process calls the function
        with copies of the descriptors if this one is killed while the container is held. None means
        that the engine's restore needs nobody.
        """

    def settle(self) -> None:
        """Finish the arrival: the container runs on the target, and belongs to its engine."""
