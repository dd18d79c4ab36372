"""The networks and volumes that a container of podman or docker needs from its engine.

Both engines describe mounts and volumes alike. Where they differ, the code is in podman/store.py
and docker/store.py.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from checkpoint.engines import left_behind
from checkpoint.engines.base import Container, Tree
from checkpoint.engines.left_behind import LeftBehind
from checkpoint.engines.made import MadeNetwork, MadeVolume, is_volume
from checkpoint.engines.shape import Each, Maybe, Shape
from checkpoint.engines.store import Store
from checkpoint.errors import EngineRefused, NotMovable
from checkpoint.host.identity import PathRecord
from checkpoint.host.run import start
from checkpoint.undo import Undo

#: The members that are read of a mount, in an engine's description of a container.
MOUNT: Shape = {
    "Type": str,
    "Destination": str,
    "Source": Maybe(str),
    "Name": Maybe(str),
    "Driver": Maybe(str),
}
#: The members that are read of a volume, in the description of either engine.
VOLUME: Shape = {
    "Name": str,
    "Driver": str,
    "Options": Maybe(Each(str)),
    "Labels": Maybe(Each(str)),
}
SHM = "/dev/shm"  # noqa: S108  (of the container)


def volumes_of(found: Mapping[str, Any]) -> dict[str, str]:
    """Return {destination: name} of a container's volumes.

    `found` is the container as its engine describes it.
    """
    return {mount["Destination"]: mount["Name"] for mount in found["Mounts"] if is_volume(mount)}


def trees_of(found: Mapping[str, Any], beneath: Container) -> list[Tree]:
    """Return the trees that are a container's local volumes, and its /dev/shm.

    `found` is the container as its engine describes it, `beneath` as its OCI runtime does. /dev/shm
    is a tree only if the engine has bind-mounted it.
    """
    trees = [
        Tree(destination=mount["Destination"], root=Path(mount["Source"]))
        for mount in found["Mounts"]
        if is_volume(mount) and mount.get("Source") and mount.get("Driver") == "local"
    ]
    if SHM in beneath.bind_mounts:
        trees.append(Tree(destination=SHM, root=Path(beneath.bind_mounts[SHM]["source"])))
    return trees


def described(
    engine: str, store: Store, found: Mapping[str, Any], networks: Iterable[str]
) -> dict[str, Any]:
    """Return the part of a container's description that Belongings takes on the target.

    `found` is the container as its engine describes it, `networks` has the names of its networks.
    Raises EngineRefused, also when the engine has a network or volume of the container no longer.
    Raises NotMovable when another container has one of the volumes: afterwards each of the two
    would write to a copy of its own.
    """
    volumes = volumes_of(found)
    parts = {
        "networks": {name: store.network(name) for name in networks},
        "volumes": {at: store.volume(name) for at, name in volumes.items()},
    }
    for name, network in parts["networks"].items():
        if network is None:
            raise EngineRefused(f"{engine} has no network {name!r} any more, which it uses")
    for at, volume in parts["volumes"].items():
        if volume is None:
            raise EngineRefused(f"{engine} has no volume {volumes[at]!r} any more, which it uses")
        if others := store.users(volumes[at]) - {found["Id"]}:
            raise NotMovable(
                f"volume {volumes[at]!r} is also used by container {min(others)[:12]}; give each of"
                " them a volume of its own, or remove that container"
            )
    return parts


def layers_of(store: Store, image: str) -> list[str]:
    """Return the DiffIDs of a container image, lowest first; [] if this host does not have it."""
    found = store.image(image)
    return list(found["RootFS"]["Layers"] or []) if found else []


def start_logged(
    argv: Sequence[str], images: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start an engine's command, with its standard error appended to `images`/engine.log.

    Raises CommandFailed when the command cannot be started, and OSError.
    """
    output = os.open(
        images / "engine.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    try:
        return start(argv, env=env, stderr=output)
    finally:
        os.close(output)


class Belongings:
    """The networks and volumes of an incoming container, on the target.

    `networks` has the networks by name, and `volumes` the volumes by destination, as the engine on
    the source describes them. `store` is the engine on the target.
    """

    def __init__(
        self, engine: str, store: Store, networks: Mapping[str, Any], volumes: Mapping[str, Any]
    ) -> None:
        self._engine, self._store = engine, store
        self._networks, self._volumes = networks, volumes

    def volumes(self) -> list[str]:
        """Return the names of the volumes, sorted."""
        return sorted({volume["Name"] for volume in self._volumes.values()})

    def objections(self) -> Iterator[str]:
        """Yield why the target cannot provide networks or volumes, for people. Changes nothing."""
        for name, network in self._networks.items():
            there = self._store.network(name)
            if there is not None and (what := self._store.difference(network, there)):
                yield (
                    f"{self._engine}'s network {name!r} is another one there:"
                    f" its {what} is {there.get(what)!r}"
                )
        for volume in self._volumes.values():
            name = volume["Name"]
            if (there := self._store.volume(name)) is None:
                continue
            if self._store.users(name):
                yield f"{self._engine}'s volume {name!r} is used there by another container"
            elif not left_behind.is_noted(self._engine, name, there["CreatedAt"]):
                yield f"{self._engine}'s volume {name!r} is there already, and no move has left it"

    def make(self, undo: Undo) -> dict[str, Path]:
        """Make the networks and volumes that the target lacks, and enter them in `undo`.

        Returns {destination: directory of the content} of all volumes. Raises EngineRefused if
        `objections` has any now: another network or volume of the name may have been made since the
        last call.
        """
        for objection in self.objections():
            raise EngineRefused(objection)
        for name, network in self._networks.items():
            if self._store.network(name) is None:
                undo.made(MadeNetwork(engine=self._engine, id=self._store.create_network(network)))
        for name in self.volumes():  # they are no longer left behind once the container uses them
            undo.passing(LeftBehind(engine=self._engine, volume=name))
        return {at: self._volume(volume, undo) for at, volume in self._volumes.items()}

    def _volume(self, wanted: Mapping[str, Any], undo: Undo) -> Path:
        name = wanted["Name"]
        there = self._store.volume(name)
        if there is not None:
            return Path(there["Mountpoint"])
        root = self._store.create_volume(wanted)
        made = self._store.volume(name)
        if made is not None:  # somebody may have removed it meanwhile
            undo.made(
                MadeVolume(
                    engine=self._engine,
                    name=name,
                    created=made["CreatedAt"],
                    root=PathRecord.of(root) if root.is_dir() else None,
                )
            )
        return root
