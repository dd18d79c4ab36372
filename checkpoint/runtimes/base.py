"""What the tool needs to know and do of any container engine: podman, docker, or a plain OCI runtime."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from checkpoint.runtimes import shape
from checkpoint.runtimes.shape import Maybe, Shape

#: Lies in a bundle that a move left behind: the next move may overwrite that tree.
MARKER = ".migrated-away"
#: The destination of the tree that is the container's root.
ROOTFS = "/"
#: Of what the source's engine logged, so much at most is brought before the restore.
MOST_OUTPUT_BYTES = 64 << 20
#: What is needed of an OCI runtime spec (config.md, config-linux.md); the rest is the runtime's.
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
    """Files that come along: what is mounted at `destination` in the container.

    `root` shows them on this host. With a `layer` only that directory's are sent: it is the upper one of an overlay
    (kernel: Documentation/filesystems/overlayfs.rst) whose others are on the target already.
    """

    destination: str
    root: Path
    layer: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Container:
    """A running container as its engine describes it.

    `id` is the runtime's name for it, `name` the user's. `config` is the OCI runtime spec of its bundle (config.json),
    `resources` the limits in force now, which `update` may have changed since, in the same spec's `linux.resources`
    form. `network_namespace` is the path of one that somebody made for it, or None when it owns its own. `descriptors`
    names what stdin, stdout and stderr are open on, as in /proc/PID/fd. `log` is the file that the engine appends the
    container's output to. `engine_mounts` are destinations of bind mounts that the engine makes by itself wherever it
    runs the container; `engine_network`: likewise its network. `engine_state` is for the engine alone.
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
        """The spec's bind mounts by destination."""
        return {
            mount["destination"]: mount
            for mount in self.config.get("mounts", [])
            if _is_bind(mount)
        }

    @property
    def host_paths(self) -> tuple[tuple[str, bool], ...]:
        """(source, writable) of the bind mounts that are neither the engine's nor come along."""
        ours = self.engine_mounts | {tree.destination for tree in self.trees}
        return tuple(
            (mount["source"], not {"ro", "rro"} & set(mount.get("options") or ()))
            for destination, mount in self.bind_mounts.items()
            if destination not in ours
        )


def _is_bind(mount: dict[str, Any]) -> bool:
    return mount.get("type") == "bind" or bool({"bind", "rbind"} & set(mount.get("options") or ()))


def read_config(bundle: Path) -> dict[str, Any]:
    """The OCI runtime spec of a bundle, without nulls in the parts that are looked at here.

    Raises DataInvalid when it is damaged.
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
    """To runtimes, null is as good as nothing."""
    return {name: value for name, value in members.items() if value is not None}


class ContainerRuntime(Protocol):
    """One engine on this host. Directories are the caller's; it makes and removes them."""

    name: str

    def inspect(self, name: str) -> Container:
        """Raises ContainerNotFound, ContainerNotRunning or NotMovable; DataInvalid for a damaged description, and
        EngineRefused or CommandFailed where the engine cannot be asked."""

    def exists(self, name: str) -> bool:
        """Whether the engine knows the name, in whatever state. Raises EngineRefused where it cannot be asked."""

    def checkpoint(
        self, container: Container, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a checkpoint that ends with the container gone, its connections kept in the images.

        What the command complains of is in `images`/engine.log.
        """

    def describe(self, container: Container) -> dict[str, Any]:
        """What the same engine on the target needs to know of the container (`arrival`), as JSON has it."""

    def layers(self, container: Container) -> list[str]:
        """The layers of its image (DiffIDs of the OCI image spec, config.md), the lowest first; none if it has none."""

    def pack(self, container: Container, directory: Path) -> bytes:
        """An archive of the engine's own that it needs besides, or nothing. `directory` is for files.

        Raises CommandFailed.
        """

    def export_image(self, container: Container, there: frozenset[str], directory: Path) -> None:
        """Write the container's image as files for `load_image` on the target, without the layers that are `there`."""

    def hold_back(self, container: Container) -> Callable[[], None]:
        """From now on the engine must not start it again when it ends. Returns what undoes that."""

    def let_go(self, container: Container) -> None:
        """The container is about to be killed, at once: the last chance to keep the engine from noticing."""

    def keep(self, container: Container) -> None:
        """It was killed, and it is not known whether it runs elsewhere: have the engine show it as ended, and not
        start it again.

        Raises CommandFailed.
        """

    def leave(self, container: Container, *, shared: bool) -> None:
        """It was killed, for it runs elsewhere: forget it. `shared` as in Arrival."""

    def arrival(
        self, name: str, description: Mapping[str, Any], undo: contextlib.ExitStack
    ) -> Arrival:
        """A container that is to be taken in. What is made for it is entered in `undo`."""


class Arrival(Protocol):
    """A container on its way into an engine."""

    def objections(self) -> list[str]:
        """Why the engine here cannot take it in, for people. Changes nothing."""

    def volumes(self) -> list[str]:
        """Names of the engine's volumes that it brings along."""

    def layers_there(self) -> list[str] | None:
        """Of the container's image, which layers are here without it; None if the image is here, or there is none."""

    def load_image(self, directory: Path) -> None:
        """Take in what `export_image` has written. Raises ImageError unless it is that image."""

    def prepare(self, packed: bytes, *, shared: bool) -> dict[str, Path]:
        """Make what can be there before; the roots (by destination) of trees that can be filled by now.

        `packed` is from the source's `pack`; `shared`: the container's files are on storage that both hosts have.
        """

    def take_output(self, lines: bytes) -> None:
        """More of what the source's engine logged (Container.log). Comes before the restore is started, and after."""

    def start_restore(
        self, directory: Path, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start what ends in a RESTORE request to CRIU. `images` may lack what CRIU reads; `directory` is for files.

        Raises NameInUse when a container of that name came into being since the objections were asked for.
        """

    def restore_held(self) -> None:
        """The restore waits at its RESTORE request: what the engine has of the container by now is this move's own."""

    def discard(self) -> None:
        """The restore has failed and ended: remove what it left of the container. Nothing if it was never held."""

    def settle(self) -> None:
        """The container runs here, for good."""
