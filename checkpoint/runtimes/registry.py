"""The runtimes by name."""

from __future__ import annotations

from checkpoint.errors import ContainerNotFound
from checkpoint.runtimes.base import ContainerRuntime
from checkpoint.runtimes.runc import Runc

RUNTIMES: dict[str, type[ContainerRuntime]] = {"runc": Runc}


def runtime_named(name: str) -> ContainerRuntime:
    """Raises ContainerNotFound for a runtime this tool does not drive."""
    if name not in RUNTIMES:
        raise ContainerNotFound(f"no runtime named {name!r} is supported")
    return RUNTIMES[name]()
