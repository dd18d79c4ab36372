"""crun. What it knows of a container is in its file `status` (src/libcrun/status.c)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from checkpoint.host import cgroups
from checkpoint.runtimes.oci import OciRuntime


class Crun(OciRuntime):
    """ContainerRuntime over the `crun` on PATH."""

    name = "crun"
    state_file = "status"

    def __init__(self, root: Path = Path("/run/crun")) -> None:
        super().__init__(root)

    def _limits(self, pid: int, internal: dict[str, Any]) -> dict[str, Any]:
        return cgroups.limits(pid)  # it keeps no record of what `update` changed

    def _descriptors(self, internal: dict[str, Any]) -> tuple[str, ...]:
        return tuple(json.loads(internal["external_descriptors"] or "[]"))
