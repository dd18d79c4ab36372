"""runc, whose state.json is libcontainer's State (libcontainer/container_linux.go)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from checkpoint.engines.oci.runtime import OciRuntime
from checkpoint.engines.shape import Maybe, Shape


class Runc(OciRuntime):
    """An Engine: the `runc` on PATH."""

    name = "runc"
    state_file = "state.json"
    internal: ClassVar[Shape] = {"config": {"cgroups": dict}, "external_descriptors": Maybe([str])}

    def __init__(self, root: Path = Path("/run/runc")) -> None:
        super().__init__(root)

    def _limits(self, pid: int, internal: dict[str, Any]) -> dict[str, Any]:
        return limits(internal["config"]["cgroups"])

    def _descriptors(self, internal: dict[str, Any]) -> tuple[str, ...]:
        return tuple(internal.get("external_descriptors") or ())


def limits(cgroups: dict[str, Any]) -> dict[str, Any]:
    """Return runc's own cgroup settings (libcontainer configs.Resources) as `linux.resources`.

    The result has limits that `runc update` can change, of memory, cpu and pids, if they are set.
    """
    names = {
        "memory": {"limit": "memory", "reservation": "memory_reservation", "swap": "memory_swap"},
        "cpu": {
            "shares": "cpu_shares",
            "quota": "cpu_quota",
            "period": "cpu_period",
            "cpus": "cpuset_cpus",
            "mems": "cpuset_mems",
        },
        "pids": {"limit": "pids_limit"},
    }
    found: dict[str, Any] = {}
    for section, fields in names.items():
        values = {oci: cgroups[own] for oci, own in fields.items() if cgroups.get(own)}
        if values:
            found[section] = values
    return found
