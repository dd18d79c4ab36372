"""The engines that the tool drives, by name."""

from __future__ import annotations

from collections.abc import Callable

from checkpoint.engines.base import Engine
from checkpoint.engines.docker.engine import Docker
from checkpoint.engines.oci.crun import Crun
from checkpoint.engines.oci.runc import Runc
from checkpoint.engines.podman.engine import Podman
from checkpoint.errors import ContainerNotFound, EngineRefused

ENGINES: dict[str, Callable[[], Engine]] = {
    "podman": Podman,
    "docker": Docker,
    "runc": Runc,
    "crun": Crun,
}


def engine_named(name: str) -> Engine:
    """Return the engine of that name. Raises ContainerNotFound if the tool drives none."""
    if name not in ENGINES:
        raise ContainerNotFound(f"no engine named {name!r} is supported")
    return ENGINES[name]()


def owners_of(container_name: str) -> tuple[list[Engine], dict[str, str]]:
    """Return the engines of this host that have a container of that name.

    The second result has, by name, the errors of the engines that could not be asked, for people.
    """
    owners, silent = [], {}
    for name, make in ENGINES.items():
        try:
            if (engine := make()).exists(container_name):
                owners.append(engine)
        except EngineRefused as error:
            silent[name] = str(error)
    return owners, silent
