"""What the tool needs to know and do of any container runtime."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

#: Lies in a bundle that a move left behind: the next move may overwrite that tree.
MARKER = ".migrated-away"


@dataclass(frozen=True, kw_only=True)
class Container:
    """A running container as its runtime describes it.

    `config` is the OCI runtime spec of its bundle (config.json), `resources` the limits in force now,
    which `update` may have changed since, in the same spec's `linux.resources` form.
    `descriptors` names what stdin, stdout and stderr are open on, as in /proc/PID/fd.
    """

    id: str
    pid: int
    bundle: Path
    rootfs: Path
    config: dict[str, Any]
    resources: dict[str, Any]
    descriptors: tuple[str, ...]

    @property
    def network_namespace(self) -> str | None:
        """The path of a network namespace somebody else made for it, or None when it owns its own."""
        for namespace in self.config.get("linux", {}).get("namespaces", []):
            if namespace["type"] == "network":
                return str(namespace["path"]) if namespace.get("path") else None
        return None

    @property
    def bind_mounts(self) -> tuple[tuple[str, bool], ...]:
        """(source, writable) of every bind mount of the spec."""
        found = []
        for mount in self.config.get("mounts", []):
            options = mount.get("options", [])
            if mount.get("type") == "bind" or "bind" in options or "rbind" in options:
                found.append((mount["source"], not {"ro", "rro"} & set(options)))
        return tuple(found)


class ContainerRuntime(Protocol):
    """One runtime on this host. Directories are the caller's; it makes and removes them."""

    name: str

    def inspect(self, container_id: str) -> Container:
        """Raises ContainerNotFound or ContainerNotRunning."""

    def exists(self, container_id: str) -> bool:
        """Whether the runtime knows the name, in whatever state."""

    def checkpoint(self, container_id: str, images: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a checkpoint that ends with the container gone, its connections kept in the images."""

    def restore(
        self, container_id: str, bundle: Path, images: Path, env: Mapping[str, str], stdio: tuple[int, int, int]
    ) -> subprocess.Popen[bytes]:
        """Start a restore that detaches once the container runs."""

    def delete(self, container_id: str) -> None:
        """Forget a container whose processes are gone. A name that is not known is no error."""
