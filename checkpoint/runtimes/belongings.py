"""What a container has of its engine beside itself, networks and volumes: the same for podman and docker.

Their inspections name mounts alike; what differs is in podman_store.py and docker_store.py.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from checkpoint.errors import EngineRefused
from checkpoint.host.identity import Identity, PathIdentity, RecordIdentity
from checkpoint.host.run import start
from checkpoint.runtimes import left_behind
from checkpoint.runtimes.base import Container, Tree
from checkpoint.runtimes.shape import Each, Maybe, Shape

#: What is needed of a mount of an inspected container.
MOUNT: Shape = {
    "Type": str,
    "Destination": str,
    "Source": Maybe(str),
    "Name": Maybe(str),
    "Driver": Maybe(str),
}
#: And of a volume, as both engines tell it.
VOLUME: Shape = {
    "Name": str,
    "Driver": str,
    "Options": Maybe(Each(str)),
    "Labels": Maybe(Each(str)),
}
SHM = "/dev/shm"  # noqa: S108  (of the container)


class Store(Protocol):
    """An engine's networks, volumes and images on this host."""

    def network(self, name: str) -> dict[str, Any] | None: ...
    def difference(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None: ...
    def create_network(self, wanted: Mapping[str, Any]) -> str: ...
    def remove_network(self, network_id: str) -> None: ...
    def volume(self, name: str) -> dict[str, Any] | None: ...
    def is_used(self, name: str) -> bool: ...
    def create_volume(self, wanted: Mapping[str, Any]) -> Path: ...
    def remove_volume(self, name: str) -> None: ...
    def image(self, name: str) -> dict[str, Any] | None: ...


def volumes_of(found: Mapping[str, Any]) -> dict[str, str]:
    """{destination: name} of the volumes of an inspected container."""
    return {mount["Destination"]: mount["Name"] for mount in found["Mounts"] if _is_volume(mount)}


def trees_of(found: Mapping[str, Any], beneath: Container) -> list[Tree]:
    """Its volumes whose files are on this host, and a /dev/shm that the engine has mounted."""
    trees = [
        Tree(destination=mount["Destination"], root=Path(mount["Source"]))
        for mount in found["Mounts"]
        if _is_volume(mount) and mount.get("Source") and mount.get("Driver") == "local"
    ]
    if SHM in beneath.bind_mounts:
        trees.append(Tree(destination=SHM, root=Path(beneath.bind_mounts[SHM]["source"])))
    return trees


def _is_volume(mount: Mapping[str, Any]) -> bool:
    return mount["Type"] == "volume" and bool(mount.get("Name"))


def layers_of(store: Store, image: str) -> list[str]:
    """The DiffIDs of an image; none if it is not here."""
    found = store.image(image)
    return list(found["RootFS"]["Layers"] or []) if found else []


def left(engine: str, store: Store, found: Mapping[str, Any]) -> None:
    """Its container runs elsewhere: what its volumes hold here is old."""
    for name in volumes_of(found).values():
        if (volume := store.volume(name)) is not None:
            left_behind.note(engine, name, volume["CreatedAt"])


def start_logged(
    argv: Sequence[str], images: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start an engine's command; what it complains of is in `images`/engine.log."""
    output = os.open(
        images / "engine.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    try:
        return start(argv, env=env, stderr=output)
    finally:
        os.close(output)


class Belongings:
    """Those of a container on its way in. `networks` by name and `volumes` by destination, as the source tells them."""

    def __init__(
        self, engine: str, store: Store, networks: Mapping[str, Any], volumes: Mapping[str, Any]
    ) -> None:
        self._engine, self._store = engine, store
        self._networks, self._volumes = networks, volumes

    def volumes(self) -> list[str]:
        """Names of the volumes."""
        return sorted({volume["Name"] for volume in self._volumes.values()})

    def objections(self) -> Iterator[str]:
        """Why they cannot be had here. Changes nothing."""
        for name, network in self._networks.items():
            there = self._store.network(name)
            if there is not None and (what := self._store.difference(network, there)):
                yield f"{self._engine}'s network {name!r} is another one there: its {what} is {there.get(what)!r}"
        for volume in self._volumes.values():
            name = volume["Name"]
            if (there := self._store.volume(name)) is None:
                continue
            if self._store.is_used(name):
                yield f"{self._engine}'s volume {name!r} is used there by another container"
            elif not left_behind.is_noted(self._engine, name, there["CreatedAt"]):
                yield f"{self._engine}'s volume {name!r} is there already, and no move has left it"

    def make(self, undo: contextlib.ExitStack) -> dict[str, Path]:
        """Make those that are not here. Returns where the content of each volume goes, by destination.

        Raises EngineRefused when there is an objection now: one of another kind may have been made since they were
        asked for.
        """
        for objection in self.objections():
            raise EngineRefused(objection)
        for name, network in self._networks.items():
            if self._store.network(name) is None:
                undo.callback(self._store.remove_network, self._store.create_network(network))
        return {at: self._volume(volume, undo) for at, volume in self._volumes.items()}

    def settle(self) -> None:
        """The container runs here: its volumes are in use again."""
        for volume in self._volumes.values():
            left_behind.forget(self._engine, volume["Name"])

    def _volume(self, wanted: Mapping[str, Any], undo: contextlib.ExitStack) -> Path:
        name = wanted["Name"]
        there = self._store.volume(name)
        if there is not None:
            return Path(there["Mountpoint"])
        root = self._store.create_volume(wanted)
        created = RecordIdentity(lambda: (self._store.volume(name) or {}).get("CreatedAt"))
        # docker tells only the second. Volumes of other drivers than "local" need not have a directory on this host.
        undo.callback(
            self._remove_volume, name, [created, *([PathIdentity(root)] if root.is_dir() else [])]
        )
        return root

    def _remove_volume(self, name: str, made: Sequence[Identity]) -> None:
        if all(identity.is_same() for identity in made):
            self._store.remove_volume(name)
