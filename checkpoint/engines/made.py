"""Objects of podman and docker that a migration makes on the target, or leaves on the source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from checkpoint.bounded import ContainerName, Text
from checkpoint.engines import left_behind
from checkpoint.engines.base import Container
from checkpoint.engines.docker import store as docker
from checkpoint.engines.podman import store as podman
from checkpoint.engines.store import Store
from checkpoint.host.identity import PathRecord
from checkpoint.host.processes import ENDED, state_of
from checkpoint.schema import Pattern
from checkpoint.undo import Made

STORES: dict[str, Store] = {"podman": podman, "docker": docker}
EngineName = Annotated[str, Pattern("podman|docker")]
#: The id of a container or network, which its engine gives only once.
ObjectId = Annotated[str, Pattern("[0-9a-f]{12,64}")]


class MadeContainer(Made):
    """A container of an engine, running or not."""

    engine: EngineName
    id: ObjectId

    def __str__(self) -> str:
        return f"{self.engine}'s container {self.id[:12]}"

    def remove(self) -> None:
        STORES[self.engine].remove_container(self.id)


class MadeNetwork(Made):
    """A network of an engine."""

    engine: EngineName
    id: ObjectId

    def __str__(self) -> str:
        return f"{self.engine}'s network {self.id[:12]}"

    def remove(self) -> None:
        store = STORES[self.engine]
        if store.network(self.id) is not None:
            store.remove_network(self.id)


class MadeVolume(Made):
    """A volume of an engine, known by its time of creation as its engine tells it.

    docker tells that time in seconds only, so the directory of the content, `root`, counts, too. A
    volume of a driver other than "local" need not have one on this host.
    """

    engine: EngineName
    name: ContainerName
    created: Text
    root: PathRecord | None

    def __str__(self) -> str:
        return f"{self.engine}'s volume {self.name!r}"

    def remove(self) -> None:
        store = STORES[self.engine]
        there = store.volume(self.name)
        if there is None or there["CreatedAt"] != self.created or store.users(self.name):
            return  # it is gone, another one, or somebody's by now
        if self.root is None or self.root.is_same():
            store.remove_volume(self.name)


class LeavingContainer(MadeContainer):
    """A container on the source that was killed because the target has it."""

    def remove(self) -> None:
        """Remove the container, unless it runs: then it came back, with the id that it had."""
        pid = STORES[self.engine].pid_of(self.id)
        if not pid or state_of(pid) in ENDED:
            super().remove()


class LeavingVolume(Made):
    """A volume on the source, whose content is out of date once the target has it."""

    engine: EngineName
    name: ContainerName

    def __str__(self) -> str:
        return f"{self.engine}'s volume {self.name!r}"

    def remove(self) -> None:
        """Record that the volume was left behind. It stays, and a move back overwrites it."""
        store = STORES[self.engine]
        volume = store.volume(self.name)
        if volume is not None and not store.users(self.name):
            left_behind.note(self.engine, self.name, volume["CreatedAt"])


def remaining(engine: str, container: Container) -> list[Made]:
    """Return what an engine has of a container that runs on the target (Engine.remaining)."""
    mounts = container.engine_state["Mounts"]
    volumes = sorted({mount["Name"] for mount in mounts if is_volume(mount)})
    return [
        LeavingContainer(engine=engine, id=container.id),
        *(LeavingVolume(engine=engine, name=name) for name in volumes),
    ]


def is_volume(mount: Mapping[str, Any]) -> bool:
    """Return whether a mount, as an engine describes it, is of a named volume."""
    return mount["Type"] == "volume" and bool(mount.get("Name"))
