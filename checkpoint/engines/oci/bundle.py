"""The migration of a container that is a bundle and nothing else (OCI runtime spec, bundle.md).

The target takes such a container in by making the same bundle.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from checkpoint import schema
from checkpoint.engines import shape
from checkpoint.engines.base import MARKER, ROOTFS, Container
from checkpoint.engines.occupied import is_taken
from checkpoint.engines.oci import stdio
from checkpoint.engines.shape import Maybe, Shape
from checkpoint.errors import ImageError, NameInUse
from checkpoint.files.made import FilledDirectory, MadeDirectory, WrittenFile
from checkpoint.host import cgroups, ownership
from checkpoint.host.identity import PathRecord
from checkpoint.host.ownership import Owned
from checkpoint.undo import Made, Undo

CONFIG = "config.json"


class Restores(Protocol):
    """An OCI runtime, as far as IncomingBundle needs it (see OciRuntime)."""

    name: str

    def exists(self, container_id: str) -> bool: ...
    def made(self, container_id: str) -> Made: ...
    def restore(
        self,
        container_id: str,
        bundle: Path,
        images: Path,
        env: Mapping[str, str],
        stdio: tuple[int, int, int],
    ) -> subprocess.Popen[bytes]: ...


def describe(container: Container) -> dict[str, Any]:
    """Return the description, fit for JSON, from which the target makes the bundle.

    Its config.json has the limits in force now, which the runtime's `update` may have changed.
    Raises OSError.
    """
    config = json.loads(json.dumps(container.config))
    resources = config.setdefault("linux", {}).setdefault("resources", {})
    for section, values in container.resources.items():
        resources.setdefault(section, {}).update(values)
    return {
        "bundle": str(container.bundle),
        "rootfs": str(container.rootfs),
        "config": config,
        "descriptors": list(container.descriptors),
        "owned": ownership.along(container.bundle / CONFIG, container.rootfs),
    }


#: What IncomingBundle reads of what `describe` returns.
DESCRIPTION: Shape = {
    "bundle": str,
    "rootfs": str,
    "descriptors": [str],
    "config": {"root": {"path": str}, "linux": {"cgroupsPath": Maybe(str)}},
    "owned": dict,
}


class IncomingBundle:
    """An IncomingContainer of a container that is a bundle.

    What the container prints on the target goes to a log of this tool's (stdio.py), because it is
    unknown where the output went on the source.
    """

    keeps_files = True

    def __init__(
        self,
        runtime: Restores,
        container_id: str,
        fields: Mapping[str, Any],
        undo: Undo,
    ) -> None:
        shape.check(fields, DESCRIPTION, "what the source told of the container")
        self._runtime, self._id, self._undo = runtime, container_id, undo
        self._bundle, self._rootfs = Path(fields["bundle"]), Path(fields["rootfs"])
        self._config, self._descriptors = fields["config"], fields["descriptors"]
        self._owned = schema.read(Mapping[str, Owned], fields["owned"])
        self._cgroups = cgroups.Hierarchies(self._config["linux"].get("cgroupsPath") or "")

    def objections(self) -> list[str]:
        return []

    def volumes(self) -> list[str]:
        return []

    def layers_there(self) -> list[str] | None:
        return None

    def load_image(self, directory: Path) -> None:
        """Do nothing: the container has no container image."""

    def prepare(self, packed: bytes, *, shared: bool) -> dict[str, Path]:
        made = ownership.Maker(self._owned)
        for directory in (self._bundle, self._rootfs):
            if not shared and is_taken(directory, self._bundle):
                raise ImageError(
                    f"{directory} came into being on the target, with other files in it"
                )
            if directory.exists() and not any(directory.iterdir()):
                self._undo.made(FilledDirectory(path=PathRecord.of(directory)))
            for missing in made.missing(directory):
                made.directory(missing)
                whole = missing == directory
                self._undo.made(MadeDirectory(path=PathRecord.of(missing), whole=whole))
        config = self._bundle / CONFIG
        self._undo.made(WrittenFile.about_to_be(config))
        if not shared:
            ownership.mark(self._bundle / MARKER)
            self._undo.passing(
                WrittenFile(directory=PathRecord.of(self._bundle), name=MARKER, before=None)
            )
        made.file(config, json.dumps(self._config).encode())
        return {ROOTFS: self._rootfs}

    def take_output(self, lines: bytes) -> None:
        """Do nothing: the source sends no output, because the container has no known log."""

    def start_restore(
        self, directory: Path, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        if self._runtime.exists(self._id):
            raise NameInUse(
                f"a {self._runtime.name} container named {self._id!r} was started"
                " on the target meanwhile"
            )
        self._cgroups.look()
        (images / "descriptors.json").write_text(json.dumps(self._descriptors))
        streams = stdio.rebuild(self._id, self._descriptors)
        try:
            return self._runtime.restore(self._id, self._bundle, images, env, streams)
        finally:
            for fd in streams:
                os.close(fd)

    def restore_held(self) -> None:
        self._undo.made(self._cgroups.made())
        self._undo.made(self._runtime.made(self._id))

    def check_held(self) -> None:
        return  # the end of the engine's restore is all there is to see

    def handover(self) -> tuple[None, list[int]]:
        return None, []

    def settle(self) -> None:
        """Do nothing: a runtime has the container since it was restored."""
