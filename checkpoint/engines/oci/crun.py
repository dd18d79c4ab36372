"""crun, which keeps its knowledge of a container in a file `status` (src/libcrun/status.c)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from checkpoint.engines import shape
from checkpoint.engines.oci.runtime import OciRuntime
from checkpoint.engines.shape import Maybe, Shape
from checkpoint.host import cgroups


class Crun(OciRuntime):
    """An Engine: the `crun` on PATH."""

    name = "crun"
    state_file = "status"
    internal: ClassVar[Shape] = {"external_descriptors": Maybe(str)}

    def __init__(self, root: Path = Path("/run/crun")) -> None:
        super().__init__(root)

    def _limits(self, pid: int, internal: dict[str, Any]) -> dict[str, Any]:
        return cgroups.limits(pid)  # crun keeps no record of what `update` changed

    def _descriptors(self, internal: dict[str, Any]) -> tuple[str, ...]:
        return tuple(
            shape.parse(
                internal.get("external_descriptors") or "[]", [str], "crun's external_descriptors"
            )
        )
