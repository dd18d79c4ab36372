"""Objects of podman and docker that a migration makes on the target, and that can be removed."""

from __future__ import annotations

from typing import Annotated

from checkpoint.bounded import ContainerName, Text
from checkpoint.engines.docker import store as docker
from checkpoint.engines.podman import store as podman
from checkpoint.engines.store import Store
from checkpoint.host.identity import PathRecord
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
