"""runc, driven by its command line. State it does not print is read from its state.json."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoint.errors import CommandFailed, ContainerNotFound, ContainerNotRunning
from checkpoint.host.run import run, start
from checkpoint.runtimes.base import Container

STATE_ROOT = Path("/run/runc")
DUMP_OPTIONS = ("--tcp-established", "--file-locks")


class Runc:
    """ContainerRuntime over the `runc` on PATH."""

    name = "runc"

    def exists(self, container_id: str) -> bool:
        # Not Path.exists: a name too long for a file name is an error to it before Python 3.12.
        return os.path.exists(STATE_ROOT / container_id / "state.json")

    def inspect(self, container_id: str) -> Container:
        if "/" in container_id or not self.exists(container_id):
            raise ContainerNotFound(f"runc knows no container named {container_id!r}")
        try:
            state = json.loads(run(["runc", "state", container_id]))
        except CommandFailed as error:
            raise ContainerNotFound(f"runc has no usable state of {container_id!r}: {error.stderr}") from error
        if state["status"] != "running":
            raise ContainerNotRunning(f"container {container_id!r} is {state['status']}")
        internal = json.loads((STATE_ROOT / container_id / "state.json").read_text())
        bundle = Path(state["bundle"])
        return Container(
            id=container_id,
            pid=state["pid"],
            bundle=bundle,
            rootfs=Path(state["rootfs"]),
            config=json.loads((bundle / "config.json").read_text()),
            resources=limits(internal["config"]["cgroups"]),
            descriptors=tuple(internal.get("external_descriptors") or ()),
        )

    def checkpoint(self, container_id: str, images: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        argv = ["runc", "checkpoint", "--image-path", str(images), "--work-path", str(images), *DUMP_OPTIONS]
        return start([*argv, container_id], env=env, stderr=subprocess.PIPE)

    def restore(
        self, container_id: str, bundle: Path, images: Path, env: Mapping[str, str], stdio: tuple[int, int, int]
    ) -> subprocess.Popen[bytes]:
        # runc's own messages go to a file: its stderr belongs to the container.
        argv = ["runc", "--log", str(images / "runc.log"), "restore", "--detach", "--bundle", str(bundle)]
        argv += ["--image-path", str(images), "--work-path", str(images), *DUMP_OPTIONS, container_id]
        return start(argv, env=env, stdin=stdio[0], stdout=stdio[1], stderr=stdio[2])

    def delete(self, container_id: str) -> None:
        if self.exists(container_id):
            run(["runc", "delete", "--force", container_id])


def limits(cgroups: dict[str, Any]) -> dict[str, Any]:
    """runc's own cgroup settings (libcontainer configs.Resources) as OCI `linux.resources`.

    Only what `runc update` can change; everything else is as config.json has it. Unset is left out.
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
